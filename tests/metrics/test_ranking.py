from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from jaxad.metrics import GroundTruth, Ranking, curves, label_regions, rank_images, rank_pixels, ranking
from jaxad.metrics.ranking import area_to_limit, aupro, auroc, average_precision, f1_max


def ranked(maps, masks, **known) -> Ranking:
    found = rank_pixels(maps, GroundTruth(masks.any(axis=(1, 2)), masks, **known))
    assert found is not None
    return found


@st.composite
def maps_and_masks(draw):
    """Small maps with many ties, negative scores and both zeros, and masks with both classes of pixels."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(2, 6)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scores = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 0.125, 0.5, 0.75, 1.0, 3.0])
    maps = draw(hnp.arrays(dtype, shape, elements=scores))
    masks = draw(hnp.arrays(np.bool_, shape))
    masks.flat[0], masks.flat[-1] = True, False
    return maps, masks


def f1_over_every_threshold(labels, scores):
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        return np.nanmax(2 * precision * recall / (precision + recall))


def aupro_over_every_threshold(maps, masks, limit):
    """The definition, threshold by threshold and region by region (flood fill), with the cut at the limit."""
    regions, todo = [], {tuple(place) for place in np.argwhere(masks)}
    while todo:
        region, front = set(), {todo.pop()}
        while front:
            n, y, x = front.pop()
            region.add((n, y, x))
            near = {(n, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            front |= near
        regions.append(tuple(np.array(sorted(region)).T))
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        predicted = maps >= threshold
        points.append((predicted[~masks].mean(), np.mean([predicted[region].mean() for region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit < x1:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        if x1 <= limit:
            area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@settings(max_examples=150, deadline=None)
@given(maps_and_masks())
def test_pixel_areas_equal_scikit_learn_with_ties(case):
    maps, masks = case
    found = ranked(maps, masks)
    labels, scores = masks.ravel(), maps.ravel()
    assert auroc(found) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(found) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert f1_max(found) == pytest.approx(f1_over_every_threshold(labels, scores), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(maps_and_masks(), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_aupro_equals_the_definition(case, limit):
    maps, masks = case
    assert aupro(ranked(maps, masks), limit) == pytest.approx(aupro_over_every_threshold(maps, masks, limit), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 2.0])), min_size=2, max_size=30))
def test_image_areas_equal_scikit_learn(samples):
    labels, scores = np.array([s[0] for s in samples]), np.array([s[1] for s in samples])
    labels[0], labels[-1] = True, False
    found = rank_images(scores, labels)
    assert auroc(found) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(found) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert f1_max(found) == pytest.approx(f1_over_every_threshold(labels, scores), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(maps_and_masks(), st.data())
def test_padding_and_images_of_unknown_truth_leave_no_trace(case, data):
    maps, masks = case
    valid = data.draw(hnp.arrays(np.bool_, maps.shape))
    has_mask = data.draw(hnp.arrays(np.bool_, len(maps)).filter(np.any))
    found = ranked(maps, masks, valid=valid, has_mask=has_mask)
    counted = valid & has_mask[:, None, None]
    assert (found.normal, found.anomalous) == (np.sum(counted & ~masks), np.sum(counted & masks))
    if not found.one_class:
        assert auroc(found) == pytest.approx(roc_auc_score(masks[counted], maps[counted]), abs=1e-12)
        other = np.where(counted, maps, 99.0).astype(maps.dtype)
        again = ranked(other, masks & counted, valid=valid, has_mask=has_mask)
        assert aupro(again) == aupro(found)


def test_the_block_size_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    maps, masks = rng.integers(0, 50, (7, 8, 8)).astype(np.float32), rng.random((7, 8, 8)) < 0.2
    whole = ranked(maps, masks)
    for pixels in (1, 130):
        monkeypatch.setattr(ranking, "BLOCK_PIXELS", pixels)
        blocks = ranked(maps, masks)
        np.testing.assert_array_equal(blocks.false_positives, whole.false_positives)
        np.testing.assert_array_equal(blocks.false_positives_above, whole.false_positives_above)
        assert blocks.normal == whole.normal


def test_counts_beyond_what_float32_can_hold_stay_exact():
    maps = np.zeros((1, 4200, 4200), np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[0, 0, 0] = maps[0, 0, 0] = True
    maps[0, 0, 1] = 1.0
    found = ranked(maps, masks)
    normal = 4200 * 4200 - 1
    assert normal > 2**24 and found.normal == normal
    assert auroc(found) == 1 - 0.5 / normal


def test_a_map_that_is_not_contiguous_gives_the_same():
    rng = np.random.default_rng(1)
    maps, masks = rng.random((3, 6, 5), dtype=np.float32), rng.random((3, 6, 5)) < 0.3
    transposed = np.ascontiguousarray(maps.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert aupro(ranked(transposed, masks)) == aupro(ranked(maps, masks))


def test_corners_join_regions_only_with_8_neighbours():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 3, 3] = True
    masks[2, 2, 2] = True
    eight, four = label_regions(masks), label_regions(masks, connectivity=4)
    assert (eight.count, four.count) == (3, 4)
    assert sorted(eight.areas) == [1, 1, 2]
    assert list(eight.image) == [0, 0, 2]
    assert list(eight.pixels) == [0, 5, 15, 42]


def test_padding_is_cut_off_before_regions_are_labelled():
    masks = np.ones((1, 3, 3), bool)
    valid = np.ones((1, 3, 3), bool)
    valid[0, 1] = False
    assert label_regions(masks).count == 1
    assert list(label_regions(masks, valid=valid).areas) == [3, 3]


def test_area_to_limit_cuts_inside_a_slanted_and_at_a_vertical_part():
    x, y = np.array([0.0, 0.2, 0.2, 1.0]), np.array([0.0, 0.4, 0.6, 1.0])
    assert area_to_limit(x, y, 0.1) == pytest.approx(0.01)
    assert area_to_limit(x, y, 0.2) == pytest.approx(0.04)
    assert area_to_limit(x, y, 0.6) == pytest.approx(0.04 + 0.4 * 0.7)


def test_small_curves_are_the_ones_of_scikit_learn():
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 20, 100) / 4, rng.random(100) < 0.4
    found = curves(rank_images(scores, labels))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(np.interp(fpr, found.fpr, found.tpr)[1:-1], tpr[1:-1], atol=1e-12)
    assert np.trapezoid(found.tpr, found.fpr) == pytest.approx(roc_auc_score(labels, scores))
    precision, recall, _ = precision_recall_curve(labels, scores)
    mine = set(zip(found.recall, found.precision, strict=True))
    assert len(mine) > 10 and mine <= set(zip(recall, precision, strict=True))
    assert found.pro is None and found.pro_fpr is None


def test_long_curves_are_thinned_to_500_points_and_keep_their_area():
    rng = np.random.default_rng(3)
    masks = np.zeros((4, 100, 100), bool)
    masks[1:, 20:60, 30:80] = True
    maps = (rng.standard_normal(masks.shape) + masks).astype(np.float32)
    found = ranked(maps, masks)
    assert len(found.thresholds) > 5000
    thin = curves(found)
    for x, y in ((thin.fpr, thin.tpr), (thin.recall, thin.precision), (thin.pro_fpr, thin.pro)):
        assert x is not None and y is not None
        assert 300 < len(x) == len(y) <= 500
        assert np.all(np.diff(x) >= 0)
        assert x[0] == 0 and x[-1] == 1
    assert np.trapezoid(thin.tpr, thin.fpr) == pytest.approx(auroc(found), abs=1e-3)
    assert area_to_limit(thin.pro_fpr, thin.pro, 0.3) / 0.3 == pytest.approx(aupro(found), abs=1e-3)


def test_one_class_has_empty_curves():
    found = curves(rank_images(np.array([0.1, 0.2]), np.array([True, True])))
    assert found.fpr.size == found.tpr.size == found.recall.size == found.precision.size == 0
