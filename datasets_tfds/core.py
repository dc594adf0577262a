"""What the builders share: finding photographs and masks in folders, checking them, writing them as a TFDS data set.

A builder lists its photographs (each a `Photograph` with its mask already matched); `PhotographBuilder` checks that
each one decodes and that its mask fits, and writes them in that order as ArrayRecord. TensorFlow is never imported.

The bytes of the photographs' files are stored unchanged; masks are binarised and stored as PNG, black where there is no
defect. `index.json`, beside the records, lists the labels of all examples by split, so that readers need not go through
the images.
"""

import abc
import functools
import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxad.errors import UserError
from jaxad.imaging.decoding import SUFFIXES, decode, decode_mask, encode_mask

logger = logging.getLogger(__name__)

NORMAL_NAMES = ("good", "ok", "normal")
INDEX_FILE = "index.json"

_EXAMPLES_PER_SHARD = 2000


@dataclass(frozen=True)
class Photograph:
    """One photograph of a split, before it is read.

    Attributes:
      path: the file.
      image_id: its path relative to the data set's root, "/" between parts.
      label: 0 normal, 1 anomalous.
      defect_type: the folder's name or the data set's own term; "good" for normal photographs.
      mask: the file with the defect's pixels; None for normal photographs and where no mask is known.
      factors: how it was taken and what it shows, keyed by the names in the builder's `FACTORS`.
    """

    path: Path
    image_id: str
    label: int
    defect_type: str
    mask: Path | None = None
    factors: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def has_mask(self) -> bool:
        """Whether the defect's pixels are known: always true for normal photographs, which have none."""
        return self.label == 0 or self.mask is not None


class PhotographBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A TFDS builder of photographs with labels and masks; one BuilderConfig per category.

    It is shard-based because TFDS's shuffling writer needs TensorFlow beyond 1 GB of examples. The examples keep the
    order of `photographs`.

    Besides TFDS's own ways to name a part of a split, `as_data_source` and `as_dataset` (and so `tfds.data_source` and
    `tfds.load`) accept `train[normal]` and `test[anomalous]`: the examples with that label, in order.

    Attributes:
      FACTORS: features that each example has besides the common ones; every Photograph must supply them.
      mask_threshold: mask values above it are defects; at least 127 for JPEG masks, whose black is not clean.
    """

    VERSION = tfds.core.Version("1.0.0")
    HOMEPAGE = ""
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012

    FACTORS: Mapping[str, Any] = {}
    mask_threshold = 0

    def __init__(self, *, file_format="array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)

    @property
    def default_manual_dir(self) -> Path:
        """Where TFDS looks for raw data when no manual_dir is given."""
        return Path(self.data_dir_root) / "downloads" / "manual"

    @property
    def category(self) -> str:
        """The category's name, which is the config's."""
        return str(self.builder_config_name)

    @abc.abstractmethod
    def photographs(self, manual_dir: Path | None) -> Mapping[str, Sequence[Photograph]]:
        """The photographs of each split: usually "train" and "test", and "validation" where the data set has one.

        Args:
          manual_dir: where the user put the raw data; None where that folder is missing or empty.

        Raises:
          UserError: the raw data is missing or not as expected.
        """

    def threshold(self, mask: Path) -> int:
        """The threshold for this mask file: values above it are defects."""
        return max(self.mask_threshold, 127) if mask.suffix.lower() in (".jpg", ".jpeg") else self.mask_threshold

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(doc="The photograph, encoded as its file was."),
                    "mask": tfds.features.Image(shape=(None, None, 1), doc="255 on defects, 0 elsewhere."),
                    "has_mask": np.bool_,
                    "label": tfds.features.ClassLabel(names=["normal", "anomalous"]),
                    "category": tfds.features.Text(),
                    "defect_type": tfds.features.Text(),
                    "image_id": tfds.features.Text(doc="Path relative to the root of the raw data."),
                    **self.FACTORS,
                }
            ),
            homepage=self.HOMEPAGE or None,
            disable_shuffling=True,
        )

    def as_data_source(self, split=None, **kwargs):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().as_data_source(self._resolved(split), **kwargs)  # pyright: ignore[reportCallIssue]

    def as_dataset(self, split=None, **kwargs):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().as_dataset(self._resolved(split), **kwargs)  # pyright: ignore[reportCallIssue]

    def _resolved(self, split: Any) -> Any:
        """The split with `NAME[normal]` and `NAME[anomalous]` replaced by ranges of examples."""
        if isinstance(split, str):
            return re.sub(r"(\w+)\[(normal|anomalous)\]", lambda found: self._ranges(found[1], found[2]), split)
        if isinstance(split, Mapping):
            return {name: self._resolved(one) for name, one in split.items()}
        return [self._resolved(one) for one in split] if isinstance(split, (list, tuple)) else split

    def _ranges(self, split: str, label: str) -> str:
        labels = read_index(Path(self.data_dir), split)["label"]
        ranges, start = [], 0
        for value, run in itertools.groupby(labels):
            end = start + len(list(run))
            if value == ("normal", "anomalous").index(label):
                ranges.append(f"{split}[{start}:{end}]")
            start = end
        return "+".join(ranges) or f"{split}[:0]"

    def _shard_iterators_per_split(self, dl_manager):
        try:
            manual_dir = Path(dl_manager.manual_dir) if self.MANUAL_DOWNLOAD_INSTRUCTIONS else None
        except AssertionError:  # TFDS's way of saying that the folder is missing or empty
            manual_dir = None
        splits = self.photographs(manual_dir)
        self._index: dict[str, dict[str, list[Any]]] = {}
        return {
            split: [
                functools.partial(self._examples, split, photographs[start : start + _EXAMPLES_PER_SHARD])
                for start in range(0, len(photographs), _EXAMPLES_PER_SHARD)
            ]
            for split, photographs in splits.items()
        }

    def _examples(self, split: str, photographs: Sequence[Photograph]) -> Iterator[tuple[str, dict[str, Any]]]:
        columns = ("image_id", "label", "defect_type", "has_mask", "size", *self.FACTORS)
        index = self._index.setdefault(split, {name: [] for name in columns})
        description = f"{self.name} {self.category} {split}"
        without_defect = []
        for photograph in tqdm(photographs, desc=description, unit=" images"):
            height, width = decode(read_bytes(photograph.path), str(photograph.path)).shape[:2]
            mask = self._mask(photograph, (height, width))
            if photograph.mask is not None and not mask.any():
                without_defect.append(photograph.mask)
            index["image_id"].append(photograph.image_id)
            index["label"].append(photograph.label)
            index["defect_type"].append(photograph.defect_type)
            index["has_mask"].append(photograph.has_mask)
            index["size"].append([height, width])
            for name in self.FACTORS:
                index[name].append(photograph.factors[name])
            yield (
                photograph.image_id,
                {
                    "image": photograph.path,
                    "mask": _empty_mask(height, width) if not mask.any() else encode_mask(mask),
                    "has_mask": photograph.has_mask,
                    "label": photograph.label,
                    "category": self.category,
                    "defect_type": photograph.defect_type,
                    "image_id": photograph.image_id,
                    **{name: photograph.factors[name] for name in self.FACTORS},
                },
            )
        if without_defect:
            logger.warning(
                f"{description}: {len(without_defect)} masks of defective images hold no value above "
                f"{self.threshold(without_defect[0])}; the first is {without_defect[0]}"
            )

    def _mask(self, photograph: Photograph, size: tuple[int, int]) -> np.ndarray:
        path = photograph.mask
        if path is None:
            return np.zeros(size, bool)
        mask = decode_mask(read_bytes(path), str(path), self.threshold(path))
        if mask.shape != size:
            raise UserError(
                f"mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels, but its image {photograph.path} is "
                f"{size[1]}x{size[0]} (after EXIF rotation): redraw the mask at the image's size"
            )
        return mask

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        # TFDS gives the folder its final name after this
        self.data_path.joinpath(INDEX_FILE).write_text(json.dumps(self._index))


def read_index(folder: Path, split: str) -> dict[str, list[Any]]:
    """The index of one split of the prepared data in `folder`.

    Returns:
      Lists with an entry for each example: `image_id`, `label` (1 is anomalous), `defect_type`, `has_mask`, `size`
      (height, width), and one list for each factor.

    Raises:
      UserError: there is no such split, or the file is damaged.
    """
    try:
        index = json.loads((folder / INDEX_FILE).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"prepared data in {folder} is damaged ({type(error).__name__}: {error}): "
            "delete that folder, and it will be prepared again"
        ) from error
    if split not in index:
        raise UserError(f"{folder} has no split {split!r}; expected one of {', '.join(index)}")
    return index[split]


def read_bytes(path: Path) -> bytes:
    """The file's content.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from error


