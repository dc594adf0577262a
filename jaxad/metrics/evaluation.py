"""The seven metrics of a test set: image and pixel AUROC, AP and F1max, and AUPRO."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxad.errors import UserError
from jaxad.metrics import ader
from jaxad.metrics.ranking import Ranking, aupro, auroc, average_precision, f1_max, rank_images, rank_pixels
from jaxad.metrics.truth import GroundTruth

Mode = Literal["exact", "ader", "ader_steps"]

IMAGE_METRICS = {"I-AUROC": auroc, "I-AP": average_precision, "I-F1max": f1_max}
PIXEL_METRICS = {"P-AUROC": auroc, "P-AP": average_precision, "P-F1max": f1_max, "AUPRO": aupro}
_ADER_NAMES = {
    "I-AUROC": "mAUROC_sp_max",
    "I-AP": "mAP_sp_max",
    "I-F1max": "mF1_max_sp_max",
    "P-AUROC": "mAUROC_px",
    "P-AP": "mAP_px",
    "P-F1max": "mF1_max_px",
    "AUPRO": "mAUPRO_px",
}


def compute(
    maps: Float[np.ndarray, "n h w"],
    scores: Float[np.ndarray, " n"],
    truth: GroundTruth,
    *,
    mode: Mode = "exact",
    pooling: int | None = None,
    name: str = "test set",
    pixel_ranking: Ranking | None = None,
) -> dict[str, float]:
    """Computes the metrics of one test set (one category); every value is a fraction in [0, 1].

    Args:
      maps: anomaly maps, larger = more anomalous, of any range.
      scores: image scores, larger = more anomalous, of any range.
      mode: "exact": every distinct score is a threshold, ties included; AUPRO up to a false positive rate of 0.3, as in
        MVTec's evaluation. "ader": ADer's evaluator as its benchmark configs set it (`use_adeval=True`, 50 strips), the
        one behind MIRAD's tables. "ader_steps": ADer's evaluator with `use_adeval=False` (exact P-AUROC and P-AP, AUPRO
        in 100 steps). As in ADer, these two score an image by the largest value of its map, call it defective where its
        mask is not empty, treat an image of unknown ground truth as one without defect, and search P-F1max over 21
        thresholds. A data set without any mask keeps the given labels.
      pooling: ADer's modes: score an image by the largest mean over windows of pooling x pooling pixels (16 or 21 for
        some methods).
      name: the category, for messages.
      pixel_ranking: `rank_pixels(maps, truth)`, where it was made before for the curves; mode "exact" reuses it.

    Returns:
      I-AUROC, I-AP, I-F1max, and where any image has a mask P-AUROC, P-AP, P-F1max, AUPRO. What the test set leaves
      undefined (no normal or no defective image or pixel; ADer's modes: constant maps) is NaN, with one warning.

    Raises:
      UserError: a map or a score is NaN or infinite (the message has the image's index), or `mode` and `pooling` do
        not fit.
      ValueError: maps or scores do not have the shape of the ground truth.
    """
    if mode not in get_args(Mode):
        raise UserError(f"metrics mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    if pooling is not None and mode == "exact":
        raise UserError(f"metrics pooling is {pooling} in mode 'exact', expected none: only ADer's modes pool")
    maps, scores = _as_float(maps), _as_float(scores)
    _check(name, maps, scores, truth)
    if mode == "exact":
        labels = truth.labels
        result = _all(IMAGE_METRICS, rank_images(scores, labels))
        ranking = rank_pixels(maps, truth) if pixel_ranking is None else pixel_ranking
        if ranking is not None:
            result |= _all(PIXEL_METRICS, ranking)
    else:
        labels = ader.image_labels(truth)
        values = ader.image_metrics(maps, truth, pooling=pooling)
        values |= ader.pixel_metrics(maps, truth, adeval=mode == "ader")
        result = {ours: values[theirs] for ours, theirs in _ADER_NAMES.items() if theirs in values}
    _warn_of_nan(name, mode, result, labels)
    return result


def _all(metrics: dict[str, Callable[[Ranking], float]], ranking: Ranking) -> dict[str, float]:
    return {name: metric(ranking) for name, metric in metrics.items()}


def _as_float(values: Shaped[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    values = np.asarray(values)
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _check(name: str, maps: np.ndarray, scores: np.ndarray, truth: GroundTruth) -> None:
    truth.check_maps(maps)
    if scores.shape != truth.labels.shape:
        raise ValueError(f"the shape of scores is {scores.shape}, expected {truth.labels.shape} as the labels")
    for index, anomaly_map in enumerate(maps):
        finite = np.isfinite(anomaly_map)
        if not finite.all() and (truth.valid is None or not finite[truth.valid[index]].all()):
            raise UserError(
                f"{name}: the anomaly map of image {index} holds NaN or infinite values, expected finite ones"
            )
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise UserError(f"{name}: the score of image {index} is {scores[index]}, expected a finite number")


def _warn_of_nan(name: str, mode: Mode, result: dict[str, float], labels: Bool[np.ndarray, " n"]) -> None:
    undefined = [metric for metric, value in result.items() if math.isnan(value)]
    if undefined:
        normal, defective = int(np.sum(~labels)), int(np.sum(labels))
        varied = "" if mode == "exact" else ", and maps that are not constant"
        warnings.warn(
            f"{name}: {', '.join(undefined)} cannot be computed (NaN): the test set has {normal} normal and "
            f"{defective} defective images; needed are both kinds of images, both kinds of pixels{varied}",
            RuntimeWarning,
            stacklevel=3,
        )
