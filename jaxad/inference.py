"""From a trained model to predictions for photographs: as arrays for notebooks, as files for the command line."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from jaxad import report, sharding
from jaxad.calibration import ALL, Threshold, threshold_of
from jaxad.checkpoint import Progress
from jaxad.config import Config
from jaxad.data import geometry, loose
from jaxad.errors import UserError, did_you_mean
from jaxad.experiment import check_settings, create_method
from jaxad.method import Variables
from jaxad.model_run import ModelRun
from jaxad.models import Model, models_of
from jaxad.workdir import CATEGORIES, check_config, saved_config

logger = logging.getLogger(__name__)

Photographs = str | os.PathLike | Sequence[np.ndarray]


@dataclass(frozen=True)
class ImagePrediction:
    """What a trained model says about one photograph.

    Attributes:
      path: as given; "image 0", "image 1", ... for images given as arrays.
      map: anomaly map at the photograph's own size, larger = more anomalous; NaN outside a crop.
      score: image score, larger = more anomalous.
      threshold: scores above it are anomalous; None where there is no threshold.
      decision: whether the score is above the threshold; None without one.
    """

    path: str
    image: UInt8[np.ndarray, "h w 3"]
    map: Float[np.ndarray, "h w"]
    score: float
    threshold: float | None

    @property
    def decision(self) -> bool | None:
        return None if self.threshold is None else self.score > self.threshold


def predict(config: Config, workdir: str | os.PathLike, images: Photographs) -> Iterator[ImagePrediction]:
    """Predicts photographs with a trained model, one after the other.

    Args:
      images: an image file, a folder that is searched for images, or uint8 arrays (h, w, 3).

    Raises:
      UserError: there is no image, no trained model, or several models and the config names none of them.
    """
    trained = trained_model(config, workdir)
    yield from trained.predictions(images)


@dataclass(frozen=True)
class Trained:
    """A trained model that photographs of one category are given to.

    Attributes:
      category: place of the photographs' category among the model's; None where the config names none.
    """

    run: ModelRun
    variables: Variables
    progress: Progress
    category: int | None

    @property
    def threshold(self) -> Threshold:
        """The threshold of the photographs' category, else the one over all categories of the model."""
        name = ALL if self.category is None else self.run.model.categories[self.category]
        return threshold_of(self.progress.notes, name, self.run.config.threshold.false_alarm_rate)

    def predictions(self, images: Photographs) -> Iterator[ImagePrediction]:
        """The predictions of `predict`; files that cannot be read are named in the log and left out."""
        form = geometry.from_config(self.run.config.input)
        if isinstance(images, str | os.PathLike):
            source = loose.FileSplit(loose.image_files(Path(images)), form, self.category or 0)
        else:
            source = loose.ArraySplit(images, form, self.category or 0)
        threshold = self.threshold.value
        for i, anomaly_map, score in self.run.predictor(self.variables).each(source, "images"):
            if i in source.errors:
                logger.error("%s", source.errors[i])
                continue
            image = source.original(i)
            restored = form.restore(anomaly_map, image.shape[:2])
            yield ImagePrediction(source.ids[i], image, restored, score, threshold)
        if source.errors:
            logger.error("%d of %d images could not be read and have no prediction", len(source.errors), len(source))


def predict_files(
    config: Config,
    workdir: str | os.PathLike,
    images: str,
    output: str | None = None,
    map_format: report.MapFormat = "png16",
) -> Path:
    """Predicts photographs and writes anomaly maps, overlays and predictions.csv to `output` (by default
    WORKDIR/predictions).

    Args:
      images: an image file, or a folder that is searched for images.
      map_format: "png16" or "npy" (exact).

    Returns:
      The path of predictions.csv.

    Raises:
      UserError: as `predict`, or nothing can be written.
    """
    trained = trained_model(config, workdir)
    threshold = trained.threshold
    if threshold.value is None:
        logger.warning("No image is decided, there is no threshold: %s", threshold.why_none)
    directory = Path(output) if output else Path(workdir) / "predictions"
    root = Path(images) if Path(images).is_dir() else Path(images).parent
    low, high = trained.progress.notes.get("map_scale", (0.0, 1.0))
    with report.PredictionWriter(directory, threshold.value, map_format, (low, high)) as writer:
        for predicted in trained.predictions(images):
            writer.add(
                predicted.path, Path(predicted.path).relative_to(root), predicted.image, predicted.map, predicted.score
            )
    print(f"Predictions: {directory / 'predictions.csv'}", flush=True)
    return directory / "predictions.csv"


def trained_model(config: Config, workdir: str | os.PathLike) -> Trained:
    """The model in `workdir` that the config means, and the category that photographs are taken to be of.

    That category is `config.dataset.category`, or the model's only one. A zero-shot model takes a category of any name.

    Raises:
      UserError: there is no model; there are several, or one that needs to know the category, and
        `config.dataset.category` names none.
    """
    check_settings(config)
    sharding.set_precision(config.precision)
    root, named = Path(workdir).absolute(), config.dataset.category
    names = sorted(path.parent.name for path in root.glob("*/checkpoints")) if root.is_dir() else []
    if not names:
        raise UserError(f"there is no trained model in {root}: train first, with the same --config and --workdir")
    wanted = models_of(config, [named], root)[0].folder.name
    if wanted == "all" and len(names) == 1:
        wanted = names[0]
    if wanted not in names:
        raise UserError(f"which model of {root}? set --config.dataset.category to one of {', '.join(names)}")
    folder = root / wanted
    categories = tuple(saved_config(folder).get(CATEGORIES, (wanted,)))
    check_config(folder, config, categories)
    if config.protocol == "zero_shot" and named != "all" and named not in categories:
        categories = (named, *categories)
    method = create_method(config, categories)
    category = categories.index(named) if named in categories else 0 if len(categories) == 1 else None
    if category is None and (method.uses_category or named != "all"):
        raise UserError(
            f"config.dataset.category is {named!r}; expected the category of the photographs, one of "
            f"{', '.join(categories)}.{did_you_mean(named, categories)}"
        )
    run = ModelRun(config, method, Model(wanted, categories, folder))
    return Trained(run, *run.restore(), category)
