"""MTD: surface defects of magnetic tiles (Huang et al. 2020), with pixel masks."""

from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.core import (
    Photograph,
    PhotographBuilder,
    check_counts,
    every_fifth,
    folders_in,
    image_id,
    images_in,
    match_masks,
)
from jaxad.errors import UserError

DEFECTS = ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")
PUBLISHED = {"defect-free": 952, "defective": 392}

_HOW = (
    "get github.com/abin24/Magnetic-tile-defect-datasets. and set config.dataset.manual_dir to the folder that holds "
    f"MT_Free/Imgs, {', '.join(f'{d}/Imgs' for d in DEFECTS)}, each with NAME.jpg and its mask NAME.png"
)


class Builder(PhotographBuilder):
    """TFDS builder; one category. Masks are anti-aliased: values above 127 are defects."""

    HOMEPAGE = "https://github.com/abin24/Magnetic-tile-defect-datasets."
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The photographs are not downloaded automatically: {_HOW}."
    mask_threshold = 127
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="magnetic_tile", description="All tiles.")]  # noqa: RUF012

    def photographs(self, manual_dir: Path | None):
        root = self._raw_folder(manual_dir)
        normal, anomalous = [], []
        for name in ("MT_Free", *DEFECTS):
            folder = root / name / "Imgs"
            files = images_in(folder)
            images = [p for p in files if p.suffix.lower() != ".png"]
            if not images:
                raise UserError(f"magnetic_tile: no photograph (NAME.jpg) in {folder}; {_HOW}")
            if name == "MT_Free":
                normal = [Photograph(path, image_id(path, root), 0, "good") for path in images]
                continue
            masks = match_masks(images, folder, [p for p in files if p.suffix.lower() == ".png"], folder)
            anomalous += [
                Photograph(path, image_id(path, root), 1, name, mask) for path, mask in zip(images, masks, strict=True)
            ]
        check_counts("magnetic_tile", {"defect-free": len(normal), "defective": len(anomalous)}, PUBLISHED)
        test, train = every_fifth(normal)
        return {"train": train, "test": test + anomalous}

    def _raw_folder(self, manual_dir: Path | None) -> Path:
        """The folder that holds MT_Free: `manual_dir` or a folder in it."""
        if manual_dir is None:
            raise UserError(f"magnetic_tile: no raw data in {self.default_manual_dir}; {_HOW}")
        for folder in (manual_dir, *folders_in(manual_dir)):
            if (folder / "MT_Free").is_dir():
                return folder
        raise UserError(f"magnetic_tile: no folder MT_Free in {manual_dir}; {_HOW}")
