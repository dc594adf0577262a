"""Every metric against ADer's evaluator, ADEval, MVTec's evaluation code, anomalib and scikit-learn."""

import re

import numpy as np
import pytest

from jaxad.metrics import GroundTruth, ader, label_regions, rank_pixels
from jaxad.metrics.ranking import aupro, auroc, average_precision, f1_max, split_pixels
from tests.golden.load import cases, load


def regions_per_image(masks, connectivity):
    return np.bincount(label_regions(masks, connectivity=connectivity).image, minlength=len(masks))


CHECKS = {
    "map_sum": lambda maps, masks: maps.sum(axis=(1, 2), dtype=np.float64),
    "map_max": lambda maps, masks: maps.max(axis=(1, 2)),
    "mask_pixels": lambda maps, masks: masks.sum(axis=(1, 2)),
    "regions8": lambda maps, masks: regions_per_image(masks, 8),
    "regions4": lambda maps, masks: regions_per_image(masks, 4),
}
EXACT = {"p_auroc": auroc, "p_ap": average_precision, "p_f1max": f1_max}
ADEVAL = ("p_auroc", "p_aupr", "p_aupro")


def compute(key: str, maps: np.ndarray, masks: np.ndarray):
    """The value that belongs to one key of a fixture of kind `maps`."""
    group, name = key.split("/", 1)
    if group == "check":
        return CHECKS[name](maps, masks)
    truth = GroundTruth(masks.any(axis=(1, 2)), masks)
    if group == "exact":
        return EXACT[name](rank_pixels(maps, truth))
    if match := re.fullmatch(r"aupro/(?:mvtec_official|anomalib)_([\d.]+)", key):
        return aupro(rank_pixels(maps, truth), float(match[1]))
    if match := re.fullmatch(r"aupro/mvtec3d_(\d+)", key):
        return ader.ranked_aupro(split_pixels(maps, truth), int(match[1]))
    if match := re.fullmatch(r"adeval(\d+)", group):
        areas = ader.strip_areas(split_pixels(maps, truth), int(match[1]), cuda=False)
        return dict(zip(ADEVAL, areas, strict=True))[name]
    if match := re.fullmatch(r"ader/mAUPRO_px_step(\d+)", key):
        return ader.stepped_aupro(split_pixels(maps, truth), int(match[1]))
    if match := re.fullmatch(r"ader(?:_pool(\d+))?(_adeval)?", group):
        metrics = ader.image_metrics(maps, truth, pooling=int(match[1]) if match[1] else None)
        return (metrics | ader.pixel_metrics(maps, truth, adeval=bool(match[2])))[name]
    raise KeyError(f"no metric of the project is known for {key!r}")


@pytest.mark.parametrize("path", cases("metrics", "maps"))
def test_every_output_of_the_fixture_is_reproduced(path):
    case = load(path)
    maps, masks = case.inputs["maps"], case.inputs["masks"].astype(bool)
    for key in case.expected:
        case.check(key, np.asarray(compute(key, maps, masks)))


def test_an_unknown_key_of_a_fixture_is_an_error():
    maps, masks = np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), bool)
    for key in ("ader_new/mAUROC_px", "aupro/other_0.3", "check/other", "ader/mDice_px_nowhere"):
        with pytest.raises(KeyError):
            compute(key, maps, masks)
