"""The contract between a method and everything else: an explicit state, the stages that change it, a function that
predicts from it.

Variables are a plain nested dict of arrays, with one entry per Flax collection: `params`, `batch_stats` and whatever
else the method keeps (`memory`, `constants`). A batch is a dict of arrays whose first axis is the batch:

| key | shape and type | what it holds | where |
| --- | --- | --- | --- |
| `image` | float32 (b, h, w, 3) | images, normalised by the method's `normalization` | all but cached features |
| `features` | pytree, leading axis b | what `Train.features` returned for these images | stages that set it |
| `category` | int32 (b,) | index into the categories that `create` was given | everywhere |
| `index` | int32 (b,) | place of the image in its split | everywhere |
| `weight` | float32 (b,) | 0 on images that only fill the last batch | passes and predictions |
| `defect` | int32 (b,) | index into the split's defect types | where these are known |
| `mask` | bool (b, h, w) | True on defects | data with masks |
| `has_mask` | bool (b,) | False where the mask is unknown | data with masks |
| `label` | int32 (b,) | 1 anomalous, 0 normal | data with masks |
| `valid` | bool (b, h, w) | False on padding added by the geometry | data with masks |

"Data with masks" is what a stage asks for by `data="train+masks"`, `"auxiliary"` or `"validation"`. Predictions never
see a mask or a label. What `Train.prepare` returns besides is there too; every uint8 picture (b, h, w, 3) in it is
normalised as `image` is.

A method's module has one function beside the class, `create(config, categories) -> Method`: `config` is the whole
config, `categories` the names that `batch["category"]` counts: the categories that the model is for, then those of
auxiliary data. It is called once without any, to check the config before data is prepared.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

Variables = dict[str, Any]
Batch = Mapping[str, Any]
Item = dict[str, Any]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel, of [0, 1]
LossValue = tuple[Array, tuple[Variables, dict[str, Array]]]  # loss, (new values of other collections, scalars to log)

IMAGENET_NORMALIZATION: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT_NORMALIZATION: Normalization = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # images stay in [0, 1]

WITH_MASKS = ("train+masks", "auxiliary", "validation")  # data whose batches hold masks and labels


class Prediction(NamedTuple):
    """What a method says about a batch of images."""

    map: Float[Array, "b h w"]  # anomaly map at the input size, larger = more anomalous
    score: Float[Array, " b"]  # image score, larger = more anomalous


class Batches(Protocol):
    """The batches of a set of images, in order; they can be iterated over several times."""

    @property
    def mesh(self) -> Mesh: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


class Images(Protocol):
    """Random access to the images of a split, as `jaxad.data.split.Split` gives it."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Item: ...


