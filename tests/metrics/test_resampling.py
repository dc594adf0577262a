import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.metrics import rank_images
from jaxad.metrics.ranking import auroc
from jaxad.metrics.resampling import interval, resample, resampled_auroc


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
