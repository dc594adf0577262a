"""Exact ranking metrics from one sort: AUROC, AP, F1max and AUPRO with ties, over all pixels or all images.

Few pixels are anomalous, and every curve bends only at their scores. So the anomalous scores are sorted all at once;
the normal ones are sorted block by block, only to count how many lie at or above each anomalous score. Counts are
integers, areas float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxad.metrics.truth import GroundTruth

BLOCK_PIXELS = 1 << 24  # normal pixels sorted at a time: bounds the extra memory at 64 MiB of float32
FPR_LIMIT = 0.3


@dataclass(frozen=True)
class Pixels:
    """The pixels of a test set that count, split by ground truth.

    Attributes:
      unknown_is_normal: whether the pixels of images of unknown ground truth count as normal; else they do not count.
      anomalous: scores of the anomalous pixels, ascending.
      weights: 1 / (area of the pixel's region), in the same order.
    """

    maps: Float[np.ndarray, "n h w"]
    truth: GroundTruth
    unknown_is_normal: bool
    anomalous: Float[np.ndarray, " p"]
    weights: Float[np.ndarray, " p"]

    def normal_blocks(self) -> Iterator[Float[np.ndarray, " k"]]:
        """Scores of the normal pixels, a block of images at a time, each block ascending."""
        images = max(1, BLOCK_PIXELS // max(1, self.maps[:1].size))
        for start in range(0, len(self.maps), images):
            block = slice(start, start + images)
            scores = self.maps[block][self.truth.normal_pixels(block, unknown_is_normal=self.unknown_is_normal)]
            scores.sort()
            if scores.size:
                yield scores


def split_pixels(maps: Float[np.ndarray, "n h w"], truth: GroundTruth, *, unknown_is_normal: bool = False) -> Pixels:
    """Sorts the scores of the anomalous pixels, and leaves the normal ones to be visited block by block.

    Args:
      maps: anomaly maps, float32 or float64, finite, larger = more anomalous.
      truth: with masks.
      unknown_is_normal: whether the pixels of images of unknown ground truth count as normal; else they do not count.

    Raises:
      ValueError: the maps have another shape than the ground truth, or no image has a mask.
    """
    truth.check_maps(maps)
    maps, regions = np.ascontiguousarray(maps), truth.regions
    scores = maps.reshape(-1)[regions.pixels]
    order = np.argsort(scores)
    weights = (1.0 / regions.areas)[regions.region[order]]
    return Pixels(maps, truth, unknown_is_normal, scores[order], weights)


@dataclass(frozen=True)
class Ranking:
    """Counts at every distinct score of an anomalous sample, in descending order; prediction = score >= threshold.

    Attributes:
      thresholds: the distinct scores.
      true_positives: anomalous samples at or above the threshold.
      false_positives: normal samples at or above it.
      false_positives_above: normal samples strictly above it.
      overlap: mean over the regions of their share at or above it (PRO); None for images.
      normal: number of normal samples.
      anomalous: number of anomalous samples.
    """

    thresholds: Float[np.ndarray, " m"]
    true_positives: Int[np.ndarray, " m"]
    false_positives: Int[np.ndarray, " m"]
    false_positives_above: Int[np.ndarray, " m"]
    overlap: Float[np.ndarray, " m"] | None
    normal: int
    anomalous: int

    @property
    def one_class(self) -> bool:
        """Whether there is no normal or no anomalous sample, so that no curve and no area is defined."""
        return self.normal == 0 or self.anomalous == 0


def rank_pixels(maps: Float[np.ndarray, "n h w"], truth: GroundTruth) -> Ranking | None:
    """Ranks all pixels that count, for every exact pixel metric and curve; None where no image has a mask.

    Args:
      maps: anomaly maps, float32 or float64, finite, larger = more anomalous.

    Raises:
      ValueError: the maps have another shape than the ground truth.
    """
    return None if truth.masks is None else rank_split(split_pixels(maps, truth))


def rank_split(pixels: Pixels) -> Ranking:
    """`rank_pixels` of pixels that are split already."""
    return _rank(pixels.anomalous, pixels.normal_blocks(), pixels.weights / max(1, pixels.truth.regions.count))


def rank_images(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> Ranking:
    """Ranks image scores (larger = more anomalous) by their labels (true = defective)."""
    return _rank(np.sort(scores[labels]), iter([np.sort(scores[~labels])]), None)


def _rank(
    anomalous: Float[np.ndarray, " p"],
    normal_blocks: Iterator[Float[np.ndarray, " k"]],
    weights: Float[np.ndarray, " p"] | None,
) -> Ranking:
    first = np.flatnonzero(np.concatenate([np.ones(min(1, anomalous.size), bool), anomalous[1:] != anomalous[:-1]]))
    thresholds = anomalous[first]
    below = np.zeros(thresholds.size, np.int64)
    not_above = np.zeros(thresholds.size, np.int64)
    normal = 0
    for block in normal_blocks:
        if not block.size:
            continue
        normal += block.size
        left = np.searchsorted(block, thresholds, side="left")
        below += left
        tied = np.flatnonzero(block[np.minimum(left, block.size - 1)] == thresholds)
        # most scores have no equal among the normal ones, so the second search is a small one
        left[tied] = np.searchsorted(block, thresholds[tied], side="right")
        not_above += left
    overlap = None if weights is None else np.minimum(np.cumsum(weights[::-1])[anomalous.size - 1 - first[::-1]], 1.0)
    return Ranking(
        thresholds=thresholds[::-1],
        true_positives=anomalous.size - first[::-1],
        false_positives=normal - below[::-1],
        false_positives_above=normal - not_above[::-1],
        overlap=overlap,
        normal=normal,
        anomalous=anomalous.size,
    )


def auroc(ranking: Ranking) -> float:
    """Area under the ROC curve: the share of (anomalous, normal) pairs in the right order, ties counted one half."""
    if ranking.one_class:
        return float("nan")
    here = np.diff(ranking.true_positives, prepend=0)
    wrong_twice = int(np.sum(here * (ranking.false_positives + ranking.false_positives_above)))
    return 1.0 - wrong_twice / (2 * ranking.normal * ranking.anomalous)


def average_precision(ranking: Ranking) -> float:
    """Sum over the thresholds of (recall gained) * precision, not interpolated, as scikit-learn defines it."""
    if ranking.one_class:
        return float("nan")
    precision = ranking.true_positives / (ranking.true_positives + ranking.false_positives)
    return float(np.sum(np.diff(ranking.true_positives, prepend=0) * precision)) / ranking.anomalous


def f1_max(ranking: Ranking) -> float:
    """Largest F1 over all thresholds; a threshold between two anomalous scores only adds false positives."""
    if ranking.one_class:
        return float("nan")
    predicted = ranking.true_positives + ranking.false_positives
    return float(np.max(2 * ranking.true_positives / (predicted + ranking.anomalous)))


def aupro(ranking: Ranking, limit: float = FPR_LIMIT) -> float:
    """Area under the per-region overlap curve up to the false positive rate `limit`, divided by `limit`.

    As in MVTec's evaluation code (Bergmann et al. 2021, "The MVTec anomaly detection dataset", IJCV): a point at
    every distinct score, linear interpolation between points and at the limit.
    """
    if ranking.one_class:
        return float("nan")
    return area_to_limit(*pro_vertices(ranking), limit) / limit


def roc_vertices(ranking: Ranking) -> tuple[Float[np.ndarray, " v"], Float[np.ndarray, " v"]]:
    """(false positive rate, true positive rate) where the ROC curve bends, from (0, 0) to (1, 1)."""
    return _vertices(ranking, ranking.true_positives / ranking.anomalous)


def pro_vertices(ranking: Ranking) -> tuple[Float[np.ndarray, " v"], Float[np.ndarray, " v"]]:
    """(false positive rate, per-region overlap) where the PRO curve bends, from (0, 0) to (1, 1)."""
    if ranking.overlap is None:
        raise ValueError("images have no regions: expected a ranking of pixels")
    return _vertices(ranking, ranking.overlap)


def _vertices(ranking: Ranking, height: Float[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
    # the curve runs flat between two anomalous scores and rises at one, slanted where normal scores tie with it
    x = np.empty(2 * height.size + 2)
    y = np.empty_like(x)
    x[0] = y[0] = y[1] = 0.0
    x[1:-1:2], x[2:-1:2] = ranking.false_positives_above, ranking.false_positives
    x[1:-1] /= ranking.normal
    y[3::2], y[2:-1:2] = height, height
    x[-1] = 1.0
    return x, y


def area_to_limit(x: Float[np.ndarray, " v"], y: Float[np.ndarray, " v"], limit: float) -> float:
    """Area under the polyline (x, y), x never decreasing, from its first point to x = `limit`."""
    width = np.diff(np.minimum(x, limit))
    inside = np.flatnonzero(width > 0)
    width, start, rise = width[inside], y[inside], y[inside + 1] - y[inside]
    kept = width / (x[inside + 1] - x[inside])
    return float(np.sum(width * (start + 0.5 * kept * rise)))


@dataclass(frozen=True)
class Curves:
    """Curves for plotting, each from left to right and thinned; empty arrays where the test set has one class only.

    Attributes:
      fpr, tpr: ROC curve.
      recall, precision: precision-recall curve, from (0, 1).
      pro_fpr, pro: per-region overlap over the false positive rate; None for images.
    """

    fpr: Float[np.ndarray, " a"]
    tpr: Float[np.ndarray, " a"]
    recall: Float[np.ndarray, " b"]
    precision: Float[np.ndarray, " b"]
    pro_fpr: Float[np.ndarray, " c"] | None
    pro: Float[np.ndarray, " c"] | None


def curves(ranking: Ranking, points: int = 500) -> Curves:
    """ROC, precision-recall and PRO curves of a ranking, each with at most `points` points, first and last kept."""
    has_regions = ranking.overlap is not None
    if ranking.one_class:
        empty = np.zeros(0)
        return Curves(empty, empty, empty, empty, *((empty, empty) if has_regions else (None, None)))
    recall = np.concatenate([[0.0], ranking.true_positives / ranking.anomalous])
    precision = np.concatenate([[1.0], ranking.true_positives / (ranking.true_positives + ranking.false_positives)])
    return Curves(
        *_thin(*roc_vertices(ranking), points),
        *_thin(recall, precision, points),
        *(_thin(*pro_vertices(ranking), points) if has_regions else (None, None)),
    )


def _thin(x: np.ndarray, y: np.ndarray, points: int) -> tuple[Shaped[np.ndarray, " k"], Shaped[np.ndarray, " k"]]:
    if x.size <= points:
        return x, y
    # equal steps along the curve, so that steep and flat parts are drawn equally well
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], points)).clip(max=x.size - 1))
    kept[0], kept[-1] = 0, x.size - 1
    return x[kept], y[kept]