@dataclass(frozen=True)
class Train:
    """A stage driven by gradients.

    Attributes:
      name: unique within the method; the stage's place in logs and checkpoints.
      loss: (variables, batch, key) -> (loss (), (updates, metrics)). `updates` holds the new values of non-parameter
        collections (running statistics), {} where there are none; `metrics` is a flat dict of scalars for the log. The
        loss is a mean over the global batch. Every random draw goes through a named function of the key.
      optimizer: total steps of this stage -> its optimizer, with schedules, clipping and per-group settings inside
        (see `jaxad.optimizers`). It sees the trainable parameters only, as a nested dict.
      trainable: path of a parameter ("decoder/layer1/kernel") -> whether this stage trains it. All other parameters get
        no gradient and no optimizer state.
      epochs: passes over the data; exactly one of `epochs` and `steps` is set.
      steps: batches in all (a batch cut by `minibatches` counts once).
      batch_size: images in a global batch.
      drop_last: whether the incomplete last batch of an epoch is left out.
      data: "train" (normal training images), "train+masks" (all training images, with masks), "auxiliary" (the data set
        named by `config.auxiliary`, with masks).
      sampling: "shuffled": each image once per epoch. "replacement": each batch is drawn anew from all images.
      prepare: (images, i, rng) -> item; what takes the place of `images[i]`, on the host, in the input pipeline's
        workers. It may rotate or recolour `images.original(i)`, read other images of the split, add a texture
        ("texture"). `rng` is seeded by (seed, step, place in the global batch), so that a resumed run draws the same.
        Elementwise work (masks, blending, noise) belongs in `loss`, on the device. `images` is the split
        (`jaxad.data.split.Split`), whose arrays must not be changed in place. Where the data has no masks, "mask",
        "has_mask", "label" and "valid" are dropped from what is returned: masks made here need another name.
      same_draws: seeds `rng` by (seed, image) instead: an image is prepared in the same way in every epoch.
      features: the frozen part, (variables, batch) -> pytree with leading axis b. It runs once per image, on the image
        as the split gives it, and is cached; `loss` finds the result in batch["features"], and an image only where
        `prepare` returns one. What does not fit the budget of `config.features` is computed in each step. None where
        images are augmented or the whole network is trained.
      minibatches: (batch, key) -> the batch cut into several optimizer steps, stacked along a new leading axis (the
        fibres of CFLOW). None: one step per batch.
      monitor: (variables, batches) -> a number, the larger the better, computed after every epoch from the held-out
        "validation" images, prepared as `prepare` says with the same draws each time. The stage ends with the variables
        of its best epoch.
      patience: number of epochs without a better number after which the stage ends early; None: never.
    """

    name: str
    loss: Callable[[Variables, Batch, Array], LossValue]
    optimizer: Callable[[int], optax.GradientTransformation]
    trainable: Callable[[str], bool]
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 8
    drop_last: bool = False
    data: Literal["train", "train+masks", "auxiliary"] = "train"
    sampling: Literal["shuffled", "replacement"] = "shuffled"
    prepare: Callable[[Any, int, np.random.Generator], Item] | None = None
    same_draws: bool = False
    features: Callable[[Variables, Batch], Any] | None = None
    minibatches: Callable[[Batch, Array], Batch] | None = None
    monitor: Callable[[Variables, Batches], float] | None = None
    patience: int | None = None

    def __post_init__(self):
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"Train stage {self.name!r}: set exactly one of epochs and steps")

    def total_steps(self, examples: int) -> int:
        """Number of batches in the whole stage, over a split of `examples` images."""
        return self.steps if self.steps is not None else (self.epochs or 0) * self.steps_per_epoch(examples)

    def steps_per_epoch(self, examples: int) -> int:
        """Number of batches in one pass over `examples` images."""
        return examples // self.batch_size if self.drop_last else -(-examples // self.batch_size)


@dataclass(frozen=True)
class Fit:
    """A stage that is one pass over the data in a fixed order: memory bank, Gaussian, centre, performance map.

    Attributes:
      name: unique within the method.
      start: (variables, examples, batch_size) -> carry, a pytree of arrays of fixed shapes; `examples` is the number of
        images. Every batch holds `batch_size` images; the last one is filled up with images of weight 0.
      update: (variables, carry, batch, step) -> carry; jitted and sharded, the old carry's buffers are donated; `step`
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
      partition: (regular expression on "collection/path", PartitionSpec) pairs, of which the first match wins; arrays
        without a match are replicated. Mesh axes are "data" and "model". A rule that names its collection begins with
        "^collection/".
      uses_category: whether predictions depend on `batch["category"]` (prompts); photographs without a data set then
        need `config.dataset.category`.
      no_threshold: why the scores of single images cannot be compared with a threshold, as the end of a sentence; ""
        where they can. Scores that depend on the whole set of images (MuSc, CFLOW's normalisation over the test set)
        have none.
    """

    partition: Sequence[tuple[str, PartitionSpec]] = ()
    uses_category: bool = False
    no_threshold: str = ""

    @property
    def normalization(self) -> Normalization:
        """(mean, standard deviation) by which images are normalised before the method sees them."""
        return IMAGENET_NORMALIZATION

    def init(self, key: Array) -> Variables:
        """The state before the first stage, pretrained weights loaded."""
        raise NotImplementedError

    def stages(self) -> Sequence[Stage]:
        """The stages in order; [] where nothing is trained."""
        raise NotImplementedError

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        """Maps and scores of one batch; pure, jitted once."""
        raise NotImplementedError

    def predict_all(self, variables: Variables, batches: Batches) -> Iterator[Prediction]:
        """Predictions for a set of images of one category, batch by batch, in order.

        The default scores each batch by itself. Methods that score images against each other (MuSc) or normalise over
        the set (CFLOW) override it.
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
