"""DTD: Describable Textures Dataset (Cimpoi et al. 2014), whose textures fill synthetic defects."""

import sys
from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.archives import Source, raw_folder
from datasets_tfds.core import Photograph, PhotographBuilder, check_counts, image_id, images_in
from jaxad.errors import UserError

# fmt: off
TEXTURES = (
    "banded", "blotchy", "braided", "bubbly", "bumpy", "chequered", "cobwebbed", "cracked", "crosshatched",
    "crystalline", "dotted", "fibrous", "flecked", "freckled", "frilly", "gauzy", "grid", "grooved", "honeycombed",
    "interlaced", "knitted", "lacelike", "lined", "marbled", "matted", "meshed", "paisley", "perforated", "pitted",
    "pleated", "polka-dotted", "porous", "potholed", "scaly", "smeared", "spiralled", "sprinkled", "stained",
    "stratified", "striped", "studded", "swirly", "veined", "waffled", "woven", "wrinkled", "zigzagged",
)
# fmt: on
PUBLISHED = {"classes": 47, "textures": 5640}

ARCHIVE = Source(
    file="dtd-r1.0.1.tar.gz",
    url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
    pages="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
)
_HOW = (
    f"get {ARCHIVE.file} (0.6 GB) from {ARCHIVE.url} and set config.dataset.manual_dir to the folder that holds it "
    "or its content, images/CLASS/CLASS_NNNN.jpg with 47 classes from banded to zigzagged"
)

# TFDS has a builder of this name, with other splits; where a program has loaded it, this one is not found by name.
_NAME_IS_TAKEN = "tensorflow_datasets.image_classification.dtd" in sys.modules


class Builder(PhotographBuilder, skip_registration=_NAME_IS_TAKEN):
    """TFDS builder; one split, `train`, with every texture. All are normal, since there are no defects."""

    HOMEPAGE = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Downloaded automatically, or by hand: {_HOW}."
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="dtd", description="All textures.")]  # noqa: RUF012
    FACTORS = {"texture": tfds.features.Text(doc="The class, for instance polka-dotted.")}  # noqa: RUF012

    def photographs(self, manual_dir: Path | None):
        root = raw_folder("dtd", manual_dir, Path(self.data_dir_root) / "downloads", is_root, ARCHIVE, _HOW)
        photographs = []
        for texture in TEXTURES:
            images = images_in(root / "images" / texture)
            if not images:
                raise UserError(f"dtd: no image in {root / 'images' / texture}; {_HOW}")
            photographs += [Photograph(f, image_id(f, root), 0, "good", factors={"texture": texture}) for f in images]
        check_counts("dtd", {"classes": len(TEXTURES), "textures": len(photographs)}, PUBLISHED)
        return {"train": photographs}


def is_root(folder: Path) -> bool:
    """Whether a folder holds the textures, or some of them."""
    return any((folder / "images" / texture).is_dir() for texture in TEXTURES)
