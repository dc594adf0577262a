"""CVC-ClinicDB: frames of colonoscopies that show polyps, with masks (Bernal et al. 2015)."""

from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.core import PhotographBuilder
from datasets_tfds.paired_folders import paired_photographs

_FOLDERS = (("Original", "Ground Truth"), ("images", "masks"))
_HOW = (
    "register at polyp.grand-challenge.org/CVCClinicDB and set config.dataset.manual_dir to the folder with Original "
    "and 'Ground Truth' (or images and masks), 612 files with the same names in each"
)


class Builder(PhotographBuilder):
    """TFDS builder; one category and one split, `test`: every image is anomalous."""

    HOMEPAGE = "https://polyp.grand-challenge.org/CVCClinicDB/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The images are not downloaded automatically: {_HOW}."
    mask_threshold = 127
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="cvc_clinicdb", description="All frames.")]  # noqa: RUF012

    def photographs(self, manual_dir: Path | None):
        downloads = Path(self.data_dir_root) / "downloads"
        return paired_photographs("cvc_clinicdb", manual_dir, downloads, _FOLDERS, "polyp", 612, _HOW)
