"""Data sets in MVTec AD's layout: `CATEGORY/train/good`, `CATEGORY/test/DEFECT`, `CATEGORY/ground_truth/DEFECT`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.archives import Source, find_root, letters, raw_folder
from datasets_tfds.core import (
    NORMAL_NAMES,
    Photograph,
    PhotographBuilder,
    check_counts,
    folders_in,
    image_id,
    images_in,
    match_masks,
)
from jaxad.errors import UserError

logger = logging.getLogger(__name__)

_PARTS = ("train", "test", "ground_truth")


@dataclass(frozen=True)
class Counts:
    """The published numbers of a category's images."""

    train: int
    good: int  # in the test set, like `defective`
    defective: int


def categories(published: Mapping[str, Counts]) -> list[tfds.core.BuilderConfig]:
    """One config per category."""
    return [tfds.core.BuilderConfig(name=name, description=f"The category {name}.") for name in published]


class LayoutBuilder(PhotographBuilder, skip_registration=True):
    """A builder of a published data set in this layout.

    Folder names may differ in case, spaces, hyphens and underscores; "ok" and "normal" are accepted for "good".

    Attributes:
      PUBLISHED: the numbers of images, by category.
      HOW: the end of error messages: what is expected, and how to get it.
      SOURCE: the archive; None where none was published.
      NORMAL: the published name of the folder of normal images.
      EVERY_DEFECT_HAS_A_MASK: whether a type of defect without any masks is an error, or merely a warning.
    """

    PUBLISHED: Mapping[str, Counts]
    HOW: str
    SOURCE: Source | None = None
    NORMAL = "good"
    EVERY_DEFECT_HAS_A_MASK = True

    def photographs(self, manual_dir: Path | None):
        return self.read_layout(self.category_folder(manual_dir))

    def category_folder(self, manual_dir: Path | None) -> Path:
        """The folder that holds the category's train and test.

        Raises:
          UserError: there is no raw data, or none of this category.
        """
        if manual_dir is not None:
            if _child(manual_dir, "train") and (
                len(self.PUBLISHED) == 1 or letters(manual_dir.name) == letters(self.category)
            ):
                return manual_dir
            if root := find_root(manual_dir, self.name, lambda folder: _has_category(folder, [self.category])):
                return self._needed(root, self.category)
        downloads = Path(self.data_dir_root) / "downloads"
        root = raw_folder(
            self.name, manual_dir, downloads, lambda f: _has_category(f, self.PUBLISHED), self.SOURCE, self.HOW
        )
        return self._needed(root, self.category)

    def read_layout(self, folder: Path) -> dict[str, list[Photograph]]:
        """The photographs of a category's folder, by split.

        Raises:
          UserError: a folder, the images in it or a mask is missing; the message names the first missing item.
        """
        train, test = self._needed(folder, "train"), self._needed(folder, "test")
        normal = [
            self._photographs_in(self._needed(part, self.NORMAL, *NORMAL_NAMES), folder, 0) for part in (train, test)
        ]
        if defective := [f for f in folders_in(train) if f.name.lower() not in NORMAL_NAMES and images_in(f)]:
            raise self._wrong(f"found images in {defective[0]}, expected training images in {self.NORMAL!r} only")
        anomalous: list[Photograph] = []
        for defect in folders_in(test):
            if defect.name.lower() not in NORMAL_NAMES:
                anomalous += self._anomalous_in(defect, folder)
        if not anomalous:
            raise self._wrong(f"no folder of defective images in {test}")
        if without := sum(not photograph.has_mask for photograph in anomalous):
            logger.warning(f"{self.name}/{self.category}: pixel metrics leave out {without} images without a mask")
        published = self.PUBLISHED[self.category]
        check_counts(
            f"{self.name}/{self.category}",
            {"training": len(normal[0]), "normal test": len(normal[1]), "anomalous test": len(anomalous)},
            {"training": published.train, "normal test": published.good, "anomalous test": published.defective},
        )
        return {"train": normal[0], "test": normal[1] + anomalous}

    def mask_folder(self, ground_truth: Path, defect: str) -> Path | None:
        """The folder with the masks of one type of defect; None where it is missing."""
        return _child(ground_truth, defect)

    def _anomalous_in(self, defect: Path, folder: Path) -> list[Photograph]:
        photographs = self._photographs_in(defect, folder, 1)
        ground_truth = _child(folder, "ground_truth") or folder / "ground_truth"
        masks_in = self.mask_folder(ground_truth, defect.name)
        masks = images_in(masks_in) if masks_in else []
        if not masks and not self.EVERY_DEFECT_HAS_A_MASK:
            return photographs
        if not ground_truth.is_dir():
            raise self._wrong(f"no folder ground_truth in {folder}")
        if masks_in is None or not masks:
            raise self._wrong(f"no mask in {masks_in or ground_truth / defect.name}")
        stems = {p.relative_to(masks_in).with_suffix("") for p in masks}
        stems |= {s.with_name(s.name.removesuffix("_mask")) for s in stems}
        for photograph in photographs:
            stem = photograph.path.relative_to(defect).with_suffix("")
            if stem not in stems:
                raise self._wrong(
                    f"no mask for {photograph.path}: expected {masks_in / stem}_mask.png or {stem.name}.png"
                )
        return [
            Photograph(p.path, p.image_id, 1, defect.name, mask)
            for p, mask in zip(
                photographs, match_masks([p.path for p in photographs], defect, masks, masks_in), strict=True
            )
        ]

    def _photographs_in(self, images: Path, folder: Path, label: int) -> list[Photograph]:
        paths = images_in(images)
        if not paths:
            raise self._wrong(f"no image in {images}")
        defect_type = images.name if label else "good"
        return [Photograph(path, image_id(path, folder.parent), label, defect_type) for path in paths]

    def _needed(self, folder: Path, *names: str) -> Path:
        """The folder in `folder` with the first of these names that is there."""
        for name in names:
            if found := _child(folder, name):
                return found
        raise self._wrong(f"no folder {names[0]!r} in {folder}")

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.name}/{self.category}: {what}; {self.HOW}")


def _child(folder: Path, name: str) -> Path | None:
    """The folder of that name in `folder`; else the first whose name has the same letters and digits."""
    if (folder / name).is_dir():
        return folder / name
    return next((f for f in folders_in(folder) if letters(f.name) == letters(name)), None)


def _has_category(folder: Path, names: Sequence[str] | Mapping[str, Counts]) -> bool:
    found = (_child(folder, name) for name in names)
    return any(category and any(_child(category, part) for part in _PARTS) for category in found)
