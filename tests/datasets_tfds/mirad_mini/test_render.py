"""The geometry of camera, light and mask, on blocks whose pictures can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from datasets_tfds.mirad_mini.imaging import NODES, REFERENCE, draw_imaging
from datasets_tfds.mirad_mini.layout import Placement
from datasets_tfds.mirad_mini.render import render
from datasets_tfds.mirad_mini.scene import shadow_heights
from datasets_tfds.mirad_mini.surface import Surface

ABOVE = replace(REFERENCE, tilt=0.0, electrons=1e7, read_noise=0.0)
MIDDLE = Placement(0.0, 0.0, 0.0)
RED = (0.6, 0.02, 0.02)


def block(height: float, half: float = 8.0, defect: tuple[float, float, float, float] | None = None) -> Surface:
    """A red square block 2 * half mm wide; `defect` is a box (left, top, right, bottom) in mm, y downwards."""
    steps = (np.arange(300) - 149.5) * 0.1
    x, y = steps[None, :], steps[:, None]
    cover = ((np.abs(x) < half) & (np.abs(y) < half)).astype(np.float32)
    left, top, right, bottom = defect or (0, 0, 0, 0)
    return Surface(
        height=cover * np.float32(height),
        cover=cover,
        albedo=cover[..., None] * np.float32(RED),
        gloss=np.full_like(cover, 0.3),
        metal=np.zeros_like(cover),
        defect=(x > left) & (x < right) & (y > top) & (y < bottom),
        pitch=0.1,
    )


def red(image: np.ndarray) -> np.ndarray:
    """Where the picture shows the block."""
    image = image.astype(int)
    return image[..., 0] > 1.8 * image[..., 1] + 10


def centre(mask: np.ndarray) -> tuple[float, float]:
    """x and y in mm from the picture's middle."""
    rows, columns = np.nonzero(mask)
    size = len(mask)
    return tuple(float((index.mean() + 0.5) * 60 / size - 30) for index in (columns, rows))


@pytest.mark.parametrize("node", NODES)
def test_every_node_takes_a_photograph_of_its_resolution_and_the_same_one_again(node):
    imaging = draw_imaging(node, np.random.default_rng(node))
    surface = block(5, defect=(-3, -3, 3, 3))
    image, mask = render([surface], [MIDDLE], imaging, 4)
    assert image.shape == (imaging.resolution, imaging.resolution, 3) and image.dtype == np.uint8
    assert mask.shape == image.shape[:2] and mask.dtype == bool and mask.any()
    again, mask_again = render([surface], [MIDDLE], imaging, 4)
    assert np.array_equal(image, again) and np.array_equal(mask, mask_again)


def test_the_mask_is_where_the_defect_is_seen_on_top():
    imaging = replace(ABOVE, distance=480.0)
    image, mask = render([block(6, defect=(-5, -1, 1, 3))], [Placement(4, -6, 0)], imaging, 0)
    closer = 480 / (480 - 6)  # what is 6 mm high appears that much larger
    assert centre(mask) == pytest.approx((closer * (4 - 2), closer * (-6 + 1)), abs=0.06)
    assert mask.sum() / 100 == pytest.approx(closer**2 * 24, rel=0.03)
    assert red(image)[mask].all()


def test_a_missing_part_is_marked_on_the_table():
    image, mask = render([block(6, defect=(10, -2, 13, 2))], [MIDDLE], ABOVE, 0)
    assert centre(mask) == pytest.approx((11.5, 0), abs=0.06)
    assert not red(image)[mask].any()


def test_a_leaning_camera_sees_the_near_wall_and_the_top_moves_away_from_it():
    leaning = replace(ABOVE, tilt=20.0, heading=270.0, distance=2000.0)  # from far away there is hardly any perspective
    flat, tall = (render([block(h)], [MIDDLE], leaning, 0)[0] for h in (0.4, 8.0))
    heights = []
    for image in (flat, tall):
        rows = np.nonzero(red(image)[:, 300])[0]
        heights.append(((rows[0] - 300) / 10, (rows[-1] + 1 - 300) / 10))
    cosine, sine = np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))
    for (first, last), height in zip(heights, (0.4, 8.0), strict=True):
        # The far edge of the top, and the near wall's foot: the wall stands between the top and the camera.
        assert first == pytest.approx(-8 * cosine - height * sine, abs=0.25)
        assert last == pytest.approx(8 * cosine, abs=0.25)


