"""What products lie on: five table surfaces with their own colour, relief and gloss, different for every seed.

Lengths are in mm, colours linear RGB reflectance. A background is flat: its relief only tilts the surface's normal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxad.imaging.noise import fractal, speckle

Field = Float[np.ndarray, "size size"]


@dataclass(frozen=True)
class Background:
    """A table surface on a square grid, x to the right, y downwards.

    Attributes:
      albedo: linear RGB reflectance in 0..1; for a metal, its mirror reflectance.
      gloss: 0 matt to 1 highly polished.
      metal: 0 or 1.
      slope: change of height along x and y, in mm per mm.
    """

    albedo: Float[np.ndarray, "size size 3"]
    gloss: Field
    metal: Field
    slope: Float[np.ndarray, "size size 2"]


def white_paper(rng: np.random.Generator, size: int, pitch: float) -> Background:
    shape = (size, size)
    tint = _colour([1.0, rng.uniform(0.975, 1.0), rng.uniform(0.92, 1.0)]) * rng.uniform(0.74, 0.84)
    clouds = fractal(rng, shape, exponent=1.6, shortest=0.5 / pitch, longest=12 / pitch)
    fibres = _fibres(rng, shape, pitch)
    specks = _spots(rng, shape, density=0.004 * pitch**2, radius=0.08 / pitch)
    albedo = tint * (1 + 0.012 * clouds + 0.012 * fibres - 0.35 * specks)[..., None]
    tooth = fractal(rng, shape, exponent=0.8, shortest=0.25 / pitch, longest=2 / pitch)
    curl = fractal(rng, shape, exponent=3.5, shortest=15 / pitch)
    slope = _slope(tooth, 0.035) + _slope(curl, 0.012) + _slope(fibres, 0.02)
    return _background(albedo, 0.12, 0.0, slope)


def wood(rng: np.random.Generator, size: int, pitch: float) -> Background:
    shape = (size, size)
    angle = rng.uniform(0, 180)
    along, across = _axes(size, pitch, angle)
    light, dark = _WOODS[rng.integers(len(_WOODS))]
    light, dark = (_colour(colour) * rng.uniform(0.85, 1.15) for colour in (light, dark))

    # A seam between two boards, which on one table in three is within the field of view.
    seam = rng.uniform(-90, 90)
    board = (across > seam).astype(np.float32)
    drift = fractal(rng, shape, exponent=3.2, shortest=12 / pitch, longest=80 / pitch, stretch=5, angle=angle)
    waver = fractal(rng, shape, exponent=2.4, shortest=3 / pitch, longest=20 / pitch, stretch=8, angle=angle)
    bow = rng.uniform(-0.0015, 0.0015) * (along - rng.uniform(-30, 30)) ** 2
    ring = (across + bow) / rng.uniform(3.0, 7.0) + 0.7 * drift + 0.10 * waver + 3.7 * board
    phase = ring - np.floor(ring)
    late = phase**3 * (1 - np.clip((phase - 0.93) / 0.07, 0, 1))

    strands = fractal(rng, shape, exponent=0.9, shortest=0.25 / pitch, longest=30 / pitch, stretch=30, angle=angle)
    pores = np.clip(
        fractal(rng, shape, exponent=0, shortest=0.22 / pitch, longest=1.2 / pitch, stretch=12, angle=angle) - 1.7, 0, 1
    )
    stains = fractal(rng, shape, exponent=2.5, shortest=2 / pitch, longest=70 / pitch)
    darkness = np.clip(0.30 + 0.42 * late + 0.10 * strands + 0.08 * drift + 0.05 * stains, 0, 1.2)
    gap = np.clip(1 - np.abs(across - seam) / 0.25, 0, 1)
    albedo = (light + (dark - light) * darkness[..., None]) * (1 - 0.45 * pores - 0.85 * gap)[..., None]
    albedo *= (1 + 0.10 * (board - 0.5))[..., None]
    gloss = rng.uniform(0.25, 0.5) - 0.10 * late - 0.15 * pores + 0.03 * strands
    slope = _slope(strands, 0.025) + _slope(pores, 0.03) + _slope(gap, 0.05) + _slope(stains, 0.006)
    return _background(albedo, gloss, 0.0, slope)


def conveyor_belt(rng: np.random.Generator, size: int, pitch: float) -> Background:
    shape = (size, size)
    travel = rng.normal(0, 4)
    along, across = _axes(size, pitch, travel)
    warp = 0.06 * fractal(rng, shape, exponent=2.5, shortest=1 / pitch, longest=25 / pitch)
    period = rng.uniform(1.5, 2.2)
    warps, wefts = (2 * np.pi * (coordinate / period + warp) for coordinate in (along + across, along - across))
    weave = np.cos(warps) * np.cos(wefts)
    grit = fractal(rng, shape, exponent=0.8, shortest=0.25 / pitch, longest=1.5 / pitch)
    scuffs = fractal(rng, shape, exponent=1.2, shortest=0.3 / pitch, longest=30 / pitch, stretch=25, angle=travel)
    wear = fractal(rng, shape, exponent=2.4, shortest=2 / pitch, longest=60 / pitch, stretch=2.5, angle=travel)
    worn = np.clip(0.35 * scuffs + 0.4 * wear + 0.25 * weave - 0.25, 0, 1.5)
    dust = _spots(rng, shape, density=0.08 * pitch**2, radius=0.09 / pitch)
    base = _colour([1.0, 1.0, rng.uniform(1.0, 1.12)]) * rng.uniform(0.028, 0.042)
    albedo = base * (1 + 0.12 * weave + 0.14 * grit + 0.9 * worn)[..., None] + 0.16 * dust[..., None]
    gloss = 0.30 + 0.06 * weave - 0.10 * worn - 0.2 * dust
    slope = _slope(weave, 0.10) + _slope(grit, 0.10) + _slope(scuffs, 0.02)
    return _background(albedo, gloss, 0.0, slope)


def brushed_metal(rng: np.random.Generator, size: int, pitch: float) -> Background:
    shape = (size, size)
    angle = rng.uniform(0, 180)
    fine = fractal(rng, shape, exponent=0.4, shortest=0.2 / pitch, longest=60 / pitch, stretch=60, angle=angle)
    broad = fractal(rng, shape, exponent=1.2, shortest=0.8 / pitch, longest=80 / pitch, stretch=25, angle=angle)
    smears = fractal(rng, shape, exponent=2.6, shortest=1.5 / pitch, longest=50 / pitch)
    scratches = _strokes(rng, size, pitch, count=int(rng.integers(4, 14)), width=(0.06, 0.14), length=(6, 40))
    tint = _colour([1.0, rng.uniform(0.985, 1.0), rng.uniform(0.95, 1.0)]) * rng.uniform(0.52, 0.62)
    albedo = tint * (1 + 0.07 * fine + 0.04 * broad + 0.03 * smears + 0.15 * scratches)[..., None]
    gloss = rng.uniform(0.48, 0.58) + 0.03 * smears - 0.03 * fine + 0.1 * scratches
    slope = _slope(fine, 0.07) + _slope(broad, 0.02) + _slope(smears, 0.006) + _slope(scratches, 0.02)
    return _background(albedo, gloss, 1.0, slope)


def cutting_mat(rng: np.random.Generator, size: int, pitch: float) -> Background:
    shape = (size, size)
    x, y = _axes(size, pitch, rng.normal(0, 5) + 90 * rng.integers(4))
    x, y = x + rng.uniform(0, 10), y + rng.uniform(0, 10)
    pebbles = fractal(rng, shape, exponent=0.3, shortest=0.35 / pitch, longest=0.9 / pitch)
    wear = fractal(rng, shape, exponent=2.2, shortest=0.8 / pitch, longest=40 / pitch)
    printed = np.zeros(shape, np.float32)
    for every, width, strength in ((10.0, 0.34, 1.0), (5.0, 0.20, 0.75)):
        for coordinate in (x, y):
            distance = np.abs((coordinate / every + 0.5) % 1 - 0.5) * every
            printed = np.maximum(printed, strength * np.clip((width / 2 - distance) / pitch + 0.5, 0, 1))
    # Millimetre ticks along every tenth line.
    for one, other in ((x, y), (y, x)):
        tick = np.clip((0.09 - np.abs((one + 0.5) % 1 - 0.5)) / pitch + 0.5, 0, 1)
        printed = np.maximum(printed, 0.7 * tick * (np.abs((other / 50 + 0.5) % 1 - 0.5) * 50 < 0.9))
    printed *= np.clip(0.72 + 0.16 * wear - 0.10 * pebbles, 0.1, 1)
    cuts = _strokes(rng, size, pitch, count=int(rng.integers(5, 18)), width=(0.08, 0.14), length=(8, 60))
    green = _colour([rng.uniform(0.008, 0.02), rng.uniform(0.085, 0.13), rng.uniform(0.045, 0.085)])
    ink = _colour([0.52, 0.60, rng.uniform(0.28, 0.5)])
    albedo = green * (1 + 0.07 * pebbles + 0.06 * wear)[..., None]
    albedo = albedo + (ink - albedo) * printed[..., None]
    albedo = albedo * (1 + 0.5 * cuts)[..., None] + 0.02 * cuts[..., None]
    dust = _spots(rng, shape, density=0.05 * pitch**2, radius=0.08 / pitch)
    albedo = albedo + 0.22 * dust[..., None]
    gloss = 0.34 + 0.03 * wear - 0.08 * printed
    slope = _slope(pebbles, 0.075) + _slope(cuts, 0.03) + _slope(wear, 0.008)
    return _background(albedo, gloss, 0.0, slope)


BACKGROUNDS: dict[str, Callable[[np.random.Generator, int, float], Background]] = {
    "white_paper": white_paper,
    "wood": wood,
    "conveyor_belt": conveyor_belt,
    "brushed_metal": brushed_metal,
    "cutting_mat": cutting_mat,
}

# Early and late wood: beech, oak, walnut, pine.
_WOODS = (
    ((0.52, 0.34, 0.19), (0.27, 0.14, 0.065)),
    ((0.45, 0.30, 0.16), (0.20, 0.11, 0.05)),
    ((0.22, 0.125, 0.065), (0.075, 0.037, 0.018)),
    ((0.62, 0.44, 0.24), (0.38, 0.20, 0.075)),
)


def _colour(rgb: Sequence[float]) -> Float[np.ndarray, "3"]:
    return np.asarray(rgb, np.float32)


def _background(albedo: np.ndarray, gloss: np.ndarray | float, metal: float, slope: np.ndarray) -> Background:
    size = len(albedo)
    return Background(
        np.clip(albedo, 0.003, 0.95).astype(np.float32),
        np.clip(np.broadcast_to(np.float32(gloss), (size, size)), 0.02, 0.95),
        np.full((size, size), metal, np.float32),
        slope,
    )


def _axes(size: int, pitch: float, angle: float) -> tuple[Field, Field]:
    """Coordinates in mm from the middle along `angle` (degrees, counter-clockwise as seen) and across it."""
    steps = ((np.arange(size) - (size - 1) / 2) * pitch).astype(np.float32)
    cosine, sine = np.float32(np.cos(np.deg2rad(angle))), np.float32(np.sin(np.deg2rad(angle)))
    x, y = steps[None, :], steps[:, None]
    return x * cosine - y * sine, x * sine + y * cosine


def _slope(relief: Field, strength: float) -> Float[np.ndarray, "size size 2"]:
    """The gradient of a relief, scaled to a root mean square of `strength`."""
    gradient = np.stack([np.gradient(relief, axis=1), np.gradient(relief, axis=0)], axis=-1)
    return (gradient * (strength / max(float(np.sqrt((gradient**2).mean())), 1e-9))).astype(np.float32)


def _spots(rng: np.random.Generator, shape: tuple[int, int], density: float, radius: float) -> Field:
    """Dust: 0 nearly everywhere, up to 1 in specks of different sizes."""
    field = speckle(rng, shape, density=density, radius=radius)
    return np.clip((field - field.min()) / max(float(np.ptp(field)), 1e-9) * 1.6 - 0.1, 0, 1)


def _fibres(rng: np.random.Generator, shape: tuple[int, int], pitch: float) -> Field:
    """Short streaks in every direction."""
    field = np.zeros(shape, np.float32)
    for angle in (10, 70, 130):
        field += fractal(rng, shape, exponent=0, shortest=0.2 / pitch, longest=1.5 / pitch, stretch=8, angle=angle)
    return field / np.float32(3**0.5)


def _strokes(
    rng: np.random.Generator,
    size: int,
    pitch: float,
    count: int,
    width: tuple[float, float],
    length: tuple[float, float],
) -> Field:
    """Straight hairlines at random places, in random directions and strengths, fading towards their ends."""
    field = np.zeros((size, size), np.float32)
    half = size * pitch / 2
    for _ in range(count):
        along, across = _axes(size, pitch, rng.uniform(0, 180))
        along, across = along - rng.uniform(-half, half), across - rng.uniform(-half, half)
        reach = rng.uniform(*length) / 2
        profile = np.clip((rng.uniform(*width) / 2 - np.abs(across)) / pitch + 0.5, 0, 1)
        field = np.maximum(field, rng.uniform(0.3, 1) * profile * np.clip(1.3 * (1 - (along / reach) ** 2), 0, 1))
    return field
