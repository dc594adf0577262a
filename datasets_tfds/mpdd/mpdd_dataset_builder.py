"""MPDD: painted metal parts, several in a frame, in varying poses (Jezek et al. 2021), with pixel masks."""

from datasets_tfds.archives import Source
from datasets_tfds.layout import Counts, LayoutBuilder, categories

# Training images, normal and anomalous test images.
PUBLISHED = {
    "bracket_black": Counts(289, 32, 47),
    "bracket_brown": Counts(185, 26, 51),
    "bracket_white": Counts(110, 30, 30),
    "connector": Counts(128, 30, 14),
    "metal_plate": Counts(54, 26, 71),
    "tubes": Counts(122, 32, 69),
}

_PAGES = "https://github.com/stepanje/MPDD"
_HOW = (
    "expected CATEGORY/train/good, CATEGORY/test/good, CATEGORY/test/DEFECT and masks CATEGORY/ground_truth/DEFECT/"
    f"NNN_mask.png; get MPDD.zip with a browser from the link at {_PAGES} and put it into the folder that "
    "config.dataset.manual_dir names, or unpack it there"
)


class Builder(LayoutBuilder):
    """TFDS builder; one config per part. Any mask value above 0 is a defect."""

    HOMEPAGE = _PAGES
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The photographs are not downloaded automatically: {_HOW}."
    BUILDER_CONFIGS = categories(PUBLISHED)
    PUBLISHED = PUBLISHED
    SOURCE = Source("MPDD.zip", pages=_PAGES)
    HOW = _HOW
