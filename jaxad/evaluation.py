"""Predictions against the ground truth: metrics, curves and the images worth showing, category by category."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxad import metrics, report, sharding
from jaxad.calibration import Threshold
from jaxad.data.split import Split
from jaxad.prediction import Predictor, Seen

SHOWN = ("image", "mask", "valid", "has_mask", "label")


@dataclass(frozen=True)
class Evaluation:
    """Everything known about the test images of one category.

    Attributes:
      images: at the input size.
      known_masks: the ground truth image by image, blank where it is unknown (`truth.has_mask`).
      curves: "image" and, with masks, "pixel".
      metrics: as fractions; `jaxad.metrics.compute` says which.
    """

    category: str
    split: Split
    images: UInt8[np.ndarray, "n h w 3"]
    maps: Float[np.ndarray, "n h w"]
    scores: Float[np.ndarray, " n"]
    truth: metrics.GroundTruth
    known_masks: Bool[np.ndarray, "n h w"]
    curves: dict[str, metrics.Curves]
    metrics: dict[str, float]


def evaluate_category(
    predictor: Predictor, category: str, split: Split, mode: metrics.Mode, progress: str = ""
) -> Evaluation | None:
    """Predicts the images of one category and compares them with their ground truth; each image is read once.

    Every process of the mesh has to call it; the first one keeps the maps and compares.

    Args:
      split: images of this category only.
      mode: "exact", or one of ADer's: see `jaxad.metrics.compute`.

    Returns:
      What is known then; None in the other processes.
    """
    seen = Seen(len(split), predictor.rows, SHOWN, predictor.mesh)
    if sharding.part_of(predictor.mesh)[0] > 0:
        for _ in predictor.each(split, progress, watch=seen):
            pass
        seen.everywhere()
        return None
    predictions = predictor.all(split, progress, watch=seen)
    shown = seen.everywhere()
    truth = ground_truth(shown)
    curves = {"image": metrics.curves(metrics.rank_images(predictions.scores, truth.labels))}
    ranking = metrics.rank_pixels(predictions.maps, truth)
    if ranking is not None:
        curves["pixel"] = metrics.curves(ranking)
    values = metrics.compute(
        predictions.maps,
        predictions.scores,
        truth,
        mode=mode,
        name=category,
        pixel_ranking=ranking,
    )
    return Evaluation(
        category, split, shown["image"], predictions.maps, predictions.scores, truth, shown["mask"], curves, values
    )


def ground_truth(shown: Mapping[str, np.ndarray]) -> metrics.GroundTruth:
    """The truth about images of which `SHOWN` is known; without masks where no defective image has one."""
    labels, has_mask = shown["label"].astype(bool), shown["has_mask"]
    known = bool((labels & has_mask).any()) or not labels.any()
    return metrics.GroundTruth(
        labels=labels, masks=shown["mask"] if known else None, valid=shown["valid"], has_mask=has_mask
    )


def mean_metrics(categories: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the categories that have it."""
    rows = list(categories)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def category_result(
    evaluation: Evaluation, threshold: Threshold, seconds: Mapping[str, float]
) -> report.CategoryResult:
    """The row of a report.

    Args:
      seconds: what took how long.
    """
    return report.CategoryResult(
        category=evaluation.category,
        metrics=evaluation.metrics,
        ids=list(evaluation.split.ids),
        scores=evaluation.scores,
        labels=evaluation.truth.labels,
        defect_types=list(evaluation.split.defect_types),
        threshold=threshold.value,
        false_alarm_rate=threshold.rate,
        calibration_images=threshold.images,
        no_threshold=threshold.why_none,
        curves=evaluation.curves,
        seconds=dict(seconds),
        cases=gallery_cases(evaluation, threshold.value),
    )


def gallery_cases(evaluation: Evaluation, threshold: float | None) -> list[report.Case]:
    """The pictures of the report's gallery: highest, lowest and wrongly decided images."""
    truth, split = evaluation.truth, evaluation.split
    assert truth.valid is not None and truth.has_mask is not None
    cases = []
    for i, reasons in report.choose_cases(evaluation.scores, truth.labels, threshold).items():
        score = float(evaluation.scores[i])
        cases.append(
            report.Case(
                id=split.ids[i],
                image=evaluation.images[i],
                map=evaluation.maps[i],
                mask=evaluation.known_masks[i] if truth.has_mask[i] else None,
                valid=truth.valid[i],
                score=score,
                label=int(truth.labels[i]),
                defect_type=split.defect_types[i],
                decision=None if threshold is None else score > threshold,
                reasons=tuple(reasons),
            )
        )
    return cases
