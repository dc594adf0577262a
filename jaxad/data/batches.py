"""What a batch is: the order of training, the padding of the last batch of a pass, the way to the devices.

Batches are NumPy arrays on the host; Grain reads ahead and keeps the place. The order of a training run is a pure
function of its seed, whatever the number of processes: process p of P reads the p-th part of every global batch.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
TRUTH = ("mask", "has_mask", "label")  # of an item; the rest is what a method may know when it predicts


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
        epoch, place = divmod(step, self.per_epoch)
        chosen = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        places, replicated = range(len(chosen)), len(chosen) % max(self.parts, self.process_count) != 0
        if not replicated:
            part = len(chosen) // self.process_count
            places = range(self.process_index * part, (self.process_index + 1) * part)
        batch = _stacked([self._item(int(chosen[place]), step, place) for place in places])
        return {**batch, "replicated": True} if replicated else batch

    def _order(self, epoch: int) -> np.ndarray:
        if self.sampling == "replacement":
            return np.random.default_rng((self.seed, _ORDER, epoch)).integers(0, len(self.images), len(self.images))
        return permutation(self.seed, epoch, len(self.images))

    def _item(self, i: int, step: int, place: int) -> Item:
        if self.prepare is None:
            return without_truth(self.images[i], self.masks)
        draws = (self.seed, _IMAGE, i) if self.same_draws else (self.seed, _STEP, step, place)
        return without_truth(prepared(self.prepare, self.images, i, draws), self.masks)


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


def training_iterator(stage: Train, images: Images, seed: int, mesh: Mesh) -> Any:
    """This process's part of a stage's batches, read ahead in threads.

    Returns:
      A Grain iterator over dicts of stacked arrays. `get_state()` is a JSON-able dict, to be given to `set_state()` of
      an iterator made with the same arguments, which then goes on with the next batch.

    Raises:
      UserError: as `check_batches`.
    """
    check_batches(stage, len(images))
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
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        parts=mesh.shape["data"],
    )
    return read_ahead(batches)


def evaluation_batches(
    images: Images, batch_size: int, *, process_index: int = 0, process_count: int = 1, start: int = 0
) -> Iterator[Item]:
    """This process's part of all images in order, in batches of one size, read ahead in threads.

    The last batch is filled up with its last image. `weight` float32 (b,) is 1 for images that count and 0 for filling,
    times the item's own `weight` where it has one.

    Args:
      start: number of batches to leave out at the beginning, for a pass that was interrupted.

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
    yield from read_ahead(_Padded(images, part, starts))


@dataclass(frozen=True)
class _Padded:
    """Batches of `length` images from each of the starts on, the last one filled up."""

    images: Images
    length: int
    starts: range

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, place: int) -> Item:
        start, count = self.starts[place], len(self.images)
        # with several processes the last global batch may hold nothing for the later ones
        indices = range(start, min(start + self.length, count)) or [count - 1]
        items = [self.images[i] for i in indices]
        real = len(items) if start < count else 0
        batch = _stacked(items + items[-1:] * (self.length - len(items)))
        batch["weight"] = batch.get("weight", np.float32(1)) * (np.arange(self.length) < real).astype(np.float32)
        return batch


def _stacked(items: list[Item]) -> Item:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *items)


def read_ahead(batches: Any) -> Any:
    """Grain's iterator over a sequence of batches, with a few in flight; Pillow decodes outside Python's lock."""
    import grain.python as grain

    threads = min(8, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))


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
    """

    images: Images
    rows: int
    mesh: Mesh
    normalization: Normalization
    masks: bool = False
    start: int = 0
    watch: Callable[[Mapping[str, np.ndarray]], None] | None = None
    progress: str = ""

    def __iter__(self) -> Iterator[Batch]:
        where = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        batches = evaluation_batches(self.images, self.rows, **where, start=self.start)
        silent = not self.progress or jax.process_index() > 0
        bar = {"total": len(self), "initial": self.start, "desc": self.progress, "unit": "batch", "disable": silent}
        for batch in tqdm(batches, **bar):
            if self.watch is not None:
                self.watch(batch)
            placed = sharding.put_batch(self.mesh, without_truth(batch, self.masks))
            yield _normalise_on_device(placed, self.normalization)

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.rows)
