"""Exact and ADer-compatible metrics of anomaly detection; NumPy and SciPy only."""

from jaxad.metrics.evaluation import IMAGE_METRICS, PIXEL_METRICS, Mode, compute
from jaxad.metrics.ranking import Curves, Ranking, curves, rank_images, rank_pixels
from jaxad.metrics.regions import Regions, label_regions
from jaxad.metrics.resampling import OverlapProfile, overlap_profile
from jaxad.metrics.truth import GroundTruth

__all__ = [
    "IMAGE_METRICS",
    "PIXEL_METRICS",
    "Curves",
    "GroundTruth",
    "Mode",
    "OverlapProfile",
    "Ranking",
    "Regions",
    "compute",
    "curves",
    "label_regions",
    "overlap_profile",
    "rank_images",
    "rank_pixels",
]
