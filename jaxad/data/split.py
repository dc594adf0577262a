"""Splits: random access to the images of one or more categories, decoded and at the network's input size."""

import dataclasses
import functools
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from jaxad.data.geometry import Box, Geometry, from_config
from jaxad.data.preparation import prepare
from jaxad.data.selection import select
from jaxad.errors import UserError, did_you_mean
from jaxad.imaging.decoding import decode, decode_mask
from jaxad.method import Item

Change = Callable[[np.ndarray, np.ndarray, str], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Split:
    """Random access to the images of one split of one or more categories, at the network's input size.

    Item i is a dict of `image` uint8 (h, w, 3), `mask` bool (h, w), `valid` bool (h, w) (False on padding), `label`
    int32 (1 anomalous), `category` int32 (place in `category_names`), `defect` int32 (place in `sorted_defects`),
    `has_mask` bool and `index` int32 (i).

    Attributes:
      ids: paths of the photographs, relative to the raw data's root.
      labels: 0 normal, 1 anomalous.
      categories: the category's name for each image.
      category_names: all categories of the run, in the order of the config.
      defect_types: each image's type of defect; "good" for normal images.
      has_mask: whether the defect's pixels are known; True for normal images.
      split_names: the split of the prepared data that each image comes from.
      original_sizes: (height, width) of the photographs, after EXIF rotation.
      store: holds the photographs.
      positions: each image's place in the store.
    """

    ids: list[str]
    labels: Int32[np.ndarray, " n"]
    categories: list[str]
    category_names: list[str]
    defect_types: list[str]
    has_mask: Bool[np.ndarray, " n"]
    split_names: list[str]
    original_sizes: Int32[np.ndarray, "n 2"]
    store: "Store"
    positions: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        image, mask, box = self.store.transformed(int(self.positions[i]))
        return {
            "image": image,
            "mask": np.zeros(self.geometry.size, bool) if mask is None else mask,
            "valid": self.geometry.valid(box),
            "label": np.int32(self.labels[i]),
            "category": np.int32(self.category_names.index(self.categories[i])),
            "defect": np.int32(self.sorted_defects.index(self.defect_types[i])),
            "has_mask": np.bool_(self.has_mask[i]),
            "index": np.int32(i),
        }

    @functools.cached_property
    def sorted_defects(self) -> list[str]:
        """The defect types of the split, each once, "good" among them."""
        return sorted(set(self.defect_types))

    @property
    def geometry(self) -> Geometry:
        """How a photograph becomes the network's input."""
        return self.store.geometry

    def by_category(self) -> Iterator[tuple[str, "Split"]]:
        """The images of each category, in the order of first appearance."""
        names = np.asarray(self.categories)
        for category in dict.fromkeys(self.categories):
            yield category, self.subset(np.flatnonzero(names == category))

    def original(self, i: int) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        """The photograph and its mask at their own size."""
        return self.store.original(int(self.positions[i]))

    def subset(self, indices) -> "Split":
        """The images at `indices`, in that order; decoded images stay shared."""
        indices = np.asarray(indices, np.int64)
        return dataclasses.replace(
            self,
            ids=[self.ids[i] for i in indices],
            labels=self.labels[indices],
            categories=[self.categories[i] for i in indices],
            defect_types=[self.defect_types[i] for i in indices],
            has_mask=self.has_mask[indices],
            split_names=[self.split_names[i] for i in indices],
            original_sizes=self.original_sizes[indices],
            positions=self.positions[indices],
        )


class Store:
    """Encoded photographs by position, and the decoded ones that fit in memory.

    Once the budget is used up, what is in memory stays there: every epoch asks for every image once, so a cache that
    replaced its oldest entries would never have the one that is asked for.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Any], list[str], str]],
        geometry: Geometry,
        cache_bytes: int,
        change: Change | None = None,
    ):
        """Makes a store.

        Args:
          sources: for each, its records with encoded `image` and `mask`, the names of the images, the records' folder.
          geometry: how a photograph becomes the network's input.
          cache_bytes: the budget for decoded images.
          change: (photograph, mask, name) -> both, corrupted; applied before the geometry.
        """
        self.geometry = geometry
        self._change = change
        self._sources = sources
        self._starts = np.cumsum([0, *(len(names) for _, names, _ in sources)])
        self._cache: dict[int, tuple[np.ndarray, np.ndarray | None, Box]] = {}
        self._free_bytes = cache_bytes
        self._lock = threading.Lock()

    def transformed(self, position: int) -> tuple[np.ndarray, np.ndarray | None, Box]:
        """(image, mask or None where nothing is defective, box) at the network's size; not to be changed."""
        if (cached := self._cache.get(position)) is not None:
            return cached
        image, mask = self.original(position)
        image, box = self.geometry.apply(image)
        mask = self.geometry.apply_mask(mask)
        entry = (np.ascontiguousarray(image), mask if mask.any() else None, box)
        for array in entry[:2]:
            if array is not None:
                array.flags.writeable = False  # kept for later epochs: a stage that changes it must copy it
        size = entry[0].nbytes + (0 if entry[1] is None else entry[1].nbytes)
        with self._lock:
            if position not in self._cache and size <= self._free_bytes:
                self._free_bytes -= size
                self._cache[position] = entry
        return entry

    def original(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """The decoded photograph and mask at their own size."""
        number = int(np.searchsorted(self._starts, position, "right")) - 1
        records, names, folder = self._sources[number]
        name = names[position - self._starts[number]]
        try:
            record = records[position - self._starts[number]]
        except Exception as error:  # ArrayRecord's own errors for damaged files
            raise UserError(
                f"prepared data in {folder} cannot be read ({error}): delete that folder, and it is prepared again"
            ) from error
        image, mask = decode(record["image"], name), decode_mask(record["mask"], f"mask of {name}")
        return (image, mask) if self._change is None else self._change(image, mask, name)


def load_split(
    dataset_config: Any,
    input_config: Any,
    split: str,
    categories: str | Sequence[str] | None = None,
    *,
    where: str = "",
    field: str = "config.dataset.where",
    change: Change | None = None,
) -> Split:
    """The split of the data set that the config names, which is prepared first if it has not been yet.

    Args:
      dataset_config: `config.dataset`.
      input_config: `config.input`; `cache_gib` bounds the memory for decoded images of this split.
      split: "train", "test" or another split of the data set; or several joined by "+", of which every category must
        have the first.
      categories: names; None is `config.dataset.category`.
      where: which of the images, see `jaxad.data.selection`.
      field: the config field that `where` is the value of, for messages.
      change: corrupts photographs and masks, see `Store`.

    Raises:
      UserError: as `jaxad.data.preparation.prepare`; or there is no such split, or no such image in it.
    """
    from datasets_tfds.core import read_index

    builders = prepare(
        dataset_config.name,
        dataset_config.category if categories is None else categories,
        data_dir=dataset_config.data_dir,
        manual_dir=dataset_config.manual_dir,
        path=dataset_config.path,
    )
    parts = [
        _Part(category, name, read_index(Path(builder.data_dir), name), _records(builder, name), builder.data_dir)
        for category, builder in builders.items()
        for name in _splits_of(builder, category, split)
    ]
    common = [name for name in parts[0].index if all(name in part.index for part in parts)]
    index = {name: [value for part in parts for value in part.index[name]] for name in common}
    store = Store(
        [(part.records, part.index["image_id"], part.folder) for part in parts],
        from_config(input_config),
        int(input_config.cache_gib * 2**30),
        change,
    )
    whole = Split(
        ids=index["image_id"],
        labels=np.array(index["label"], np.int32),
        categories=[part.category for part in parts for _ in part.index["label"]],
        category_names=list(builders),
        defect_types=index["defect_type"],
        has_mask=np.array(index["has_mask"], bool),
        split_names=[part.split for part in parts for _ in part.index["label"]],
        original_sizes=np.array(index["size"], np.int32).reshape(-1, 2),
        store=store,
        positions=np.arange(len(index["label"])),
    )
    return whole.subset(np.flatnonzero(select(where, index, field))) if where else whole


class _Part(NamedTuple):
    """One split of one category."""

    category: str
    split: str
    index: dict[str, list[Any]]
    records: Sequence[Any]
    folder: str


def _splits_of(builder: Any, category: str, split: str) -> list[str]:
    """The splits named in "train+validation" that the category has; it must have the first."""
    first, *others = split.split("+")
    known = list(builder.info.splits)
    if first not in known:
        raise UserError(
            f"{builder.name}/{category} has no split {first!r}; expected one of {', '.join(known)}."
            f"{did_you_mean(first, known)}"
        )
    return [first, *(other for other in others if other in known)]


def _records(builder: Any, split: str) -> Sequence[Any]:
    """The split's records, with photographs and masks still encoded."""
    import tensorflow_datasets as tfds

    skip = {key: tfds.decode.SkipDecoding() for key in ("image", "mask")}
    try:
        return builder.as_data_source(split, decoders=skip)
    except (OSError, ValueError) as error:
        raise UserError(
            f"prepared data in {builder.data_dir} is damaged ({type(error).__name__}: {error}): "
            "delete that folder, and it is prepared again"
        ) from error


def holdout(split: Split, fraction: float, seed: int, field: str) -> tuple[Split, Split]:
    """(the rest, held-out images): the images of the split "validation" in categories that have one; in the others,
    `fraction` of the category's normal and of its anomalous images, drawn by the seed.

    In each category at least one normal image is held out, and the draw does not depend on the other categories. With a
    fraction of 0, only "validation" images are held out.

    Raises:
      UserError: a fraction outside [0, 1), or a category whose normal images would all be held out.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"{field} is {fraction}; expected a share of the training images, 0 <= share < 1")
    given = np.array(split.split_names) == "validation"
    held: list[int] = np.flatnonzero(given).tolist()
    categories = np.array(split.categories)
    for category in sorted(set(split.categories) - set(categories[given])) if fraction else []:
        for label in (0, 1):
            members = np.flatnonzero((categories == category) & (split.labels == label))
            number = max(1 - label, round(fraction * len(members)))
            if not label and number >= len(members):
                raise UserError(
                    f"{field} is {fraction}, but category {category!r} has only {len(members)} normal "
                    "training images: add images, or set it to 0"
                )
            order = permutation(seed + label, zlib.crc32(category.encode()), len(members))
            held += members[order[:number]].tolist()
    return split.subset(np.setdiff1d(np.arange(len(split)), held)), split.subset(sorted(held))


@functools.lru_cache(maxsize=4)
def permutation(seed: int, number: int, length: int) -> Int[np.ndarray, " length"]:
    """A permutation of range(length), a function of `seed` and `number`."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64))).permutation(length)
