"""What a batch is: the order of training, the padding of the last batch of a pass, the way to the devices.

Batches are NumPy arrays on the host; Grain reads images ahead, one in each thread, and keeps the place. The order of a
training run is a pure function of its seed, whatever the number of processes: process p of the P that a mesh has reads
the p-th part of every global batch.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from jaxad import sharding
from jaxad.data.split import permutation
from jaxad.errors import UserError
from jaxad.method import WITH_MASKS, Batch, Images, Item, Normalization, Train

Prepare = Callable[[Images, int, np.random.Generator], Item]

_ORDER, _IMAGE, _STEP = 1, 2, 3  # what a seed is used for: no two uses share a stream of random numbers
TRUTH = ("mask", "has_mask", "label", "valid")  # of an item; the rest is what a method may know when it predicts
MOST_THREADS = 32  # more would only wait for Python's lock


class ReadableBatches(Protocol):
    """Batches that are made item by item, in any order."""

    @property
    def largest(self) -> int:
        """Images in a full batch, as this process reads it."""
        ...

    def __len__(self) -> int: ...

    def places(self, step: int) -> range:
        """The places in batch `step` that this process reads, at most `largest`."""
        ...

    def item(self, step: int, place: int) -> Item: ...

    def together(self, step: int, items: list[Item]) -> Item:
        """The batch that the items of all its places make."""
        ...


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of a training stage: random access by step.

    Epoch e goes through a permutation made from (seed, e), or through draws with replacement, in slices of
    `batch_size`; process p of P gets the p-th of P equal parts of each. A batch whose length `parts` does not divide
    goes whole to every process, and says so by the key `replicated` (True; absent otherwise).

    Attributes:
      images: what to read.
      batch_size: images in a global batch.
      seed: of the order and of the draws of `prepare`.
      per_epoch: batches in one epoch.
      steps: batches in all.
      sampling: see `Train`.
      prepare: see `Train`; None: the items as they are.
      same_draws: see `Train`.
      masks: whether batches hold what `TRUTH` names.
      parts: what a batch is cut into over all processes, a multiple of their number: as a rule, devices.
    """

    images: Images
    batch_size: int
    seed: int
    per_epoch: int
    steps: int
    sampling: Literal["shuffled", "replacement"] = "shuffled"
    prepare: Prepare | None = None
    same_draws: bool = False
    masks: bool = False
    process_index: int = 0
    process_count: int = 1
    parts: int = 1

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Item:
        return self.together(step, [self.item(step, place) for place in self.places(step)])

    @property
    def largest(self) -> int:
        return len(self._own(self.batch_size))

    def places(self, step: int) -> range:
        return self._own(self._count(step))

    def item(self, step: int, place: int) -> Item:
        epoch, batch = divmod(step, self.per_epoch)
        order = _order(self.sampling, self.seed, epoch, len(self.images))
        i = int(order[batch * self.batch_size + place])
        if self.prepare is None:
            return without_truth(self.images[i], self.masks)
        draws = (self.seed, _IMAGE, i) if self.same_draws else (self.seed, _STEP, step, place)
        return without_truth(prepared(self.prepare, self.images, i, draws), self.masks)

    def together(self, step: int, items: list[Item]) -> Item:
        return {**_stacked(items), "replicated": True} if self._whole(self._count(step)) else _stacked(items)

    def _count(self, step: int) -> int:
        """Images in the global batch."""
        return min(self.batch_size, len(self.images) - step % self.per_epoch * self.batch_size)

    def _whole(self, count: int) -> bool:
        """Whether a batch of `count` images goes whole to every process."""
        return count % max(self.parts, self.process_count) != 0

    def _own(self, count: int) -> range:
        """The places that this process reads in a batch of `count` images."""
        if self._whole(count):
            return range(count)
        part = count // self.process_count
        return range(self.process_index * part, (self.process_index + 1) * part)


@functools.lru_cache(maxsize=64)
def _order(sampling: str, seed: int, epoch: int, count: int) -> np.ndarray:
    """The images of an epoch, in its order."""
    if sampling == "replacement":
        return np.random.default_rng((seed, _ORDER, epoch)).integers(0, count, count)
    return permutation(seed, epoch, count)


