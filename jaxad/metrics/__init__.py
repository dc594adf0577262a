"""Exact and ADer-compatible metrics of anomaly detection; NumPy and SciPy only."""

from jaxad.metrics.evaluation import Mode, evaluate
from jaxad.metrics.ranking import Curves, Pixels, Ranking, curves, rank_images, rank_pixels, split_pixels
from jaxad.metrics.regions import Regions, label_regions

__all__ = [
    "Curves",
    "Mode",
    "Pixels",
    "Ranking",
    "Regions",
    "curves",
    "evaluate",
    "label_regions",
    "rank_images",
    "rank_pixels",
    "split_pixels",
]
