import numpy as np
import pytest

from jaxad.imaging import noise

FIELDS = {
    "fractal": lambda rng, shape: noise.fractal(rng, shape),
    "brushed": lambda rng, shape: noise.fractal(rng, shape, exponent=1, stretch=30, angle=20),
    "lattice": lambda rng, shape: noise.lattice(rng, shape, (4, 6), octaves=3),
    "speckle": lambda rng, shape: noise.speckle(rng, shape, density=0.02, radius=1.5),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_standardised_and_follow_the_seed(name):
    field = FIELDS[name](np.random.default_rng(1), (61, 84))
    assert field.shape == (61, 84) and field.dtype == np.float32
    assert abs(field.mean()) < 1e-4 and abs(field.std() - 1) < 1e-3
    assert np.array_equal(field, FIELDS[name](np.random.default_rng(1), (61, 84)))
    assert not np.allclose(field, FIELDS[name](np.random.default_rng(2), (61, 84)))


def test_fractal_power_falls_with_the_exponent():
    field = noise.fractal(np.random.default_rng(0), (256, 256), exponent=2, shortest=0.5)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    band = (frequency > 0.02) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert -2.1 < slope < -1.9


def test_stretched_noise_is_smooth_along_its_angle_only():
    field = noise.fractal(np.random.default_rng(0), (128, 128), exponent=0, stretch=20, angle=90)
    along, across = np.abs(np.diff(field, axis=0)).mean(), np.abs(np.diff(field, axis=1)).mean()
    assert across > 5 * along


def test_stretched_noise_turns_counter_clockwise_as_seen():
    field = noise.fractal(np.random.default_rng(0), (128, 128), exponent=0, stretch=20, angle=45)
    up_right = np.abs(field[1:, :-1] - field[:-1, 1:]).mean()
    down_right = np.abs(field[:-1, :-1] - field[1:, 1:]).mean()
    assert down_right > 3 * up_right


def test_wavelengths_outside_the_band_are_absent():
    field = noise.fractal(np.random.default_rng(0), (256, 256), exponent=0, shortest=8, longest=32)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    outside = (frequency > 1 / 4) | (frequency < 0.6 / 32)
    assert power[outside].sum() < 1e-3 * power.sum()


def test_lattice_is_the_same_field_at_every_sampling():
    fine = noise.lattice(np.random.default_rng(3), (240, 240), (5, 5), octaves=2)
    coarse = noise.lattice(np.random.default_rng(3), (80, 80), (5, 5), octaves=2)
    assert np.abs(fine[1::3, 1::3] - coarse).max() < 0.02
