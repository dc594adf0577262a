"""MVTec AD: 15 industrial objects and textures (Bergmann et al. 2019), with pixel masks."""

from datasets_tfds.archives import Source
from datasets_tfds.layout import Counts, LayoutBuilder, categories

# Training images, normal and anomalous test images.
PUBLISHED = {
    "bottle": Counts(209, 20, 63),
    "cable": Counts(224, 58, 92),
    "capsule": Counts(219, 23, 109),
    "carpet": Counts(280, 28, 89),
    "grid": Counts(264, 21, 57),
    "hazelnut": Counts(391, 40, 70),
    "leather": Counts(245, 32, 92),
    "metal_nut": Counts(220, 22, 93),
    "pill": Counts(267, 26, 141),
    "screw": Counts(320, 41, 119),
    "tile": Counts(230, 33, 84),
    "toothbrush": Counts(60, 12, 30),
    "transistor": Counts(213, 60, 40),
    "wood": Counts(247, 19, 60),
    "zipper": Counts(240, 32, 119),
}

_PAGES = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
_HOW = (
    "expected CATEGORY/train/good, CATEGORY/test/good, CATEGORY/test/DEFECT and masks CATEGORY/ground_truth/DEFECT/"
    f"NNN_mask.png; get mvtec_anomaly_detection.tar.xz from {_PAGES} (a form asks who you are) and put it into the "
    "folder that config.dataset.manual_dir names, or unpack it there"
)


class Builder(LayoutBuilder):
    """TFDS builder; one config per category. Any mask value above 0 is a defect."""

    HOMEPAGE = _PAGES
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The photographs are not downloaded automatically: {_HOW}."
    BUILDER_CONFIGS = categories(PUBLISHED)
    PUBLISHED = PUBLISHED
    SOURCE = Source("mvtec_anomaly_detection.tar.xz", pages=_PAGES)
    HOW = _HOW
