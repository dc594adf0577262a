"""Pixel and image metrics as ADer's evaluator approximates them, for tables that must be comparable with MIRAD's.

ADer (zhangzjn/ADer, util/metric.py) has two modes. With `use_adeval=True` (its benchmark configs) the pixel areas come
from histograms of 50 strips of the score range (package ADEval 1.1.0). With `use_adeval=False` P-AUROC and P-AP are
exact and AUPRO has 100 equal steps. Either AUPRO can be a percentage point away from the exact one. F1 and IoU are
taken at fixed thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxad.errors import UserError
from jaxad.metrics.ranking import (
    FPR_LIMIT,
    Pixels,
    area_to_limit,
    auroc,
    average_precision,
    f1_max,
    rank_images,
    rank_split,
    split_pixels,
)
from jaxad.metrics.truth import GroundTruth

NAN = float("nan")


@dataclass(frozen=True)
class Counts:
    """Pixels predicted anomalous at each threshold ("t"), and the totals.

    Attributes:
      normal: normal pixels predicted anomalous.
      anomalous: anomalous pixels predicted anomalous.
      overlap: sum over the regions of the share of each that is predicted anomalous.
    """

    normal: Int[np.ndarray, " t"]
    anomalous: Int[np.ndarray, " t"]
    overlap: Float[np.ndarray, " t"]
    total_normal: int
    total_anomalous: int


def score_range(pixels: Pixels) -> tuple[np.floating, np.floating]:
    """Smallest and largest score of all pixels but padding, in the maps' dtype; NaN where no pixel is anomalous."""
    maps, valid = pixels.maps, pixels.truth.valid
    if not pixels.anomalous.size:
        return maps.dtype.type(NAN), maps.dtype.type(NAN)
    if valid is None:
        return maps.min(), maps.max()
    infinity = maps.dtype.type(np.inf)
    low = min(np.min(m, where=v, initial=infinity) for m, v in zip(maps, valid, strict=True))
    high = max(np.max(m, where=v, initial=-infinity) for m, v in zip(maps, valid, strict=True))
    return low, high


def _count(
    pixels: Pixels,
    thresholds: Shaped[np.ndarray, " t"],
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    strict: bool = False,
) -> Counts:
    """Counts `transform(score) >= threshold` (> when strict); the transform must keep the order of the scores."""
    side = "right" if strict else "left"

    def not_predicted(scores: np.ndarray) -> np.ndarray:
        return np.searchsorted(scores if transform is None else transform(scores), thresholds, side=side)

    normal, total = np.zeros(len(thresholds), np.int64), 0
    for block in pixels.normal_blocks():
        normal += block.size - not_predicted(block)
        total += block.size
    missed = not_predicted(pixels.anomalous)
    overlap = np.concatenate([[0.0], np.cumsum(pixels.weights[::-1])])[pixels.anomalous.size - missed]
    return Counts(normal, pixels.anomalous.size - missed, overlap, total, pixels.anomalous.size)


def _round_down(thresholds: Float[np.ndarray, " t"], pixels: Pixels) -> Float[np.ndarray, " t"]:
    # ADer compares float32 scores with float64 thresholds; the largest float32 that is not above the threshold decides
    # the same without a float64 copy of the scores
    rounded = thresholds.astype(pixels.maps.dtype)
    return np.where(rounded > thresholds, np.nextafter(rounded, rounded.dtype.type(-np.inf)), rounded)


