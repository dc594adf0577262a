"""How far a metric may be off because the test set is a sample: the bootstrap over images, the same for two runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from jaxad.metrics.ranking import FPR_LIMIT, area_to_limit
from jaxad.metrics.regions import label_regions

LEVEL = 0.95
_THRESHOLDS = 200
_REACH = 2 * FPR_LIMIT  # false positive rate at the lowest threshold: a resample's may be half that of all images


@dataclass(frozen=True)
class OverlapProfile:
    """What AUPRO depends on, image by image, at thresholds from high to low.

    Attributes:
      normal: normal pixels of each image at or above each threshold.
      normal_pixels: of each image.
      overlap: the share of each region at or above each threshold.
      image: of each region.
    """

    normal: Int32[np.ndarray, "n k"]
    normal_pixels: Int32[np.ndarray, " n"]
    overlap: Float[np.ndarray, "r k"]
    image: Int32[np.ndarray, " r"]


def overlap_profile(
    maps: Float[np.ndarray, "n h w"],
    masks: Bool[np.ndarray, "n h w"],
    valid: Bool[np.ndarray, "n h w"],
    has_mask: Bool[np.ndarray, " n"],
) -> OverlapProfile:
    """The profile of one test set; padding and images of unknown ground truth do not count.

    The thresholds are quantiles of the normal pixels, closer where the false positive rate is small.
    """
    normal = ~masks & valid & has_mask[:, None, None]
    some = np.sort(maps.reshape(-1)[::7][normal.reshape(-1)[::7]])
    some = some if some.size else np.zeros(1, maps.dtype)
    places = len(some) - 1 - np.linspace(0, np.sqrt(_REACH), _THRESHOLDS) ** 2 * (len(some) - 1)
    ascending = np.unique(some[np.round(places).astype(int)])
    counts = [_at_or_above(one[counted], ascending) for one, counted in zip(maps, normal, strict=True)]
    regions = label_regions(masks, valid=valid, has_mask=has_mask)
    scores, order = maps.reshape(-1)[regions.pixels], np.argsort(regions.region, kind="stable")
    parts = np.split(scores[order], np.cumsum(regions.areas)[:-1]) if regions.count else []
    overlap = [_at_or_above(part, ascending) / len(part) for part in parts]
    return OverlapProfile(
        normal=np.stack(counts).astype(np.int32),
        normal_pixels=normal.sum((1, 2)).astype(np.int32),
        overlap=np.asarray(overlap, np.float32).reshape(len(parts), len(ascending)),
        image=regions.image.astype(np.int32),
    )


def _at_or_above(scores: np.ndarray, ascending: np.ndarray) -> Int[np.ndarray, " k"]:
    """How many scores are at or above each threshold, these from high to low."""
    reached = np.bincount(np.searchsorted(ascending, scores, side="right"), minlength=len(ascending) + 1)
    return np.cumsum(reached[:0:-1])


def resampled_aupro(profile: OverlapProfile, counts: Int[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    """AUPRO of each resample, up to the usual false positive rate of 0.3, between the profile's thresholds on a line.

    NaN where there is no region, or no normal pixel.
    """
    drawn = counts.astype(np.float64)
    regions = drawn[:, profile.image]
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (drawn @ profile.normal) / (drawn @ profile.normal_pixels)[:, None]
        y = (regions @ profile.overlap) / regions.sum(1, keepdims=True)
    defined = np.isfinite(x[:, 0]) & np.isfinite(y[:, 0])
    # from the height that no normal pixel reaches, to where everything is called anomalous
    x, y = np.pad(x, ((0, 0), (1, 1))), np.pad(y, ((0, 0), (1, 1)), mode="edge")
    x[:, -1], y[:, -1] = 1.0, 1.0
    areas = [area_to_limit(*curve, FPR_LIMIT) / FPR_LIMIT for curve in zip(x, y, strict=True)]
    return np.where(defined, areas, np.nan)


def resample(labels: Bool[np.ndarray, " n"], resamples: int, rng: np.random.Generator) -> Int[np.ndarray, "r n"]:
    """How often each image is drawn in each resample; normal and anomalous ones keep their numbers."""
    counts = np.zeros((resamples, len(labels)), np.int64)
    for kind in (False, True):
        members = np.flatnonzero(labels == kind)
        if members.size:
            counts[:, members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size), resamples)
    return counts


def resampled_auroc(
    scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], counts: Int[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """I-AUROC of each resample: the share of (anomalous, normal) pairs in the right order, a tie being half.

    NaN where there is no normal or no anomalous image.
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
    """The 95 % percentile interval; resamples without a value are left out."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
