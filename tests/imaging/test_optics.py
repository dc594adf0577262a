"""Each effect of a camera on linear light."""

import numpy as np
import pytest

from jaxad.imaging.optics import (
    enlarge,
    linear_motion,
    resample,
    rotational_motion,
    sensor_noise,
    to_linear,
    to_srgb,
)


def test_srgb_there_and_back_is_exact_on_bytes():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(np.round(to_srgb(to_linear(levels)) * 255), levels)
    np.testing.assert_allclose(to_linear(np.array([0.0, 0.5, 1.0])), [0, 0.21404114, 1], atol=1e-6)
    np.testing.assert_allclose(to_linear(levels), to_linear(levels / 255), atol=1e-6)


@pytest.mark.parametrize("angle", [0, 30, 90, 200])
@pytest.mark.parametrize("length", [0, 0.7, 5, 21.5])
def test_linear_motion_preserves_light_and_spreads_it_over_the_way(angle, length):
    image = np.zeros((61, 71, 2), np.float32)
    image[30, 35] = 1, 2
    moved = linear_motion(image, length, angle)
    np.testing.assert_allclose(moved.sum(axis=(0, 1)), [1, 2], rtol=1e-4)
    y, x = np.mgrid[:61, :71]
    along = (x - 35) * np.cos(np.radians(angle)) - (y - 30) * np.sin(np.radians(angle))
    across = (x - 35) * np.sin(np.radians(angle)) + (y - 30) * np.cos(np.radians(angle))
    np.testing.assert_allclose((moved[..., 0] * along).sum(), 0, atol=1e-3)
    assert abs((moved[..., 0] * along**2).sum() - length**2 / 12) < 0.35  # a line's, and that of shared pixels
    assert (moved[..., 0] * across**2).sum() < 0.35


def test_light_preserved_in_a_whole_photograph_that_moves():
    light = to_linear(np.random.default_rng(0).integers(0, 256, (150, 200, 3)).astype(np.uint8))
    for moved in (linear_motion(light, 12, 40), rotational_motion(light, 4)):
        np.testing.assert_allclose(moved.mean(axis=(0, 1)), light.mean(axis=(0, 1)), rtol=0.01)


def test_rotational_motion_blurs_by_the_distance_from_its_centre():
    image = np.zeros((101, 101, 1), np.float32)
    image[50, 50] = image[50, 90] = 1
    turned = rotational_motion(image, 10)[..., 0]
    assert turned[50, 50] > 0.95
    arc = turned[:, 80:]
    y = np.arange(101)[:, None]
    np.testing.assert_allclose(arc.sum(), 1, rtol=0.01)
    np.testing.assert_allclose((arc * (y - 50)).sum(), 0, atol=0.05)
    assert abs(np.sqrt((arc * (y - 50) ** 2).sum()) - 40 * np.radians(10) / np.sqrt(12)) < 0.2
    assert rotational_motion(image, 10, centre=(90, 50))[50, 90, 0] > 0.95


def test_motion_of_nothing_is_the_image():
    image = np.random.default_rng(0).random((20, 30, 3), np.float32)
    np.testing.assert_allclose(linear_motion(image, 0, 0), image, atol=1e-5)
    np.testing.assert_array_equal(rotational_motion(image, 0), image)


def test_resampling_is_the_mean_over_areas():
    image = np.random.default_rng(0).random((12, 18, 3), np.float32)
    small = resample(image, 3)
    assert small.shape == (4, 6, 3)
    np.testing.assert_allclose(small, image.reshape(4, 3, 6, 3, 3).mean(axis=(1, 3)), atol=1e-6)
    assert resample(image[:1, :1], 3).shape == (1, 1, 3)
    large = enlarge(small, (12, 18))
    assert large.shape == image.shape
    assert small.min() <= large.min() and large.max() <= small.max()


@pytest.mark.parametrize("light", [0.0, 0.2, 0.9])
def test_sensor_noise_has_the_variance_of_electrons(light):
    image = np.full((200, 200, 3), light, np.float32)
    noisy = sensor_noise(image, np.random.default_rng(0), electrons=1000, read_noise=5)
    np.testing.assert_allclose(noisy.mean(), light, atol=4e-4)
    np.testing.assert_allclose(noisy.var(), light / 1000 + 25e-6, rtol=0.03)
