"""CVC-ColonDB: frames of colonoscopies that show polyps, with masks (Bernal et al. 2012)."""

from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.core import PhotographBuilder
from datasets_tfds.paired_folders import paired_photographs

_FOLDERS = (("images", "masks"),)
_HOW = (
    "get it from its authors (vi.cvc.uab.es/colon-qa/cvccolondb) and set config.dataset.manual_dir to the folder with "
    "images and masks, 380 files with the same names in each"
)


class Builder(PhotographBuilder):
    """TFDS builder; one category and one split, `test`: every image is anomalous."""

    HOMEPAGE = "http://vi.cvc.uab.es/colon-qa/cvccolondb/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The images are not downloaded automatically: {_HOW}."
    mask_threshold = 127
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="cvc_colondb", description="All frames.")]  # noqa: RUF012

    def photographs(self, manual_dir: Path | None):
        downloads = Path(self.data_dir_root) / "downloads"
        return paired_photographs("cvc_colondb", manual_dir, downloads, _FOLDERS, "polyp", 380, _HOW)