def strip_areas(
    pixels: Pixels, strips: int = 50, *, cuda: bool = True, limit: float = FPR_LIMIT
) -> tuple[float, float, float]:
    """P-AUROC, P-AP and AUPRO from a histogram of equal strips of the score range, as ADEval 1.1.0 computes them.

    Its "P-AP" is the area under the precision-recall curve by the trapezoidal rule, larger than the average precision
    where there are few distinct scores.

    Args:
      strips: number of strips; ADer uses 50, ADEval's own default is 1000.
      cuda: whether to count as ADEval's CUDA accumulator, which ADer uses and which counts pixels at the maximum twice;
        else as its CPU accumulator.
      limit: false positive rate at which the AUPRO ends.

    Returns:
      The three fractions; all NaN where the maps are constant or one class of pixels is missing.
    """
    low, high = score_range(pixels)
    if not low < high:
        return NAN, NAN, NAN
    dtype = pixels.maps.dtype.type
    if cuda:
        last_strip = np.nextafter(dtype(strips), dtype(0))

        def strip(scores: np.ndarray) -> np.ndarray:
            # the maximum goes to the overflow bin, `strips`, and once more to the last strip
            found = np.minimum((scores - low) * dtype(strips) / (high - low), last_strip)
            found[np.searchsorted(scores, high) :] = strips
            return found

        counts = _count(pixels, np.arange(strips + 1, dtype=dtype), strip)
        for predicted in (counts.normal, counts.anomalous, counts.overlap):
            predicted[:-1] += predicted[-1]
    else:
        counts = _count(pixels, low + (high - low) * np.arange(strips + 1, dtype=dtype) / dtype(strips))
    if counts.total_normal == 0:
        return NAN, NAN, NAN
    normal, anomalous, overlap = counts.normal[::-1], counts.anomalous[::-1], counts.overlap[::-1]
    predicted = normal + anomalous
    precision = np.where(predicted > 0, anomalous / np.maximum(predicted, 1), 1.0)
    fpr, tpr, pro = normal / normal[-1], anomalous / anomalous[-1], overlap / overlap[-1]
    return (
        float(np.trapezoid(tpr, fpr)),
        float(np.trapezoid(precision, tpr)),
        area_to_limit(fpr, pro, limit) / limit,
    )


def stepped_aupro(pixels: Pixels, steps: int = 100, limit: float = FPR_LIMIT) -> float:
    """ADer's own AUPRO (from CFLOW's code): equal steps of the score range, prediction = score > threshold.

    Only points with a false positive rate below `limit` count, nothing is interpolated at the limit, and the remaining
    rates are stretched to [0, 1]. NaN where fewer than two distinct rates remain.
    """
    low, high = score_range(pixels)
    if not low < high:
        return NAN
    thresholds = np.arange(low, high, (high - low) / steps, dtype=np.float64)
    counts = _count(pixels, _round_down(thresholds, pixels), strict=True)
    if counts.total_normal == 0:
        return NAN
    fpr, pro = counts.normal[::-1] / counts.total_normal, counts.overlap[::-1] / pixels.truth.regions.count
    fpr, pro = fpr[fpr < limit], pro[fpr < limit]
    if fpr.size == 0 or fpr[0] == fpr[-1]:
        return NAN
    return float(np.trapezoid(pro, (fpr - fpr[0]) / (fpr[-1] - fpr[0])))


def ranked_aupro(pixels: Pixels, ranks: int = 100, limit: float = FPR_LIMIT) -> float:
    """AUPRO as in MVTec 3D-AD's evaluation: thresholds at equidistant ranks of the normal scores.

    The prediction is score > threshold. The false positive rate is taken from the rank, so tied scores bias it.
    """
    normal = np.sort(np.concatenate([*pixels.normal_blocks(), np.zeros(0, pixels.maps.dtype)]))
    regions = pixels.truth.regions.count
    if normal.size == 0 or regions == 0:
        return NAN
    positions = np.linspace(0, normal.size - 1, num=ranks, dtype=int)
    missed = np.searchsorted(pixels.anomalous, normal[positions], side="right")
    overlap = np.concatenate([[0.0], np.cumsum(pixels.weights[::-1])])[pixels.anomalous.size - missed]
    fpr = np.concatenate([[1.0], 1.0 - (positions + 1) / normal.size])[::-1]
    return area_to_limit(fpr, np.concatenate([[1.0], overlap / regions])[::-1], limit) / limit


def threshold_metrics(pixels: Pixels) -> dict[str, float]:
    """F1, recall (which ADer calls "Acc") and IoU at fixed thresholds of the maps stretched to [0, 1], by ADer's names.

    `*_max_px` is the largest value over the thresholds 0, 0.05, ..., 1; `*_px_0.2_0.8_0.1` the mean over 0.2, 0.3, ...,
    0.8. NaN where the maps are constant or one class of pixels is missing.
    """
    names = ("F1", "Acc", "IoU")
    low, high = score_range(pixels)
    undefined = {f"m{name}_{kind}": NAN for name in names for kind in ("max_px", "px_0.2_0.8_0.1")}
    if not low < high:
        return undefined
    fine, coarse = np.arange(0.0, 1.0 + 1e-3, 0.05), np.arange(0.2, 0.8 + 1e-3, 0.1)
    thresholds = _round_down(np.concatenate([fine, coarse]), pixels)
    counts = _count(pixels, thresholds, lambda v: (v - low) / (high - low), strict=True)
    if counts.total_normal == 0:
        return undefined
    hits, predicted, wanted = counts.anomalous, counts.normal + counts.anomalous, counts.total_anomalous
    precision, recall = hits / (predicted + 1e-8), hits / (wanted + 1e-8)
    iou = hits / (predicted + wanted - hits + 1e-8)
    values = dict(zip(names, (2 * precision * recall / (precision + recall + 1e-8), recall, iou), strict=True))
    return {f"m{name}_max_px": float(values[name][: fine.size].max()) for name in names} | {
        f"m{name}_px_0.2_0.8_0.1": float(values[name][fine.size :].mean()) for name in names
    }


