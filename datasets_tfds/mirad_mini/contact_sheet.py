"""A generated folder on one page: one column per node, two rows per family, outlines around defects.

python -m datasets_tfds.mirad_mini.contact_sheet FOLDER docs/mirad_mini.jpg
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from datasets_tfds.mirad.factors import read_factors
from datasets_tfds.mirad_mini.imaging import NODES
from datasets_tfds.mirad_mini.mirad_mini_dataset_builder import GeneratedBuilder
from datasets_tfds.mirad_mini.products import FAMILIES
from jaxad.errors import UserError

SIDE = 200  # pixels of one picture
OUTLINE = (255, 0, 200)


def contact_sheet(folder: Path) -> Image.Image:
    """The first normal and the first anomalous test image that each node took of each family, side by side.

    Raises:
      UserError: a family, or an image of a node, is missing.
    """
    rows = []
    for family in FAMILIES:
        factors = read_factors(folder / family, GeneratedBuilder.FACTORS)
        for kind in ("good", "anomaly"):
            images = [name for name in sorted(factors) if name.startswith(f"test/{kind}/")]
            row = []
            for node in NODES:
                found = next((name for name in images if factors[name]["node"] == str(node)), None)
                if found is None:
                    raise UserError(f"{folder / family} has no image test/{kind} of node {node}; generate more images")
                row.append(_picture(folder / family, found))
            rows.append(np.concatenate(row, axis=1))
    return Image.fromarray(np.concatenate(rows))


def _picture(category: Path, name: str) -> np.ndarray:
    picture = np.array(Image.open(category / name).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    mask = category / "ground_truth" / "anomaly" / f"{Path(name).stem}_mask.png"
    if "anomaly" in name:
        defect = np.asarray(Image.open(mask).resize((SIDE, SIDE))) > 127
        near, around = (np.asarray(ndimage.binary_dilation(defect, iterations=n), bool) for n in (1, 2))
        picture[around & ~near] = OUTLINE
    return picture


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1])).save(sys.argv[2], quality=88)
