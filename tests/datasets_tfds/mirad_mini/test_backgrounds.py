import numpy as np
import pytest

from datasets_tfds.mirad_mini.backgrounds import BACKGROUNDS


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_are_physical_textured_and_follow_the_seed(name):
    first, same, other = (BACKGROUNDS[name](np.random.default_rng(seed), 240, 0.2) for seed in (1, 1, 2))
    assert first.albedo.shape == (240, 240, 3) and first.slope.shape == (240, 240, 2)
    for field in (first.albedo, first.gloss, first.metal):
        assert field.dtype == np.float32 and field.min() >= 0 and field.max() <= 1
    assert first.albedo.std((0, 1)).min() > 0.002
    assert np.array_equal(first.albedo, same.albedo) and np.array_equal(first.slope, same.slope)
    assert not np.allclose(first.albedo, other.albedo)


def test_the_mats_lines_are_five_and_ten_millimetres_apart():
    mat = BACKGROUNDS["cutting_mat"](np.random.default_rng(3), 880, 0.1)
    # The grid's spectrum peaks at its lines' period or at a harmonic of it.
    spectrum = np.abs(np.fft.fft2(mat.albedo[..., 0]))
    spectrum[:3, :3] = spectrum[:3, -3:] = spectrum[-3:, :3] = spectrum[-3:, -3:] = 0
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    cycles = np.hypot(min(row, 880 - row), min(column, 880 - column))
    assert any(abs(cycles - 88 / period) < 1.5 for period in (10, 5, 2.5))
