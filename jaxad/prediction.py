"""Runs a method's `predict` over a set of images and gathers maps and scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from jaxad import sharding
from jaxad.data.batches import DeviceBatches, rows_per_batch
from jaxad.errors import UserError
from jaxad.method import Images, Method, Prediction, Variables

Watch = Callable[[Mapping[str, np.ndarray]], None]


@dataclass(frozen=True)
class Predictor:
    """A method with its variables on the devices.

    Attributes:
      batch_size: `config.evaluation.batch_size`; no result depends on it.
      threads: how many read images ahead; 0 for as many as there are cores.
    """

    method: Method
    variables: Variables
    batch_size: int
    mesh: Mesh
    threads: int = 0

    @property
    def rows(self) -> int:
        """Images in a global batch."""
        return rows_per_batch(self.batch_size, self.mesh)

    def each(
        self, images: Images, progress: str = "", watch: Watch | None = None
    ) -> Iterator[tuple[int, Float[np.ndarray, "h w"], float]]:
        """Index, anomaly map and score of every image, in order; images that only fill the last batch are left out.

        While one batch is looked at, the devices are busy with the next.

        Args:
          images: of one category.
          progress: title of the progress bar; "" for none.
          watch: see `DeviceBatches`.

        Raises:
          UserError: a map or score is not a number; the message names the image.
        """
        where = {"watch": watch, "progress": progress, "threads": self.threads}
        batches = DeviceBatches(images, self.rows, self.mesh, self.method.normalization, **where)
        index = 0
        for prediction in _one_behind(self.method.predict_all(self.variables, batches)):
            on_host = sharding.to_host(prediction)
            for anomaly_map, score in zip(on_host.map, on_host.score, strict=True):
                if index == len(images):
                    break
                if np.isnan(score) or np.isnan(anomaly_map).any():
                    raise UserError(f"the anomaly map of {images.ids[index]} is not a number: look at this image")
                yield index, anomaly_map, float(score)
                index += 1

    def all(self, images: Images, progress: str = "", watch: Watch | None = None) -> "Predictions":
        """Maps and scores of every image; arguments and errors as in `each`."""
        maps, scores = np.empty((0, 0, 0), np.float32), np.empty(len(images), np.float32)
        for i, anomaly_map, score in self.each(images, progress, watch):
            if not i:
                maps = np.empty((len(images), *anomaly_map.shape), anomaly_map.dtype)
            maps[i], scores[i] = anomaly_map, score
        return Predictions(maps, scores)


def _one_behind(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """The predictions, each once the next one is on its way."""
    waiting: list[Prediction] = []
    for prediction in predictions:
        yield from waiting
        waiting = [prediction]
    yield from waiting


@dataclass(frozen=True)
class Predictions:
    """Maps and scores of a set of images, in its order."""

    maps: Float[np.ndarray, "n h w"]
    scores: Float[np.ndarray, " n"]


class Seen:
    """Keeps what batches show of their images while these pass by: a `watch` for `Predictor`.

    Args:
      count: number of images.
      rows: images in a global batch.
      names: entries of the items to keep.
      mesh: whose processes read the images.
    """

    def __init__(self, count: int, rows: int, names: tuple[str, ...], mesh: Mesh):
        self.count, self.rows, self.names, self.mesh = count, rows, names, mesh
        self.kept: dict[str, np.ndarray] = {}

    def __call__(self, batch: Mapping[str, np.ndarray]) -> None:
        for name in self.names:
            value = np.asarray(batch[name])
            if name not in self.kept:
                self.kept[name] = np.zeros((self.count, *value.shape[1:]), value.dtype)
            self.kept[name][batch["index"]] = value

    def everywhere(self) -> dict[str, np.ndarray]:
        """The entries of all images by name, those that other processes have read included."""
        index, processes = sharding.part_of(self.mesh)
        if processes == 1:
            return self.kept
        places = np.arange(-(-self.count // self.rows) * self.rows)
        by_process = places.reshape(-1, processes, self.rows // processes)
        own = np.minimum(by_process[:, index].ravel(), self.count - 1)
        return {
            name: sharding.gather_rows(self.mesh, kept[own], self.rows)[: self.count]
            for name, kept in self.kept.items()
        }
