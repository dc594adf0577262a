from itertools import combinations

import numpy as np
import pytest

from datasets_tfds.mirad_mini.layout import FIELD_MM, LARGEST_RADIUS_MM, lay_out


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_largest_products_neither_overlap_nor_leave_the_field(count):
    for seed in range(40):
        places = lay_out(np.random.default_rng(seed), count)
        assert len(places) == count
        for p in places:
            assert np.hypot(p.x_mm, p.y_mm) + p.scale * LARGEST_RADIUS_MM < FIELD_MM / 2
        for p, q in combinations(places, 2):
            distance = np.hypot(p.x_mm - q.x_mm, p.y_mm - q.y_mm)
            assert distance >= (p.scale + q.scale) * LARGEST_RADIUS_MM - 1e-9


def test_places_follow_the_seed():
    first, second = (lay_out(np.random.default_rng(5), 3) for _ in range(2))
    assert first == second != lay_out(np.random.default_rng(6), 3)


def test_no_products_and_too_many_are_refused():
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"count is {count}; the field holds 1 to 4"):
            lay_out(np.random.default_rng(0), count)
