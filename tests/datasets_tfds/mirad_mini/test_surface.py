import numpy as np
import pytest

from datasets_tfds.mirad_mini.surface import (
    Material,
    bevelled,
    circle,
    covered,
    cut,
    difference,
    empty,
    grid,
    lay,
    local,
    polygon,
    regular,
    rounded_box,
    segment,
    smooth_noise,
    tapered,
    union,
    windowed,
)


def test_a_grid_is_centred_with_row_0_on_top():
    g = grid(10.0, 0.1)
    assert g.size == 100
    np.testing.assert_allclose(g.x[0], -g.x[0][::-1], atol=1e-6)
    assert g.y[0, 0] > 0 > g.y[-1, 0]
    assert g.x[0, 0] < 0 < g.x[0, -1]


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (lambda g: circle(g.x, g.y, 3.0), np.pi * 9),
        (lambda g: rounded_box(g.x, g.y, 3.0, 2.0, 0.5), 24 - (4 - np.pi) * 0.25),
        (lambda g: polygon(g.x, g.y, [(-2, -1), (2, -1), (0, 2)]), 6.0),
        (lambda g: polygon(g.x, g.y, regular(6, 3.0)), 1.5 * np.sqrt(3) * 9),
        (lambda g: segment(g.x, g.y, (-2, 0), (2, 0)) - 0.5, 4 + np.pi * 0.25),
        (lambda g: difference(circle(g.x, g.y, 3.0), circle(g.x, g.y, 1.0)), np.pi * 8),
        (lambda g: union(circle(g.x - 2, g.y, 1.0), circle(g.x + 2, g.y, 1.0)), 2 * np.pi),
    ],
)
def test_the_cover_of_a_shape_has_its_area(shape, area):
    g = grid(10.0, 0.05)
    assert covered(shape(g), g.pitch).sum() * g.pitch**2 == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("pitch", [0.1, 0.3])
def test_distances_are_in_millimetres(pitch):
    g = grid(20.0, pitch)
    for distance in (
        circle(g.x, g.y, 4.0),
        rounded_box(g.x, g.y, 4.0, 3.0, 1.0),
        tapered(g.x, g.y, (0, 0), (3, 0), 1, 1),
    ):
        rows, columns = np.gradient(distance, pitch)
        assert np.percentile(np.hypot(rows, columns), 98) == pytest.approx(1.0, abs=0.02)


def test_a_windowed_shape_is_the_shape_near_it_and_far_elsewhere():
    g = grid(30.0, 0.1)
    there = circle(*local(g, (5.0, -6.0)), 2.0)
    near = windowed(g, (5.0, -6.0), 2.0, lambda w: circle(*local(w, (5.0, -6.0)), 2.0))
    np.testing.assert_allclose(near[there < 2.5], there[there < 2.5], atol=1e-5)
    assert (near[there > 3.0] >= 2.9).all()


def test_local_coordinates_turn_counter_clockwise():
    g = grid(4.0, 0.1)
    x, _ = local(g, (0, 0), 90.0)
    assert x[0, 20] == pytest.approx(g.y[0, 0], abs=1e-5)


def test_a_bevel_rises_from_the_outline_to_the_full_height():
    g = grid(12.0, 0.05)
    distance = circle(g.x, g.y, 5.0)
    height = bevelled(distance, 3.0, 1.0)
    assert height[distance < -1.0].min() == pytest.approx(3.0)
    rim = (distance > -1.0) & (distance < 0)
    assert (height[rim] >= 2.0).all()
    assert np.corrcoef(height[rim], distance[rim])[0, 1] < -0.8


def test_a_layer_hides_what_is_below_and_a_print_keeps_its_height():
    g = grid(10.0, 0.1)
    plate = covered(circle(g.x, g.y, 4.0), g.pitch)
    surface = lay(empty(g), plate, Material((0.5, 0.1, 0.1), 0.8), np.full_like(plate, 3.0))
    mark = covered(circle(g.x, g.y, 1.0), g.pitch)
    printed = lay(surface, mark, Material((0.9, 0.9, 0.9), 0.2))
    np.testing.assert_array_equal(printed.height, surface.height)
    np.testing.assert_allclose(printed.albedo[50, 50], 0.9, rtol=1e-5)
    np.testing.assert_allclose(printed.albedo[50, 75], (0.5, 0.1, 0.1), rtol=1e-5)
    opened = cut(printed, mark)
    assert opened.height[50, 50] == 0
    assert opened.cover[50, 50] == 0
    assert opened.cover[50, 75] == 1


def test_noise_is_the_same_field_at_every_pitch():
    coarse = smooth_noise(grid(32.0, 0.4), np.random.default_rng(3), 4.0)
    fine = smooth_noise(grid(32.0, 0.1), np.random.default_rng(3), 4.0)
    averaged = fine.reshape(80, 4, 80, 4).mean((1, 3))
    np.testing.assert_allclose(averaged, coarse, atol=0.05)