@dataclass(frozen=True)
class PreparedImages:
    """Images as `prepare` makes them, each with the same draws whenever it is asked for."""

    images: Images
    prepare: Prepare
    seed: int

    @property
    def ids(self) -> Sequence[str]:
        return self.images.ids

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Item:
        return prepared(self.prepare, self.images, i, (self.seed, _IMAGE, i))


def prepared(prepare: Prepare, images: Images, i: int, draws: tuple[int, ...]) -> Item:
    """Item i with what `prepare` makes of it, drawn from a generator that `draws` seeds."""
    return {**images[i], **prepare(images, i, np.random.default_rng(draws)), "index": np.int32(i)}


def without_truth(item: Item, keep: bool = False) -> Item:
    """The item without masks and labels, unless they are to be kept."""
    return item if keep else {name: value for name, value in item.items() if name not in TRUTH}


def check_batches(stage: Train, count: int) -> None:
    """Refuse a stage that cannot make one batch of its `count` images, before anything is computed for it.

    Raises:
      UserError: no images, a batch size below 1, or not one full batch where incomplete ones are dropped.
    """
    if stage.batch_size < 1:
        raise UserError(f"config.train.batch_size is {stage.batch_size}; expected a positive number")
    if not stage.steps_per_epoch(count):
        raise UserError(
            f"stage {stage.name!r}: {count} training images make no whole batch of {stage.batch_size}: "
            "set --config.train.batch_size lower"
        )


def training_iterator(stage: Train, images: Images, seed: int, mesh: Mesh, threads: int = 0) -> Any:
    """This process's part of a stage's batches, read ahead in threads.

    Args:
      threads: how many read ahead; 0 for as many as `reading_threads` finds.

    Returns:
      A Grain iterator over dicts of stacked arrays. `get_state()` is a JSON-able dict, to be given to `set_state()` of
      an iterator made with the same arguments, which then goes on with the next batch.

    Raises:
      UserError: as `check_batches`.
    """
    check_batches(stage, len(images))
    index, count = sharding.part_of(mesh)
    batches = TrainingBatches(
        images,
        stage.batch_size,
        seed,
        stage.steps_per_epoch(len(images)),
        stage.total_steps(len(images)),
        sampling=stage.sampling,
        prepare=stage.prepare,
        same_draws=stage.same_draws,
        masks=stage.data in WITH_MASKS,
        process_index=index,
        process_count=count,
        parts=mesh.shape["data"],
    )
    return read_ahead(batches, threads or reading_threads(mesh))


def evaluation_batches(
    images: Images, batch_size: int, *, process_index: int = 0, process_count: int = 1, start: int = 0, threads: int = 2
) -> Iterator[Item]:
    """This process's part of all images in order, in batches of one size, read ahead in threads.

    The last batch is filled up with its last image. `weight` float32 (b,) is 1 for images that count and 0 for filling,
    times the item's own `weight` where it has one.

    Args:
      start: number of batches to leave out at the beginning, for a pass that was interrupted.
      threads: how many read ahead.

    Raises:
      UserError: a batch size that the number of processes does not divide.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"config.evaluation.batch_size is {batch_size}; expected a positive multiple of the number of processes, "
            f"{process_count}"
        )
    part = batch_size // process_count
    starts = range(process_index * part, process_index * part + len(images), batch_size)[start:]
    yield from read_ahead(_Padded(images, part, starts), threads)


@dataclass(frozen=True)
class _Padded:
    """Batches of `largest` images from each of the starts on, the last one filled up."""

    images: Images
    largest: int
    starts: range

    def __len__(self) -> int:
        return len(self.starts)

    def places(self, step: int) -> range:
        # with several processes the last global batch may hold nothing for the later ones: one image fills it then
        return range(min(self.largest, max(1, len(self.images) - self.starts[step])))

    def item(self, step: int, place: int) -> Item:
        return self.images[min(self.starts[step] + place, len(self.images) - 1)]

    def together(self, step: int, items: list[Item]) -> Item:
        real = min(self.largest, len(self.images) - self.starts[step])
        batch = _stacked(items + items[-1:] * (self.largest - len(items)))
        batch["weight"] = batch.get("weight", np.float32(1)) * (np.arange(self.largest) < real).astype(np.float32)
        return batch


def _stacked(items: list[Item]) -> Item:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *items)


def reading_threads(mesh: Mesh) -> int:
    """Threads that read ahead for a mesh: this process's cores, as many as its share of the process's devices gives.

    Cores are those that the process may use; processes that a local launch starts on this host share them.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    share = len(mesh.local_devices) / jax.local_device_count() / sharding.processes_of_this_host()
    return max(1, min(round(cores * share), MOST_THREADS))


