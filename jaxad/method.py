"""The contract between a method and everything else: an explicit state, the stages that change it, a function that
predicts from it.

Variables are a plain nested dict of arrays, one entry a Flax collection: `params`, `batch_stats` and whatever the
method keeps (`memory`, `constants`). A batch is a dict of arrays whose first axis is the batch:

 - `image`     float32 (b, h, w, 3), normalised by the method's `normalization`; absent where a stage trains on cached
   features
 - `features`  what `Train.features` returned for these images; present only where it is set
 - `mask`      bool (b, h, w), True on defects         - `valid`     bool (b, h, w), False on padding of the geometry
 - `has_mask`  bool (b,), False where no mask is known - `label`     int32 (b,), 1 anomalous
 - `category`  int32 (b,), an index into the run's categories
 - `defect`    int32 (b,), an index into the split's defect types; absent where these are not known
 - `index`     int32 (b,), the image's place in its split
 - `weight`    float32 (b,), 0 on images that only fill the last batch of a pass (never in training)

Design note: `predict` takes the batch, not the images alone, because prompt methods (AdaCLIP, WinCLIP, APRIL-GAN) need
the category.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

Variables = dict[str, Any]
Batch = Mapping[str, Any]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of the channels, in [0, 1]

IMAGENET_NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Prediction(NamedTuple):
    """What a method says of a batch of images."""

    map: Float[Array, "b h w"]  # anomaly map at the input size, larger = more anomalous
    score: Float[Array, " b"]  # image score, larger = more anomalous


@dataclass(frozen=True)
class Train:
    """A stage driven by gradients.

    Attributes:
      name: unique within the method; the stage's place in logs and checkpoints.
      loss: (variables, batch, key) -> (loss (), (updates, metrics)): `updates` holds the new values of non-parameter
        collections (running statistics), {} where there are none; `metrics` is a flat dict of scalars for the log. The
        loss is a mean over the batch, computed on the whole global batch.
      optimizer: schedules, clipping and per-group settings inside; it sees the trainable parameters only, as a nested
        dict.
      trainable: path of a parameter ("decoder/layer1/kernel") -> whether this stage trains it. The rest gets no
        gradient and no optimizer state.
      epochs: passes over the data; exactly one of `epochs` and `steps` is set.
      steps: optimizer steps over batches (a batch cut by `minibatches` counts once).
      batch_size: images of one global batch.
      drop_last: whether an incomplete last batch of an epoch is left out.
      data: "train" (normal training images), "train+masks" (all training images, with masks), "auxiliary" (the data set
        of `config.auxiliary`, with masks).
      features: the frozen part, (variables, batch) -> pytree with leading axis b. Run once an image and cached; `loss`
        then finds the result in batch["features"] and no image. None where images are augmented or the whole network is
        trained.
      minibatches: (batch, key) -> the batch cut into several optimizer steps, stacked on a new leading axis (CFLOW's
        fibres);
        None: one step a batch.
      monitor: (variables, batches) -> a number, the larger the better, asked for after every epoch with the batches of
        the held-out "validation" images (iterable several times). The stage ends with the variables of the best epoch.
      patience: epochs without a better number after which the stage ends early; None: never.
    """

    name: str
    loss: Callable[[Variables, Batch, Array], tuple[Array, tuple[Variables, dict[str, Array]]]]
    optimizer: optax.GradientTransformation
    trainable: Callable[[str], bool]
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 8
    drop_last: bool = False
    data: Literal["train", "train+masks", "auxiliary"] = "train"
    features: Callable[[Variables, Batch], Any] | None = None
    minibatches: Callable[[Batch, Array], Batch] | None = None
    monitor: Callable[[Variables, Iterable[Batch]], float] | None = None
    patience: int | None = None

    def __post_init__(self):
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"Train stage {self.name!r}: set exactly one of epochs and steps")

    def total_steps(self, examples: int) -> int:
        """Batches of the whole stage over `examples` images."""
        return self.steps if self.steps is not None else (self.epochs or 0) * self.steps_per_epoch(examples)

    def steps_per_epoch(self, examples: int) -> int:
        return examples // self.batch_size if self.drop_last else -(-examples // self.batch_size)


@dataclass(frozen=True)
class Fit:
    """A stage that is one pass over the data in a fixed order: memory bank, Gaussian, centre, performance map.

    Attributes:
      name: unique within the method.
      start: (variables, examples, batch_size) -> carry, a pytree of arrays of fixed shapes; `examples` is the number of
        images and every batch holds `batch_size` of them, the last one filled up with images of weight 0 at its end.
      update: (variables, carry, batch, step) -> carry; jitted, sharded, the old carry's memory is given up; `step`
        counts batches.
      finish: (variables, carry, examples, key) -> variables; runs once, on the host, and may call jitted functions.
      data: as in `Train`, or "validation" (images held out of training, anomalous ones included where there are any).
    """

    name: str
    start: Callable[[Variables, int, int], Any]
    update: Callable[[Variables, Any, Batch, Array], Any]
    finish: Callable[[Variables, Any, int, Array], Variables]
    data: Literal["train", "train+masks", "auxiliary", "validation"] = "train"


Stage = Train | Fit


@functools.lru_cache(maxsize=16)
def _jitted_predict(method: "Method") -> Callable[[Variables, Batch], Prediction]:
    return jax.jit(method.predict)


class Method:
    """What every method offers. A subclass is a frozen dataclass of its settings; all state is in the variables.

    Attributes:
      partition: (regular expression on "collection/path", PartitionSpec) pairs, the first match wins; arrays without a
        match are replicated. Mesh axes are "data" and "model".
    """

    partition: Sequence[tuple[str, PartitionSpec]] = ()

    @property
    def normalization(self) -> Normalization:
        """(mean, std) that images are normalised with before the method sees them."""
        return IMAGENET_NORMALIZATION

    def init(self, key: Array) -> Variables:
        """The state before the first stage, pretrained weights loaded."""
        raise NotImplementedError

    def stages(self, examples: int) -> Sequence[Stage]:
        """The stages in order; `examples` is the number of training images (schedules count in steps)."""
        raise NotImplementedError

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        """Maps and scores of one batch; pure, jitted once."""
        raise NotImplementedError

    def predict_all(self, variables: Variables, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """Predictions of a whole set, batch by batch, in order.

        The default scores each batch by itself. Methods that score images against each other (MuSc) or normalise over
        the set (CFLOW) override it; `batches` may be iterated several times.
        """
        predict = _jitted_predict(self)
        for batch in batches:
            yield predict(variables, batch)

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        """Variables from the reference implementation's own checkpoint, by its own names and layouts.

        Raises:
          UserError: a key is missing or has another shape.
        """
        raise NotImplementedError
