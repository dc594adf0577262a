"""From prepared data to batches: random access to decoded images, the order of training, the padding of evaluation.

Everything is NumPy on the host; Grain does the reading ahead and keeps the place. The order of a training run is a pure
function of its seed, whatever the number of processes: process p of P reads the p-th part of every global batch.
"""

import dataclasses
import functools
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from jaxad.data.geometry import Box, Geometry, from_config
from jaxad.data.selection import select
from jaxad.errors import UserError, did_you_mean
from jaxad.imaging.decoding import decode, decode_mask

Item = dict[str, Any]
Change = Callable[[np.ndarray, np.ndarray, str], tuple[np.ndarray, np.ndarray]]


class Source(Protocol):
    """What batches are made of: anything with a length whose items are dicts of arrays of equal shapes."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Item: ...


@dataclasses.dataclass(frozen=True)
class Split:
    """Random access to the images of one split of one or more categories, at the network's input size.

    Item i is a dict of `image` uint8 (h, w, 3), `mask` bool (h, w), `valid` bool (h, w) (False on padding), `label`
    int32 (1 anomalous), `category` int32 (place in `category_names`), `defect` int32 (place in the sorted types of
    defects), `has_mask` bool and `index` int32 (i).

    Attributes:
      ids: paths of the photographs, relative to the raw data's root.
      labels: 0 normal, 1 anomalous.
      categories: the category's name for each image.
      category_names: all categories of the run, in the order of the config.
      defect_types: "good" for normal images.
      has_mask: whether the defect's pixels are known; True for normal images.
      split_names: the split of the prepared data that each image is of.
      original_sizes: (height, width) of the photographs, after EXIF rotation.
      store: where the photographs are.
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
        """From the photograph to the item."""
        return self.store.geometry

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

    When the budget is used up, what is in memory stays there: every epoch asks for every image once, so that replacing
    the oldest would find none of them again.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Any], list[str], str]],
        geometry: Geometry,
        cache_bytes: int,
        change: Change | None = None,
    ):
        """Makes the store.

        Args:
          sources: records with encoded `image` and `mask`, the names of their images, the folder of the records.
          geometry: from the photograph to the network's input.
          cache_bytes: the budget.
          change: (photograph, mask, name) -> both, corrupted; before the geometry.
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
                f"prepared data in {folder} cannot be read ({error}): delete that folder, it is then prepared again"
            ) from error
        image, mask = decode(record["image"], name), decode_mask(record["mask"], f"mask of {name}")
        return (image, mask) if self._change is None else self._change(image, mask, name)


def load_split(
    dataset_config,
    input_config,
    split: str,
    categories: Sequence[str] | None = None,
    *,
    where: str = "",
    field: str = "config.dataset.where",
    change: Change | None = None,
) -> Split:
    """One split of the prepared data, which is prepared first where needed.

    Args:
      dataset_config: `config.dataset`.
      input_config: `config.input`; `cache_gib` bounds the memory for decoded images of this split.
      split: "train", "test" or what else the data set has; or several joined by "+", of which a category has at least
        the first.
      categories: names; None is `config.dataset.category`.
      where: which of the images, see `jaxad.data.selection`; comes from the config's `field`.
      change: corrupts photographs and masks, see `Store`.

    Raises:
      UserError: see `jaxad.data.preparation.prepare`; no such split, or no such image in it.
    """
    import tensorflow_datasets as tfds

    from datasets_tfds.core import read_index
    from jaxad.data.preparation import prepare

    builders = prepare(
        dataset_config.name,
        dataset_config.category if categories is None else categories,
        data_dir=dataset_config.data_dir,
        manual_dir=dataset_config.manual_dir,
        path=dataset_config.path,
    )
    skip = {key: tfds.decode.SkipDecoding() for key in ("image", "mask")}
    sources, indices, names, split_names = [], [], [], []
    for category, builder in builders.items():
        first, *others = split.split("+")
        if first not in builder.info.splits:
            known = list(builder.info.splits)
            raise UserError(
                f"{builder.name}/{category} has no split {first!r}; expected one of {', '.join(known)}."
                f"{did_you_mean(first, known)}"
            )
        for one in (first, *(other for other in others if other in builder.info.splits)):
            index = read_index(Path(builder.data_dir), one)
            try:
                records = builder.as_data_source(one, decoders=skip)  # pyright: ignore[reportCallIssue]
            except (OSError, ValueError) as error:
                raise UserError(
                    f"prepared data in {builder.data_dir} is damaged ({type(error).__name__}: {error}): "
                    "delete that folder, it is then prepared again"
                ) from error
            sources.append((records, index["image_id"], builder.data_dir))
            indices.append(index)
            names += [category] * len(index["label"])
            split_names += [one] * len(index["label"])

    common = [name for name in indices[0] if all(name in index for index in indices)]
    joined = {name: [value for index in indices for value in index[name]] for name in common}
    whole = Split(
        ids=joined["image_id"],
        labels=np.array(joined["label"], np.int32),
        categories=names,
        category_names=list(builders),
        defect_types=joined["defect_type"],
        has_mask=np.array(joined["has_mask"], bool),
        split_names=split_names,
        original_sizes=np.array(joined["size"], np.int32).reshape(-1, 2),
        store=Store(sources, from_config(input_config), int(input_config.cache_gib * 2**30), change),
        positions=np.arange(len(names)),
    )
    return whole.subset(np.flatnonzero(select(where, joined, field))) if where else whole


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """(the rest, held-out images): those of the split "validation" of categories that have one; else `fraction` of the
    category's normal and of its anomalous images, by the seed.

    At least one normal image of a category is held out. The choice depends on no other category. A fraction of 0 holds
    nothing out but "validation" images.

    Raises:
      UserError: a fraction outside [0, 1), or a category whose normal images would all be held out.
    """
    if not 0 <= fraction < 1:
        raise UserError(
            f"config.threshold.holdout is {fraction}; expected a share of the training images, 0 <= share < 1"
        )
    given = np.array(split.split_names) == "validation"
    held: list[int] = np.flatnonzero(given).tolist()
    categories = np.array(split.categories)
    for category in sorted(set(split.categories) - set(categories[given])) if fraction else []:
        for label in (0, 1):
            members = np.flatnonzero((categories == category) & (split.labels == label))
            number = max(1 - label, round(fraction * len(members)))
            if not label and number >= len(members):
                raise UserError(
                    f"config.threshold.holdout is {fraction}, but category {category!r} has only {len(members)} normal "
                    "training images: add images, or set it to 0"
                )
            order = _permutation(seed + label, zlib.crc32(category.encode()), len(members))
            held += members[order[:number]].tolist()
    return split.subset(np.setdiff1d(np.arange(len(split)), held)), split.subset(sorted(held))


def training_iterator(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    steps: int | None = None,
    epochs: int | None = None,
    drop_last: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    parts: int = 1,
):
    """This process's part of shuffled batches, read ahead in threads.

    Epoch e goes through a permutation made from (seed, e) in slices of `batch_size`; process p of P gets the p-th of P
    equal parts of each. A batch whose length `parts` does not divide goes whole to every process, and says so by the
    key `replicated` (True; absent otherwise).

    Args:
      source: what to read; see `Source`.
      batch_size: images of a global batch.
      steps: batches in all, over as many epochs as that takes; or
      epochs: passes in all.
      drop_last: leave incomplete batches out.
      parts: what a batch is cut into over all processes, a multiple of their number: as a rule, devices.

    Returns:
      A Grain iterator over dicts of stacked arrays. `get_state()` is a JSON-able dict, to be given to `set_state()` of
      an iterator made with the same arguments, which then goes on with the next batch.

    Raises:
      UserError: no images, a batch size below 1, or not one full batch with `drop_last`.
    """
    import grain.python as grain

    if batch_size < 1:
        raise UserError(f"config.train.batch_size is {batch_size}; expected a positive number")
    per_epoch = steps_per_epoch(len(source), batch_size, drop_last)
    if (steps is None) == (epochs is None):
        raise ValueError("set exactly one of steps and epochs")
    total = steps if steps is not None else (epochs or 0) * per_epoch
    schedule = _Schedule(
        len(source), batch_size, seed, per_epoch, total, process_index, process_count, max(parts, process_count)
    )
    return _read_ahead(grain.MapDataset.source(schedule).map(functools.partial(_training_batch, source)))


def steps_per_epoch(images: int, batch_size: int, drop_last: bool) -> int:
    """Batches of one pass.

    Raises:
      UserError: there would be none.
    """
    number = images // batch_size if drop_last else -(-images // batch_size)
    if not number:
        raise UserError(
            f"config.train.batch_size is {batch_size}, but there are only {images} training images and an incomplete "
            "batch is dropped: make the batch smaller or add images"
        )
    return number


def evaluation_batches(
    source: Source, batch_size: int, *, process_index: int = 0, process_count: int = 1, start: int = 0
) -> Iterator[Item]:
    """This process's part of all images in order, in batches of one size, read ahead in threads.

    The last batch is filled up with its last image. `weight` float32 (b,) is 1 for images that count and 0 for filling,
    times the item's own `weight` where it has one.

    Args:
      start: number of batches to leave out at the beginning, for a pass that was interrupted.

    Raises:
      UserError: a batch size that the processes do not divide.
    """
    import grain.python as grain

    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"config.evaluation.batch_size is {batch_size}; expected a positive multiple of the number of processes, "
            f"{process_count}"
        )
    part = batch_size // process_count
    starts = range(process_index * part, process_index * part + len(source), batch_size)[start:]
    load = functools.partial(_evaluation_batch, source, part)
    yield from _read_ahead(grain.MapDataset.source(starts).map(load))


@dataclasses.dataclass(frozen=True)
class _Schedule:
    """Step -> (images this process reads, whether every process reads the same)."""

    images: int
    batch_size: int
    seed: int
    per_epoch: int
    total: int
    process_index: int
    process_count: int
    parts: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> tuple[np.ndarray, bool]:
        epoch, batch = divmod(index, self.per_epoch)
        order = _permutation(self.seed, epoch, self.images)[batch * self.batch_size : (batch + 1) * self.batch_size]
        if len(order) % self.parts:
            return order, True
        part = len(order) // self.process_count
        return order[self.process_index * part : (self.process_index + 1) * part], False


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, number: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(number)


def _training_batch(source: Source, scheduled: tuple[np.ndarray, bool]) -> Item:
    indices, replicated = scheduled
    batch = _stack([source[int(i)] for i in indices])
    return {**batch, "replicated": True} if replicated else batch


def _evaluation_batch(source: Source, length: int, start: int) -> Item:
    # with several processes the last global batch may hold nothing of its own for the later ones
    indices = range(start, min(start + length, len(source))) or [len(source) - 1]
    items = [source[i] for i in indices]
    real = len(items) if start < len(source) else 0
    batch = _stack(items + items[-1:] * (length - len(items)))
    batch["weight"] = batch.get("weight", np.float32(1)) * (np.arange(length) < real).astype(np.float32)
    return batch


def _stack(items: list[Item]) -> Item:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *items)


def _read_ahead(batches):
    """Grain's iterator with a few batches in flight; Pillow decodes outside Python's lock."""
    import grain.python as grain

    threads = min(8, os.cpu_count() or 1)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
