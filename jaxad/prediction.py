"""Runs a method's `predict` over a split and gathers maps and scores."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from tqdm import tqdm

from jaxad import sharding
from jaxad.data.pipeline import evaluation_batches
from jaxad.errors import UserError
from jaxad.method import Batch, Method, Variables


@dataclass(frozen=True)
class Predictions:
    """Of all images of a split, in its order."""

    maps: Float[np.ndarray, "n h w"]
    scores: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Batches:
    """The batches of a split on the devices, normalised; may be iterated several times."""

    split: Any
    rows: int
    mesh: Mesh
    normalization: tuple
    progress: str = ""

    def __iter__(self) -> Iterator[Batch]:
        batches = evaluation_batches(
            self.split, self.rows, process_index=jax.process_index(), process_count=jax.process_count()
        )
        silent = not self.progress or jax.process_index() > 0
        for batch in tqdm(batches, total=len(self), desc=self.progress, unit="batch", disable=silent):
            yield _normalise_on_device(sharding.put_batch(self.mesh, batch), self.normalization)

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.rows)


def normalise(batch: Batch, normalization: tuple) -> dict[str, Any]:
    """The batch with its uint8 images as float32, scaled to [0, 1] and normalised by (mean, std)."""
    if "image" not in batch:
        return dict(batch)
    mean, std = (jnp.asarray(numbers, jnp.float32) for numbers in normalization)
    return {**batch, "image": (batch["image"].astype(jnp.float32) / 255.0 - mean) / std}


_normalise_on_device = jax.jit(normalise, static_argnums=1)


def rows_a_batch(batch_size: int, mesh: Mesh) -> int:
    """`batch_size`, rounded up to what divides over the devices."""
    parts = mesh.shape["data"]
    return math.ceil(batch_size / parts) * parts


def predict_each(
    method: Method, variables: Variables, split: Any, batch_size: int, mesh: Mesh, progress: str = ""
) -> Iterator[tuple[int, Float[np.ndarray, "h w"], float]]:
    """Index, anomaly map and score of every image of the split, in order; images that only fill the last batch are left
    out.

    Raises:
      UserError: a map or score is not a number; the message names the image.
    """
    batches = Batches(split, rows_a_batch(batch_size, mesh), mesh, method.normalization, progress)
    index = 0
    for prediction in method.predict_all(variables, batches):
        found = sharding.to_host(prediction)
        for anomaly_map, score in zip(found.map, found.score, strict=True):
            if index == len(split):
                break
            if np.isnan(score) or np.isnan(anomaly_map).any():
                raise UserError(f"the anomaly map of {split.ids[index]} is not a number: look at this image")
            yield index, anomaly_map, float(score)
            index += 1


def predict_split(
    method: Method, variables: Variables, split: Any, batch_size: int, mesh: Mesh, progress: str = ""
) -> Predictions:
    """Maps and scores of every image of the split; errors as `predict_each`."""
    rows = list(predict_each(method, variables, split, batch_size, mesh, progress))
    return Predictions(np.stack([row[1] for row in rows]), np.array([row[2] for row in rows], np.float32))
