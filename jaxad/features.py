"""The frozen part of a `Train` stage, run once per image: its results in memory, or on disk where they do not fit."""

import functools
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxad import sharding
from jaxad.data.batches import TRUTH, DeviceBatches, Prepare
from jaxad.errors import UserError
from jaxad.method import WITH_MASKS, Batch, Images, Item, Train, Variables
from jaxad.prediction import Seen

logger = logging.getLogger(__name__)

PLAIN = "plain_image"


class FeatureImages:
    """A split whose items hold cached features in place of the image; no photograph is decoded for them again.

    Args:
      facts: the items' other entries, each an array over all images.
    """

    def __init__(self, images: Images, facts: Mapping[str, np.ndarray], features: Any):
        self.images, self.facts, self.features = images, facts, features

    @property
    def ids(self) -> Sequence[str]:
        return self.images.ids

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Item:
        facts = {name: values[i] for name, values in self.facts.items()}
        return {**facts, "features": jax.tree.map(lambda array: array[i], self.features)}

    def prepared(self, prepare: Prepare) -> Prepare:
        """`prepare` as a stage wrote it, for the split of images; the features stay beside what it returns."""
        return lambda _, i, rng: prepare(self.images, i, rng)


def cached(
    stage: Train,
    compute: Callable[[Variables, Batch], Any],
    variables: Variables,
    batches: DeviceBatches,
    budget: tuple[float, float],
    folder: Path,
) -> FeatureImages | None:
    """The images with the features of the stage; None where these do not fit, so that every step has to compute them.

    Args:
      compute: `stage.features`, jitted.
      batches: all images, in order.
      budget: bytes in memory and on disk.
      folder: where features go that do not fit in memory; their file goes with the last reference to it.

    Raises:
      UserError: a feature is not finite; the message names the image.
    """
    images, rows = batches.images, batches.rows
    left_out = ("image", *(() if stage.data in WITH_MASKS else TRUTH))
    facts = Seen(len(images), rows, tuple(name for name in images[0] if name not in left_out), batches.mesh)
    features, done = None, 0
    for batch in replace(batches, watch=facts):
        computed = sharding.to_host(compute(variables, batch))
        if features is None:
            size = sum(leaf.nbytes / rows for leaf in jax.tree.leaves(computed)) * len(images)
            if size > sum(budget):
                logger.warning(
                    "Features of %.1f GiB are over the budget of config.features: each step computes them anew",
                    size / 2**30,
                )
                return None
            place = None if size <= budget[0] else folder
            features = jax.tree.map(functools.partial(_allocate, len(images), place), computed)
        count = min(rows, len(images) - done)
        _check_finite(stage, images, computed, done, count)
        for kept, new in zip(jax.tree.leaves(features), jax.tree.leaves(computed), strict=True):
            kept[done : done + count] = new[:count]
        done += count
    return FeatureImages(images, facts.everywhere(), features)


def with_plain(prepare: Prepare) -> Prepare:
    """`prepare`, with the image as the split gives it beside the prepared one: what `with_features` looks at."""

    def both(images: Images, i: int, rng: np.random.Generator) -> Item:
        return {**prepare(images, i, rng), PLAIN: images[i]["image"]}

    return both


def with_features(stage: Train, variables: Variables, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch with the stage's features, computed now where no cache has put them there."""
    if stage.features is None or "features" in batch:
        return batch
    rest = {name: value for name, value in batch.items() if name != PLAIN}
    features = stage.features(variables, {**rest, "image": batch.get(PLAIN, batch["image"])})
    return {**rest, "features": jax.lax.stop_gradient(features)}


def _check_finite(stage: Train, images: Images, features: Any, first: int, count: int) -> None:
    for leaf in jax.tree.leaves(features):
        bad = ~np.isfinite(leaf[:count]).reshape(count, -1).all(1)
        if bad.any():
            raise UserError(
                f"stage {stage.name!r}: the features of {images.ids[first + int(np.argmax(bad))]} are not finite: "
                "look at this image and at the weights of config.backbone"
            )


def _allocate(count: int, folder: Path | None, like: np.ndarray) -> np.ndarray:
    """Room for `count` rows of the shape and type of `like`: in memory, or in an unnamed file in `folder`."""
    shape = (count, *like.shape[1:])
    if folder is None:
        return np.empty(shape, like.dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return np.memmap(file, like.dtype, "w+", shape=shape)
