"""Methods that hold other methods: everything that a part keeps, does and logs lies one level below its name.

MADE-Net is one: three submodels and a classifier, trained in stages of their own, in one checkpoint.

    one = Part("srad", SRAD(...))
    variables = merge(one.init(key), ...)       # {"params": {"srad": ...}, "batch_stats": {"srad": ...}}
    stages = [*one.stages(), ...]               # "srad/unsupervised", ...
    prediction = one.predict(variables, batch)

A composed method takes its images in [0, 1] (`UNIT_NORMALIZATION`); each part sees them at its own size and with its
own normalisation.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from jaxad.method import Batch, Batches, Fit, LossValue, Method, Prediction, Train, Variables
from jaxad.nn.resize import resize
from jaxad.trees import inside, merge, under


@dataclass(frozen=True)
class Part:
    """A method as a part of another one.

    Attributes:
      name: of its arrays in every collection; the prefix of its stages and logs.
      size: (height, width) at which it sees images; None: as they come.
    """

    name: str
    method: Method
    size: tuple[int, int] | None = None

    @property
    def partition(self) -> Sequence[tuple[str, PartitionSpec]]:
        """The part's rules, for paths below its name."""
        return tuple((_below(self.name, rule), spec) for rule, spec in self.method.partition)

    def init(self, key: Array) -> Variables:
        """The part's variables, below its name."""
        return under(self.name, self.method.init(key))

    def inside(self, variables: Variables) -> Variables:
        """The part's own variables."""
        return inside(variables, self.name)

    def batch(self, batch: Batch) -> dict[str, Any]:
        """The composed method's batch as the part sees it: pictures normalised, everything at its size."""
        mean, std = (jnp.asarray(numbers, jnp.float32) for numbers in self.method.normalization)

        def seen(name: str, value: Any) -> Any:
            if name == "features":
                return value
            if value.dtype == bool and value.ndim == 3 and self.size is not None:  # mask, valid
                return resize(value[..., None].astype(jnp.float32), self.size, "nearest")[..., 0] > 0.5
            if value.ndim == 4 and value.shape[-1] == 3:
                value = value if self.size is None else resize(value, self.size, antialias=True)
                return (value - mean) / std
            return value

        return {name: seen(name, value) for name, value in batch.items()}

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        """The part's prediction, with its maps at the size of the composed method's images."""
        prediction = self.method.predict(self.inside(variables), self.batch(batch))
        size = batch["image"].shape[1:3]
        maps = prediction.map if prediction.map.shape[1:] == size else resize(prediction.map[..., None], size)[..., 0]
        return Prediction(maps, prediction.score)

    def stages(self) -> list[Train | Fit]:
        """The part's stages, acting on the composed method's variables and batches."""
        return [self.stage(stage) for stage in self.method.stages()]

    def stage(self, stage: Train | Fit) -> Train | Fit:
        """One stage of the part, as a stage of the composed method."""
        name = f"{self.name}/{stage.name}"
        return self._train(stage, name) if isinstance(stage, Train) else self._fit(stage, name)

    def _train(self, stage: Train, name: str) -> Train:
        seen = self.batch if stage.minibatches is None else dict  # what `minibatches` cut has been seen by the part

        def loss(variables: Variables, batch: Batch, key: Array) -> LossValue:
            value, (updates, metrics) = stage.loss(self.inside(variables), seen(batch), key)
            return value, (under(self.name, updates), metrics)

        def minibatches(batch: Batch, key: Array) -> Batch:
            assert stage.minibatches is not None
            return stage.minibatches(self.batch(batch), key)

        def features(variables: Variables, batch: Batch) -> Any:
            assert stage.features is not None
            return stage.features(self.inside(variables), self.batch(batch))

        def monitor(variables: Variables, batches: Batches) -> float:
            assert stage.monitor is not None
            return stage.monitor(self.inside(variables), _PartBatches(self, batches))

        return replace(
            stage,
            name=name,
            loss=loss,
            optimizer=lambda steps: _inside_module(self.name, stage.optimizer(steps)),
            trainable=lambda path: path.startswith(f"{self.name}/") and stage.trainable(path[len(self.name) + 1 :]),
            minibatches=None if stage.minibatches is None else minibatches,
            features=None if stage.features is None else features,
            monitor=None if stage.monitor is None else monitor,
        )

    def _fit(self, stage: Fit, name: str) -> Fit:
        # the carry lies below the part's name too, where its rules look for it
        def start(variables: Variables, examples: int, batch_size: int) -> Any:
            return {self.name: stage.start(self.inside(variables), examples, batch_size)}

        def update(variables: Variables, carry: Any, batch: Batch, step: Array) -> Any:
            return {self.name: stage.update(self.inside(variables), carry[self.name], self.batch(batch), step)}

        def finish(variables: Variables, carry: Any, examples: int, key: Array) -> Variables:
            own = stage.finish(self.inside(variables), carry[self.name], examples, key)
            return merge(variables, under(self.name, own))

        return replace(stage, name=name, start=start, update=update, finish=finish)


@dataclass(frozen=True)
class _PartBatches:
    """The composed method's batches as a part sees them."""

    part: Part
    batches: Batches

    @property
    def mesh(self) -> Mesh:
        return self.batches.mesh

    def __iter__(self) -> Iterator[Batch]:
        return map(self.part.batch, self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _inside_module(name: str, transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation of what lies below `name`, for parameters that hold nothing else."""

    def init(params: Any) -> Any:
        return {name: transform.init(params[name])}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        changes, inner = transform.update(updates[name], state[name], None if params is None else params[name])
        return {name: changes}, {name: inner}

    return optax.GradientTransformation(init, update)


def _below(name: str, rule: str) -> str:
    """A rule on "collection/path" as one on "collection/name/path": "^collection/" stays anchored, and what is found
    anywhere is found anywhere below the name.
    """
    if match := re.match(r"\^(\\w\+|\w+|\([\w|]+\))/", rule):
        return f"^{match[1]}/{re.escape(name)}/{rule[match.end() :]}"
    return rf"^\w+/{re.escape(name)}(?=/).*(?:{rule.removeprefix('^')})"