def test_products_turn_counter_clockwise():
    _, mask = render([block(1, defect=(4, -1, 6, 1))], [Placement(2, 3, 90)], ABOVE, 0)
    assert centre(mask) == pytest.approx((2, 3 - 5), abs=0.1)


def test_scaled_products_shrink_in_every_direction():
    small, full = (red(render([block(6)], [Placement(0, 0, 0, scale)], ABOVE, 0)[0]).sum() for scale in (0.5, 1.0))
    assert small / full == pytest.approx(0.25 * (474 / 477) ** 2, rel=0.05)


def test_shadows_fall_away_from_the_light_as_far_as_its_elevation_says():
    light = replace(ABOVE, light_azimuth=180.0, light_elevation=45.0, light_softness=2.0, ambient_mix=0.3)
    image = render([block(8)], [Placement(-5, 0, 0)], light, 0)[0].astype(float)[295:305].mean((0, 2))

    def brightness(x):
        return image[round((x + 30) * 10) - 5 : round((x + 30) * 10) + 5].mean()

    # The block ends at x = 3; its shadow ends 8 mm farther.
    assert brightness(7) < 0.75 * brightness(20)
    assert brightness(14) > 0.9 * brightness(20)
    assert brightness(-16) > 0.9 * brightness(20)


@pytest.mark.parametrize("azimuth", [0, 37, 90, 200, 315])
def test_shadow_heights_fall_with_the_tangent_of_the_light(azimuth):
    height = np.zeros((201, 201), np.float32)
    rows, columns = np.indices(height.shape) - 100
    height[np.hypot(rows, columns) < 20] = 10.0
    shadow = shadow_heights(height, 0.2, azimuth, 35.0)
    x, y = np.cos(np.deg2rad(azimuth)), -np.sin(np.deg2rad(azimuth))
    for way in (30, 50, 70):  # samples from the middle, away from the light; the disc ends after 20
        expected = max(10 - (way - 20) * 0.2 * np.tan(np.deg2rad(35)), 0)
        assert shadow[round(100 - y * way), round(100 - x * way)] == pytest.approx(expected, abs=0.35)
        assert shadow[round(100 + y * way), round(100 + x * way)] == 0


def test_motion_keeps_the_masks_middle_and_adds_what_is_seen_for_half_the_exposure():
    surface = block(2, defect=(-4, -4, 4, 4))
    still, moving, faster = (
        render([surface], [MIDDLE], replace(ABOVE, motion_length=length), 0)[1] for length in (0.0, 3.0, 20.0)
    )
    assert still.any() and (moving & still).sum() == still.sum()
    assert moving.sum() < 1.05 * still.sum()
    assert np.array_equal(faster, still)  # 8 of 20 mm: no other pixel sees the defect for half of the exposure


def test_motion_blurs_along_its_direction():
    image = render([block(2)], [MIDDLE], replace(ABOVE, motion_length=4.0, motion_angle=0.0), 0)[0].astype(float)
    across, along = (np.abs(np.diff(edge)).max() for edge in (image[180:260, 300, 1], image[300, 180:260, 1]))
    assert across > 3 * along


def test_thin_defects_stay_in_the_mask_at_every_resolution():
    surface = block(2, defect=(-6, -0.1, 6, 0.1))  # 0.2 mm, where a pixel has 0.3 mm
    for resolution, least in ((600, 100), (300, 50), (200, 35)):
        _, mask = render([surface], [MIDDLE], replace(ABOVE, resolution=resolution), 0)
        assert mask.any(0).sum() >= least


def test_the_same_scene_under_less_noise_or_resolution_is_the_same_scene():
    surface = block(4, defect=(-2, -2, 2, 2))
    clean, mask = render([surface], [MIDDLE], ABOVE, 3)
    noisy, noisy_mask = render([surface], [MIDDLE], replace(ABOVE, electrons=500.0), 3)
    assert np.array_equal(mask, noisy_mask)
    assert 2 < np.abs(clean.astype(float) - noisy).mean() < 15
    coarse, _ = render([surface], [MIDDLE], replace(ABOVE, resolution=200), 3)
    reduced = clean.reshape(200, 3, 200, 3, 3).mean((1, 3))
    assert np.abs(reduced - coarse).mean() < 3


def test_another_seed_is_another_table():
    images = [render([block(4)], [MIDDLE], replace(ABOVE, background="wood"), seed)[0] for seed in range(6)]
    assert len({image.tobytes() for image in images}) == 6
