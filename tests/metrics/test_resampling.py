import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.metrics import GroundTruth, rank_images, rank_pixels
from jaxad.metrics.ranking import aupro, auroc
from jaxad.metrics.resampling import interval, overlap_profile, resample, resampled_aupro, resampled_auroc


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 2.0])), min_size=2, max_size=30))
def test_a_resampled_area_is_the_area_of_the_images_drawn(samples):
    labels, scores = np.array([s[0] for s in samples]), np.array([s[1] for s in samples])
    labels[0], labels[-1] = True, False
    counts = resample(labels, 5, np.random.default_rng(0))
    for times, area in zip(counts, resampled_auroc(scores, labels, counts), strict=True):
        drawn = np.repeat(np.arange(len(labels)), times)
        assert area == pytest.approx(auroc(rank_images(scores[drawn], labels[drawn])), abs=1e-6)


def test_normal_and_anomalous_images_keep_their_numbers():
    labels = np.arange(30) < 7
    counts = resample(labels, 100, np.random.default_rng(1))
    assert set(counts[:, labels].sum(1)) == {7}
    assert set(counts[:, ~labels].sum(1)) == {23}
    assert counts.max() > 1


def test_the_interval_holds_the_middle_of_the_values():
    assert interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize("label", [False, True])
def test_images_of_one_kind_have_no_area(label):
    labels = np.full(6, label)
    assert np.isnan(resampled_auroc(np.arange(6.0), labels, resample(labels, 3, np.random.default_rng(0)))).all()


def truth_of(masks, **known):
    return GroundTruth(masks.any(axis=(1, 2)), masks, **known)


def maps_and_masks(images, size, seed):
    """Smooth maps, one or two defects in every other image, found more or less well."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    maps = draw.normal(size=(images, size, size)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    for image in range(0, images, 2):
        for _ in range(draw.integers(1, 3)):
            near = (y - draw.integers(size)) ** 2 + (x - draw.integers(size)) ** 2
            masks[image] |= near < draw.integers(4, 40)
            maps[image] += draw.uniform(0, 4) * np.exp(-near / 30)
    return maps, masks


@pytest.mark.parametrize("seed", range(4))
def test_a_resampled_aupro_is_that_of_the_images_drawn(seed):
    maps, masks = maps_and_masks(30, 48, seed)
    truth = truth_of(masks)
    profile = overlap_profile(maps, truth)
    counts = np.vstack([np.ones(30, int), resample(truth.labels, 6, np.random.default_rng(seed))])
    for times, area in zip(counts, resampled_aupro(profile, counts), strict=True):
        drawn = np.repeat(np.arange(30), times)
        assert area == pytest.approx(aupro(rank_pixels(maps[drawn], truth_of(masks[drawn]))), abs=1e-3)


def test_padding_and_images_of_unknown_truth_do_not_count():
    maps, masks = maps_and_masks(12, 32, 9)
    valid, has_mask = np.ones(maps.shape, bool), np.arange(12) < 10
    valid[:, :, 28:] = False
    masks &= valid
    truth = truth_of(masks, valid=valid, has_mask=has_mask)
    profile = overlap_profile(maps, truth)
    maps[:, :, 28:], maps[10:] = 99.0, 99.0
    again = overlap_profile(maps, truth)
    ones = np.ones((1, 12), int)
    assert resampled_aupro(again, ones) == resampled_aupro(profile, ones)
    assert resampled_aupro(profile, ones)[0] == pytest.approx(aupro(rank_pixels(maps, truth)), abs=1e-3)


def test_a_resample_without_a_region_has_no_aupro():
    maps, masks = maps_and_masks(6, 32, 2)
    profile = overlap_profile(maps, truth_of(masks))
    counts = np.array([[0, 2, 0, 2, 0, 2], [1, 1, 1, 1, 1, 1]])
    assert np.isnan(resampled_aupro(profile, counts)).tolist() == [True, False]
    blank = overlap_profile(maps, truth_of(np.zeros_like(masks)))
    assert np.isnan(resampled_aupro(blank, counts)).all()