def image_scores(
    maps: Float[np.ndarray, "n h w"],
    *,
    valid: Bool[np.ndarray, "n h w"] | None = None,
    pooling: int | None = None,
) -> Float[np.ndarray, " n"]:
    """ADer's image score: the largest value of the map, or of its means over all pooling x pooling windows (stride 1).

    Args:
      valid: false where a pixel is padding; a window with padding in it does not count.

    Raises:
      UserError: an image has no window without padding.
    """
    scores = np.empty(len(maps), maps.dtype)
    size = pooling or 1
    for index, anomaly_map in enumerate(maps):
        means, usable = anomaly_map, None if valid is None else valid[index]
        if size > 1:
            # padding may hold anything, NaN too, and must not reach the sums of other windows
            means = _window_sums(anomaly_map if usable is None else np.where(usable, anomaly_map, 0), size) / size**2
            usable = None if usable is None else _window_sums(usable, size) == size**2
        candidates = means.ravel() if usable is None else means[usable]
        if candidates.size == 0:
            raise UserError(
                f"image {index}: its map of {anomaly_map.shape[0]} x {anomaly_map.shape[1]} pixels has no window of "
                f"{size} x {size} pixels without padding, as the pooled image score needs: choose a smaller pooling"
            )
        scores[index] = candidates.max()
    return scores


def _window_sums(values: np.ndarray, size: int) -> Float[np.ndarray, "i j"]:
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    values.cumsum(axis=0, dtype=np.float64).cumsum(axis=1, out=sums[1:, 1:])
    return sums[size:, size:] - sums[size:, :-size] - sums[:-size, size:] + sums[:-size, :-size]


def image_labels(truth: GroundTruth) -> Bool[np.ndarray, " n"]:
    """ADer's labels: an image is defective where its mask is not empty; the given labels where no image has a mask."""
    if truth.masks is None:
        return truth.labels
    labels = np.zeros(len(truth.labels), bool)
    labels[truth.regions.image] = True
    return labels


def image_metrics(
    maps: Float[np.ndarray, "n h w"], truth: GroundTruth, *, pooling: int | None = None
) -> dict[str, float]:
    """I-AUROC, I-AP and I-F1max by ADer's names; exact in both of its modes.

    Args:
      pooling: as in `image_scores`.

    Raises:
      UserError: as `image_scores`.
    """
    ranking = rank_images(image_scores(maps, valid=truth.valid, pooling=pooling), image_labels(truth))
    return {
        "mAUROC_sp_max": auroc(ranking),
        "mAP_sp_max": average_precision(ranking),
        "mF1_max_sp_max": f1_max(ranking),
    }


def pixel_metrics(
    maps: Float[np.ndarray, "n h w"], truth: GroundTruth, *, adeval: bool = True, steps: int = 100
) -> dict[str, float]:
    """All pixel metrics of ADer's evaluator by its own names; {} where no image has a mask.

    Args:
      truth: images of unknown ground truth count as normal.
      adeval: `use_adeval` of ADer's configs: areas from 50 strips; else exact P-AUROC and P-AP, and AUPRO in `steps`
        steps.
    """
    if truth.masks is None:
        return {}
    pixels = split_pixels(maps, truth, unknown_is_normal=True)
    if adeval:
        areas = strip_areas(pixels)
    else:
        ranking = rank_split(pixels)
        areas = auroc(ranking), average_precision(ranking), stepped_aupro(pixels, steps)
    return dict(zip(("mAUROC_px", "mAP_px", "mAUPRO_px"), areas, strict=True)) | threshold_metrics(pixels)