def read_ahead(batches: ReadableBatches, threads: int = 2) -> Any:
    """Grain's iterator over batches whose items are read ahead in threads; Pillow decodes outside Python's lock."""
    import grain.python as grain
    from grain.experimental import ThreadPrefetchDatasetIterator

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    items = grain.MapDataset.source(_Items(batches)).to_iter_dataset(options, allow_nones=True)
    return ThreadPrefetchDatasetIterator(_Grouped(batches, iter(items)), prefetch_buffer_size=2)


@dataclass(frozen=True)
class _Items:
    """The items of all batches, one after the other; None where a batch is shorter than the largest one."""

    batches: ReadableBatches

    def __len__(self) -> int:
        return len(self.batches) * self.batches.largest

    def __getitem__(self, index: int) -> Item | None:
        step, nth = divmod(index, self.batches.largest)
        places = self.batches.places(step)
        return self.batches.item(step, places[nth]) if nth < len(places) else None


class _Grouped:
    """The batches again, from Grain's iterator over their items."""

    def __init__(self, batches: ReadableBatches, items: Any):
        self.batches, self.items, self.step = batches, items, 0

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self.step == len(self.batches):
            raise StopIteration
        items = [next(self.items) for _ in range(self.batches.largest)]
        self.step += 1
        return self.batches.together(self.step - 1, [item for item in items if item is not None])

    def get_state(self) -> dict[str, Any]:
        return {"step": self.step, "items": self.items.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.items.set_state(state["items"])


def normalise(batch: Batch, normalization: Normalization) -> dict[str, Any]:
    """The batch with its uint8 pictures (b, h, w, 3) as float32, scaled to [0, 1] and normalised by (mean, std)."""
    mean, std = (jnp.asarray(numbers, jnp.float32) for numbers in normalization)

    def normalised(value: Any) -> Any:
        picture = getattr(value, "dtype", None) == np.uint8 and value.ndim == 4 and value.shape[-1] == 3
        return (value.astype(jnp.float32) / 255.0 - mean) / std if picture else value

    return {name: value if name == "features" else normalised(value) for name, value in batch.items()}


_normalise_on_device = jax.jit(normalise, static_argnums=1)


def rows_per_batch(batch_size: int, mesh: Mesh) -> int:
    """`batch_size`, rounded up to a number that the devices divide."""
    parts = mesh.shape["data"]
    return math.ceil(batch_size / parts) * parts


@dataclass(frozen=True)
class DeviceBatches:
    """All images in order, batch by batch on the devices, normalised; may be iterated over several times.

    Attributes:
      rows: images in a batch, a multiple of the mesh's devices along "data".
      masks: whether batches hold what `TRUTH` names.
      start: number of batches to leave out at the beginning.
      watch: called with this process's part of every batch, masks included, while it is on the host.
      progress: title of the progress bar; "" for none.
      threads: how many read ahead; 0 for as many as `reading_threads` finds.
    """

    images: Images
    rows: int
    mesh: Mesh
    normalization: Normalization
    masks: bool = False
    start: int = 0
    watch: Callable[[Mapping[str, np.ndarray]], None] | None = None
    progress: str = ""
    threads: int = 0

    def __iter__(self) -> Iterator[Batch]:
        index, count = sharding.part_of(self.mesh)
        threads = self.threads or reading_threads(self.mesh)
        where = {"process_index": index, "process_count": count, "start": self.start}
        batches = evaluation_batches(self.images, self.rows, **where, threads=threads)
        silent = not self.progress or index > 0
        bar = {"total": len(self), "initial": self.start, "desc": self.progress, "unit": "batch", "disable": silent}
        for batch in tqdm(batches, **bar):
            if self.watch is not None:
                self.watch(batch)
            placed = sharding.put_batch(self.mesh, without_truth(batch, self.masks))
            yield _normalise_on_device(placed, self.normalization)

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.rows)
