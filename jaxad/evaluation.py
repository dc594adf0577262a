"""Predictions against the ground truth: metrics, curves and the images worth showing, category by category."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxad import metrics, report
from jaxad.data.pipeline import Split
from jaxad.prediction import Predictions


@dataclass(frozen=True)
class GroundTruth:
    """Of some images, at the input size; `masks` is None where no defective image has one."""

    masks: Bool[np.ndarray, "n h w"] | None
    valid: Bool[np.ndarray, "n h w"]
    labels: Bool[np.ndarray, " n"]
    has_mask: Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Evaluation:
    """Of one category.

    Attributes:
      members: places of its images in the split.
      curves: "image" and, with masks, "pixel".
      metrics: as fractions; `jaxad.metrics.evaluate` says which.
    """

    category: str
    members: Int[np.ndarray, " n"]
    maps: Float[np.ndarray, "n h w"]
    scores: Float[np.ndarray, " n"]
    truth: GroundTruth
    curves: dict[str, metrics.Curves]
    metrics: dict[str, float]


def evaluate(found: Predictions, split: Split, mode: str) -> Iterator[Evaluation]:
    """Each category of the split, in order of appearance.

    Args:
      mode: "exact", or one of ADer's: see `jaxad.metrics.evaluate`.
    """
    names = np.asarray(split.categories)
    for category in dict.fromkeys(split.categories):
        members = np.flatnonzero(names == category)
        truth = ground_truth(split, members)
        maps, scores = found.maps[members], found.scores[members]
        known: dict[str, Any] = {"valid": truth.valid, "has_mask": truth.has_mask}
        curves = {"image": metrics.curves(metrics.rank_images(scores, truth.labels))}
        ranking = None
        if truth.masks is not None:
            ranking = metrics.rank_pixels(metrics.split_pixels(maps, truth.masks, **known))
            curves["pixel"] = metrics.curves(ranking)
        known |= {"mode": mode, "name": category, "pixel_ranking": ranking if mode == "exact" else None}
        values = metrics.evaluate(maps, truth.masks, scores, truth.labels, **known)
        yield Evaluation(category, members, maps, scores, truth, curves, values)


def ground_truth(split: Split, members: Iterable[int]) -> GroundTruth:
    items = [split[int(i)] for i in members]
    labels, has_mask = (np.array([item[name] for item in items], bool) for name in ("label", "has_mask"))
    masks = np.stack([item["mask"] for item in items]) if (labels & has_mask).any() or not labels.any() else None
    return GroundTruth(masks, np.stack([item["valid"] for item in items]), labels, has_mask)


def mean_metrics(evaluations: Iterable[Evaluation]) -> dict[str, float]:
    """Each metric's mean over the categories that have it."""
    rows = [evaluation.metrics for evaluation in evaluations]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def choose_cases(evaluation: Evaluation, split: Split, threshold: float | None) -> list[report.Case]:
    """The report's gallery: highest, lowest and wrongly decided images."""
    cases = []
    for i, reasons in report.choose_cases(evaluation.scores, evaluation.truth.labels, threshold).items():
        place = int(evaluation.members[i])
        item, score = split[place], float(evaluation.scores[i])
        cases.append(
            report.Case(
                id=split.ids[place],
                image=item["image"],
                map=evaluation.maps[i],
                mask=item["mask"] if item["has_mask"] else None,
                valid=item["valid"],
                score=score,
                label=int(evaluation.truth.labels[i]),
                defect_type=split.defect_types[place],
                decision=None if threshold is None else score > threshold,
                reasons=tuple(reasons),
            )
        )
    return cases
