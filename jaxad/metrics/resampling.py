"""How far a metric may be off because the test set is a sample: the bootstrap over images, the same for two runs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

LEVEL = 0.95


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
    """The 95 % percentile interval."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