def images_in(folder: Path) -> list[Path]:
    """The image files (by their suffix) in `folder` and below, sorted by path; hidden files are left out."""
    return _files_in(folder)[0]


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in `folder`, sorted by name; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def image_id(path: Path, root: Path) -> str:
    """The file's path relative to `root`; bytes that are not UTF-8 become escapes, since TFDS stores text."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def match_masks(images: Sequence[Path], image_root: Path, masks: Sequence[Path], mask_root: Path) -> list[Path]:
    """The mask of each image: the file at the same path below `mask_root`, with any suffix, with or without "_mask".

    Raises:
      UserError: an image has no mask, or two.
    """
    by_stem: dict[Path, list[Path]] = {}
    for mask in masks:
        stem = mask.relative_to(mask_root).with_suffix("")
        for key in {stem, stem.with_name(stem.name.removesuffix("_mask"))}:
            by_stem.setdefault(key, []).append(mask)
    matched = []
    for image in images:
        stem = image.relative_to(image_root).with_suffix("")
        found = by_stem.get(stem, [])
        if not found:
            raise UserError(
                f"no mask for {image}: expected {mask_root / stem}.png or {mask_root / stem}_mask.png, since other "
                f"images of {image_root} have one; add the mask, or remove all masks to do without them"
            )
        if len(found) > 1:
            raise UserError(f"two masks for {image}: {found[0]} and {found[1]}; remove one")
        matched.append(found[0])
    if unused := sorted(set(masks) - set(matched)):
        logger.warning(f"{mask_root}: {len(unused)} masks belong to no image of {image_root}; the first is {unused[0]}")
    return matched


def labelled_images(folder: Path, root: Path, mask_folders: Sequence[Path]) -> list[Photograph]:
    """The photographs of one split: `folder` has one folder per defect type, and one named good, ok or normal.

    Args:
      folder: for instance bottle/test.
      root: what the ids are relative to.
      mask_folders: folders with one folder of masks per defect type; the first that has a type's masks is used.

    Raises:
      UserError: see `match_masks`.
    """
    photographs, without_masks, others = [], [], []
    for type_folder in folders_in(folder):
        defect_type = type_folder.name
        images, no_images = _files_in(type_folder)
        others += no_images
        if defect_type.lower() in NORMAL_NAMES:
            photographs += [Photograph(path, image_id(path, root), 0, "good") for path in images]
            continue
        mask_folder = next((m / defect_type for m in mask_folders if images_in(m / defect_type)), None)
        if mask_folder is None:
            masks: Sequence[Path | None] = [None] * len(images)
            without_masks += [defect_type] if images else []
        else:
            masks = match_masks(images, type_folder, images_in(mask_folder), mask_folder)
        photographs += [
            Photograph(path, image_id(path, root), 1, defect_type, mask)
            for path, mask in zip(images, masks, strict=True)
        ]
    if others:
        logger.warning(f"{folder}: ignored {len(others)} files that are not images; the first is {others[0]}")
    if without_masks:
        number = sum(not p.has_mask for p in photographs)
        logger.warning(
            f"{folder}: no masks for {', '.join(without_masks)} (looked in {', '.join(map(str, mask_folders))}): "
            f"pixel metrics leave these {number} images out"
        )
    return photographs


def check_counts(what: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Warns, with both numbers, where the raw data is not as published: results are then not comparable."""
    if dict(found) == dict(published):
        logger.info(f"{what}: {', '.join(f'{n} {k}' for k, n in found.items())} images, as published")
        return
    numbers = ", ".join(f"{found.get(k, 0)} {k} (published: {n})" for k, n in published.items())
    logger.warning(f"{what}: found {numbers}: the raw data is incomplete or changed, so results will not be comparable")


def every_fifth(photographs: Sequence[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
    """(test, train): the first photograph and every fifth after it, in the order of the file names, and the rest."""
    ordered = sorted(photographs, key=lambda p: p.path.name)
    return ordered[::5], [p for i, p in enumerate(ordered) if i % 5]


def fingerprint(folder: Path) -> str:
    """12 hexadecimal digits that change with the name, size or modification time of any image in `folder`."""
    digest = hashlib.sha256()
    for path in images_in(folder):
        status = path.stat()
        digest.update(os.fsencode(path.relative_to(folder)))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]


def _files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """(images, other files) in `folder` and below, sorted; both empty where the folder is missing."""
    images, others = [], []
    for root, directories, names in os.walk(folder):
        directories[:] = [d for d in directories if not d.startswith(".")]
        for name in names:
            if not name.startswith("."):
                (images if name.lower().endswith(SUFFIXES) else others).append(Path(root, name))
    return sorted(images), sorted(others)


@functools.lru_cache(maxsize=64)
def _empty_mask(height: int, width: int) -> bytes:
    return encode_mask(np.zeros((height, width), bool))
