"""MIRAD: individualised products at six production sites (arXiv:2510.16370), with pixel masks."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from datasets_tfds.archives import Source
from datasets_tfds.core import images_in
from datasets_tfds.layout import Counts, LayoutBuilder, categories
from datasets_tfds.mirad.factors import FILE, IMAGING, read_factors, unknown
from jaxad.errors import UserError

# Training images, normal and anomalous test images (the paper's table of the data set).
PUBLISHED = {
    "building_block": Counts(262, 57, 158),
    "chain_buckle": Counts(197, 81, 141),
    "geometric_block": Counts(238, 55, 159),
    "geometric_button": Counts(290, 94, 188),
    "geometric_snowflake": Counts(215, 62, 163),
    "magnetic_block": Counts(268, 57, 204),
    "magnetic_bookmark": Counts(216, 48, 133),
    "number_block": Counts(254, 69, 151),
    "number_snowflake": Counts(230, 60, 236),
    "rabbit_pendant": Counts(228, 71, 204),
}

_DRIVE = "https://drive.google.com/file/d/1-4aMEtiTvk77Oo-oNW6WdPPuxpfHRKwq/view"
_HOW = (
    "expected CATEGORY/train/good, CATEGORY/test/good, CATEGORY/test/anomaly and CATEGORY/ground_truth with a mask for "
    f"each image of test/anomaly; get the archive from {_DRIVE} (linked from github.com/wu33learn/MIRAD) and put it "
    "into the folder that config.dataset.manual_dir names, or unpack it there"
)


class Builder(LayoutBuilder):
    """TFDS builder; one config per product.

    No labels of node, lighting, view or background are published: these features are empty unless the user adds a
    factors.csv to a category's folder.
    """

    HOMEPAGE = "https://github.com/wu33learn/MIRAD"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A download is tried first; if it fails: {_HOW}."
    BUILDER_CONFIGS = categories(PUBLISHED)
    FACTORS = IMAGING
    PUBLISHED = PUBLISHED
    SOURCE = Source("MIRAD.zip", _DRIVE, "https://github.com/wu33learn/MIRAD")
    HOW = _HOW

    def read_layout(self, folder: Path):
        factors = read_factors(folder)
        splits = super().read_layout(folder)
        return {
            split: [dataclasses.replace(p, factors=_factors_of(p.path, folder, factors)) for p in photographs]
            for split, photographs in splits.items()
        }

    def mask_folder(self, ground_truth: Path, defect: str) -> Path | None:
        """The defect's folder in ground_truth or ground_truth itself; the release does not say which has the masks."""
        below = super().mask_folder(ground_truth, defect)
        return below if below is not None and images_in(below) else ground_truth


def _factors_of(image: Path, folder: Path, factors: Mapping[str, Mapping[str, str | int | float]]):
    if not factors:
        return unknown()
    name = image.relative_to(folder).as_posix()
    if name not in factors:
        raise UserError(f"{folder / FILE} has no line for {name}; expected one for each image, or no such file")
    return factors[name]
