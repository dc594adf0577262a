"""From a trained model to predictions of photographs: as arrays for notebooks, as files for the command line."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxad import prediction, report
from jaxad.calibration import threshold_of
from jaxad.checkpoint import Progress
from jaxad.config import Config
from jaxad.data import geometry, loose
from jaxad.errors import UserError
from jaxad.experiment import Model, create_method
from jaxad.method import Variables
from jaxad.workdir import check_config, folder_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagePrediction:
    """What a trained model says of one photograph.

    Attributes:
      path: as given; the place in the list for images given as arrays.
      map: anomaly map at the photograph's own size, larger = more anomalous; NaN outside a crop.
      score: image score, larger = more anomalous.
      decision: whether the score is above the threshold; None where none was calibrated.
    """

    path: str
    image: UInt8[np.ndarray, "h w 3"]
    map: Float[np.ndarray, "h w"]
    score: float
    threshold: float | None

    @property
    def decision(self) -> bool | None:
        return None if self.threshold is None else self.score > self.threshold


def predict(
    config: Config, workdir: str | os.PathLike, images: str | os.PathLike | Sequence[np.ndarray]
) -> Iterator[ImagePrediction]:
    """Predicts photographs with a trained model, one after the other.

    Args:
      images: an image file, a folder that is searched for images, or uint8 arrays (h, w, 3).

    Raises:
      UserError: there is no image, no trained model, or several models and the config names none of them.
    """
    model = trained_model(config, workdir)
    yield from predictions_of(model, *model.restore(), images)


def predictions_of(model: Model, variables: Variables, progress: Progress, images: Any) -> Iterator[ImagePrediction]:
    """The predictions of `predict`; files that cannot be read are named in the log and left out."""
    form = geometry.from_config(model.config.input)
    if isinstance(images, str | os.PathLike):
        source = loose.FileSplit(loose.image_files(Path(images)), form)
    else:
        source = loose.ArraySplit(images, form)
    threshold = progress.notes.get("thresholds", {}).get(model.categories[0] if len(model.categories) == 1 else "all")
    settings = model.config.evaluation.batch_size
    for i, anomaly_map, score in prediction.predict_each(
        model.method, variables, source, settings, model.mesh, "images"
    ):
        if i in source.errors:
            logger.error("%s", source.errors[i])
            continue
        image = source.original(i)
        yield ImagePrediction(source.ids[i], image, form.restore(anomaly_map, image.shape[:2]), score, threshold)
    if source.errors:
        logger.error("%d of %d images could not be read and have no prediction", len(source.errors), len(source))


def threshold_in(model: Model, progress: Progress) -> float | None:
    """The model's threshold at the config's false-alarm rate, over all its categories."""
    return threshold_of(progress.notes, "all", model.config.threshold.false_alarm_rate)[0]


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
    model = trained_model(config, workdir)
    variables, progress = model.restore()
    directory = Path(output) if output else Path(workdir) / "predictions"
    root = Path(images) if Path(images).is_dir() else Path(images).parent
    low, high = progress.notes.get("map_scale", (0.0, 1.0))
    with report.PredictionWriter(directory, threshold_in(model, progress), map_format, (low, high)) as writer:
        for found in predictions_of(model, variables, progress, images):
            writer.add(found.path, Path(found.path).relative_to(root), found.image, found.map, found.score)
    print(f"Predictions: {directory / 'predictions.csv'}", flush=True)
    return directory / "predictions.csv"


def trained_model(config: Config, workdir: str | os.PathLike) -> Model:
    """The model in `workdir` that the config means.

    Raises:
      UserError: there is none, or there are several and `config.dataset.category` names none of them.
    """
    root = Path(workdir).absolute()
    found = sorted(path.parent.name for path in root.glob("*/checkpoints")) if root.is_dir() else []
    if not found:
        raise UserError(f"there is no trained model in {root}: train first, with the same --config and --workdir")
    wanted = "multi_class" if config.protocol == "multi_class" else folder_name(config.dataset.category)
    if wanted == "all" and len(found) == 1:
        wanted = found[0]
    if wanted not in found:
        raise UserError(f"which model of {root}? set --config.dataset.category to one of {', '.join(found)}")
    folder = root / wanted
    check_config(folder, config)
    return Model(config, create_method(config), folder, [wanted])
