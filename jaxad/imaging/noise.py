"""Seeded random fields on an (h, w) grid, the raw material of textures, reliefs and wear.

Every field has mean 0 and standard deviation 1 over the grid, is float32, and depends on nothing but its arguments
and the state of `rng`. `fractal` shapes white noise in the frequency domain (Peitgen and Saupe, "The Science of Fractal
Images", 1988, section 2.6) and is periodic; `lattice` interpolates random values on a coarse lattice, so that the same
draw can be sampled at any resolution.
"""

import numpy as np
from jaxtyping import Float


def fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    exponent: float = 2.0,
    shortest: float = 2.0,
    longest: float | None = None,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Float[np.ndarray, "h w"]:
    """Gaussian noise whose power falls as frequency ** -exponent; it tiles seamlessly.

    Args:
        exponent: 0 is white, 2 is cloud-like, above 3 is smooth.
        shortest, longest: wavelengths in pixels outside of which there is no power; `longest=None` is the grid's
            larger side.
        stretch: how many times longer features are along `angle` than across it; 20 and more look brushed.
        angle: direction of the long axis in degrees, counter-clockwise from +x as seen on the image.
    """
    h, w = shape
    fy = np.fft.fftfreq(h).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(w).astype(np.float32)[None, :]
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along = (fx * cosine - fy * sine) * stretch
    across = fx * sine + fy * cosine
    frequency = np.hypot(along, across)
    lowest = 1.0 / (longest or max(h, w))
    # A soft upper edge keeps the field from ringing.
    amplitude = np.maximum(frequency, lowest) ** (-exponent / 2) * np.exp(-((frequency * shortest / 2) ** 4) * 4)
    amplitude[frequency < 0.7 * lowest] = 0
    spectrum = np.fft.rfft2(rng.standard_normal((h, w), dtype=np.float32)) * amplitude.astype(np.float32)
    spectrum[0, 0] = 0
    return _standardise(np.fft.irfft2(spectrum, s=shape))


def lattice(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cells: tuple[int, int],
    *,
    octaves: int = 1,
    gain: float = 0.5,
) -> Float[np.ndarray, "h w"]:
    """Cubic B-spline through a random lattice of `cells` (rows, columns).

    Apart from the standardisation, a draw gives the same field at every `shape`. Each of the `octaves` doubles the
    cells and multiplies the amplitude by `gain`. Unequal cells give anisotropic noise: (80, 2) is horizontal grain.
    """
    field = np.zeros(shape, np.float32)
    for octave in range(octaves):
        rows, columns = cells[0] << octave, cells[1] << octave
        values = rng.standard_normal((rows + 3, columns + 3), dtype=np.float32)
        field += gain**octave * (_spline(shape[0], rows) @ values @ _spline(shape[1], columns).T)
    return _standardise(field)


def speckle(
    rng: np.random.Generator, shape: tuple[int, int], *, density: float, radius: float
) -> Float[np.ndarray, "h w"]:
    """Soft round specks of random strength: `density` per pixel, Gaussian with standard deviation `radius` pixels."""
    h, w = shape
    impulses = np.zeros(shape, np.float32)
    count = rng.poisson(density * h * w)
    np.add.at(impulses, (rng.integers(0, h, count), rng.integers(0, w, count)), rng.gamma(2.0, 0.5, count))
    squares = np.fft.fftfreq(h)[:, None] ** 2 + np.fft.rfftfreq(w)[None, :] ** 2
    spectrum = np.fft.rfft2(impulses) * np.exp(-2 * (np.pi * radius) ** 2 * squares).astype(np.float32)
    return _standardise(np.fft.irfft2(spectrum, s=shape))


def _spline(samples: int, cells: int) -> Float[np.ndarray, "samples knots"]:
    """Uniform cubic B-spline basis of `cells` intervals, sampled at pixel centres."""
    position = (np.arange(samples) + 0.5) / samples * cells
    first = np.minimum(position.astype(int), cells - 1)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    basis = np.zeros((samples, cells + 3), np.float32)
    np.put_along_axis(basis, first[:, None] + np.arange(4), weights.astype(np.float32), axis=1)
    return basis


def _standardise(field: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    field = field - field.mean()
    return (field / max(float(field.std()), 1e-12)).astype(np.float32)
