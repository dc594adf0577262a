"""BTAD: close-ups of three industrial products (Mishra et al. 2021), with pixel masks."""

from datasets_tfds.archives import Source
from datasets_tfds.layout import Counts, LayoutBuilder, categories

# Training images, normal and anomalous test images.
PUBLISHED = {
    "01": Counts(400, 21, 49),
    "02": Counts(399, 30, 200),
    "03": Counts(1000, 400, 41),
}

_URL = "https://avires.dimi.uniud.it/papers/btad/btad.zip"
_HOW = (
    "expected 01, 02 and 03, each with train/ok, test/ok, test/ko and ground_truth/ko with a mask for each image of "
    f"test/ko; get btad.zip (1.2 GB) from {_URL} and put it into the folder that config.dataset.manual_dir "
    "names, or unpack it there"
)


class Builder(LayoutBuilder):
    """TFDS builder; one config per product. Any mask value above 0 is a defect."""

    HOMEPAGE = "https://github.com/pankajmishra000/VT-ADL"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"A download is tried first; if it fails: {_HOW}."
    BUILDER_CONFIGS = categories(PUBLISHED)
    PUBLISHED = PUBLISHED
    SOURCE = Source("btad.zip", _URL, _URL)
    HOW = _HOW
    NORMAL = "ok"
