"""How far a metric may be off because the test set is a sample: a bootstrap over images, paired between two runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from jaxad.metrics.ranking import FPR_LIMIT, area_to_limit
from jaxad.metrics.truth import GroundTruth

LEVEL = 0.95
_THRESHOLDS = 200
_REACH = 2 * FPR_LIMIT  # false positive rate at the lowest threshold; a resample's may be half as high there


@dataclass(frozen=True)
class OverlapProfile:
    """What AUPRO depends on, image by image, at k thresholds from high to low.

    Attributes:
      normal: normal pixels of each image at or above each threshold.
      normal_pixels: normal pixels of each image.
      overlap: the share of each region at or above each threshold.
      image: index of the image each region lies in.
    """

    normal: Int32[np.ndarray, "n k"]
    normal_pixels: Int32[np.ndarray, " n"]
    overlap: Float[np.ndarray, "r k"]
    image: Int32[np.ndarray, " r"]


def overlap_profile(maps: Float[np.ndarray, "n h w"], truth: GroundTruth) -> OverlapProfile:
    """The profile of one test set; padding and images of unknown ground truth do not count.

    The thresholds are quantiles of the normal pixels' scores, closer together where the false positive rate is small.

    Raises:
      ValueError: the maps have another shape than the ground truth, or no image has a mask.
    """
    truth.check_maps(maps)
    normal, regions = truth.normal_pixels(), truth.regions
    some = np.sort(maps.reshape(-1)[::7][normal.reshape(-1)[::7]])
    some = some if some.size else np.zeros(1, maps.dtype)
    places = len(some) - 1 - np.linspace(0, np.sqrt(_REACH), _THRESHOLDS) ** 2 * (len(some) - 1)
    ascending = np.unique(some[np.round(places).astype(int)])
    counts = [_at_or_above(one[counted], ascending) for one, counted in zip(maps, normal, strict=True)]
    scores, order = maps.reshape(-1)[regions.pixels], np.argsort(regions.region, kind="stable")
    parts = np.split(scores[order], np.cumsum(regions.areas)[:-1]) if regions.count else []
    overlap = [_at_or_above(part, ascending) / len(part) for part in parts]
    return OverlapProfile(
        normal=np.stack(counts).astype(np.int32),
        normal_pixels=normal.sum((1, 2)).astype(np.int32),
        overlap=np.asarray(overlap, np.float32).reshape(len(parts), len(ascending)),
        image=regions.image.astype(np.int32),
    )


def _at_or_above(scores: Float[np.ndarray, " p"], ascending: Float[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """How many scores are at or above each threshold, from the highest threshold to the lowest."""
    reached = np.bincount(np.searchsorted(ascending, scores, side="right"), minlength=len(ascending) + 1)
    return np.cumsum(reached[:0:-1])


def resampled_aupro(profile: OverlapProfile, counts: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """AUPRO of each resample up to a false positive rate of 0.3, interpolated between the profile's thresholds.

    NaN where a resample has no region or no normal pixel.

    Args:
      counts: how often each image is drawn in each resample.
    """
    drawn = counts.astype(np.float64)
    regions = drawn[:, profile.image]
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (drawn @ profile.normal) / (drawn @ profile.normal_pixels)[:, None]
        y = (regions @ profile.overlap) / regions.sum(1, keepdims=True)
    defined = np.isfinite(x[:, 0]) & np.isfinite(y[:, 0])
    # the curve begins at the overlap before the first false positive and ends where everything is called anomalous
    x, y = np.pad(x, ((0, 0), (1, 1))), np.pad(y, ((0, 0), (1, 1)), mode="edge")
    x[:, -1], y[:, -1] = 1.0, 1.0
    areas = [area_to_limit(*curve, FPR_LIMIT) / FPR_LIMIT for curve in zip(x, y, strict=True)]
    return np.where(defined, areas, np.nan)


def resample(labels: Bool[np.ndarray, " n"], resamples: int, rng: np.random.Generator) -> Int[np.ndarray, "r n"]:
    """How often each image is drawn in each resample; the numbers of normal and of anomalous images stay the same."""
    counts = np.zeros((resamples, len(labels)), np.int64)
    for kind in (False, True):
        members = np.flatnonzero(labels == kind)
        if members.size:
            counts[:, members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size), resamples)
    return counts


def resampled_auroc(
    scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], counts: Int[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """I-AUROC of each resample: the share of (anomalous, normal) pairs in the right order, ties counted one half.

    NaN where there is no normal or no anomalous image.

    Args:
      counts: how often each image is drawn in each resample.
    """
    anomalous, normal = np.flatnonzero(labels), np.flatnonzero(~labels)
    if not anomalous.size or not normal.size:
        return np.full(len(counts), np.nan)
    above, below = scores[anomalous][:, None], scores[normal][None]
    order = ((above > below) + 0.5 * (above == below)).astype(np.float32)
    weights = counts[:, anomalous].astype(np.float32)
    right = np.sum((weights @ order).astype(np.float64) * counts[:, normal], axis=1)
    return right / (counts[:, anomalous].sum(1) * counts[:, normal].sum(1))


def interval(values: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """The 95 % percentile interval; NaN values are left out."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
