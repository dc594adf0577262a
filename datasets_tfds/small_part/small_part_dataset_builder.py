"""Small parts, one of the two private data sets of RADL (Tang and Jung 2023)."""

from datasets_tfds.layout import Counts, LayoutBuilder, categories

PUBLISHED = {"small_part": Counts(200, 50, 50)}  # training images, normal and anomalous test images

_HOW = (
    "expected small_part/train/good, small_part/test/good, small_part/test/DEFECT and, if you have masks, "
    "small_part/ground_truth/DEFECT; the photographs belong to the authors of RADL "
    "(doi.org/10.1109/ACCESS.2023.3324314) and are not published: set config.dataset.manual_dir to the folder that you "
    "got from them"
)


class Builder(LayoutBuilder):
    """TFDS builder; one category. Masks are optional, since the paper shows none."""

    HOMEPAGE = "https://doi.org/10.1109/ACCESS.2023.3324314"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The photographs are private: {_HOW}."
    BUILDER_CONFIGS = categories(PUBLISHED)
    PUBLISHED = PUBLISHED
    HOW = _HOW
    EVERY_DEFECT_HAS_A_MASK = False
