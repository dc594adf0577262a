import dataclasses

import numpy as np
import pytest

from datasets_tfds.mirad_mini.backgrounds import BACKGROUNDS
from datasets_tfds.mirad_mini.imaging import (
    FACTORS,
    NODES,
    REFERENCE,
    Imaging,
    draw_imaging,
    vary,
)

FIELDS = {field.name for field in dataclasses.fields(Imaging)}


def test_six_nodes_show_all_five_backgrounds_and_all_three_resolutions():
    assert list(NODES) == [1, 2, 3, 4, 5, 6]
    assert sorted({node.background for node in NODES.values()}) == sorted(BACKGROUNDS)
    assert {node.resolution for node in NODES.values()} == {600, 300, 200}


@pytest.mark.parametrize("node", NODES)
def test_a_node_draws_within_its_ranges(node):
    place = NODES[node]
    for seed in range(20):
        drawn = draw_imaging(node, np.random.default_rng(seed))
        assert (drawn.node, drawn.background, drawn.resolution) == (node, place.background, place.resolution)
        assert place.tilt[0] <= drawn.tilt <= place.tilt[1]
        assert place.electrons[0] <= drawn.electrons <= place.electrons[1]
        assert place.ambient_mix[0] <= drawn.ambient_mix <= place.ambient_mix[1] or drawn.ambient_mix == 1
        assert drawn.motion_length == 0 or place.linear_motion[0] <= drawn.motion_length <= place.linear_motion[1]
        assert abs(drawn.offset_x) <= place.offset and abs(drawn.offset_y) <= place.offset


def test_the_same_seed_draws_the_same_imaging():
    first, second = (draw_imaging(5, np.random.default_rng(7)) for _ in range(2))
    assert first == second != draw_imaging(5, np.random.default_rng(8))


def test_about_a_fifth_of_the_photographs_has_ambient_light_only():
    rng = np.random.default_rng(0)
    ambient = [draw_imaging(node, rng).ambient_mix == 1 for node in NODES for _ in range(300)]
    assert 0.17 < np.mean(ambient) < 0.27


def test_the_factors_are_all_fields_but_the_node_and_share_none():
    names = [name for factor in FACTORS.values() for name in factor]
    assert sorted(names) == sorted(FIELDS - {"node"})


@pytest.mark.parametrize("factor", FACTORS)
def test_varying_a_factor_changes_it_and_nothing_else(factor):
    drawn = [vary(REFERENCE, factor, np.random.default_rng(seed)) for seed in range(30)]
    for name in FIELDS - set(FACTORS[factor]):
        assert all(getattr(d, name) == getattr(REFERENCE, name) for d in drawn)
    assert len({dataclasses.astuple(d) for d in drawn}) >= (3 if factor == "resolution" else 5)


def test_varied_motion_always_moves():
    drawn = [vary(REFERENCE, "motion", np.random.default_rng(seed)) for seed in range(40)]
    assert all(d.motion_length > 0 or d.motion_rotation > 0 for d in drawn)
    assert any(d.motion_length > 0 and d.motion_rotation > 0 for d in drawn)


def test_unknown_nodes_and_factors_are_refused():
    with pytest.raises(ValueError, match="node is 7; nodes are 1, 2"):
        draw_imaging(7, np.random.default_rng(0))
    with pytest.raises(ValueError, match="factor is 'colour'; factors are view, illumination"):
        vary(REFERENCE, "colour", np.random.default_rng(0))
