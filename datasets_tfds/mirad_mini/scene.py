"""Products on a table: one height field with the materials of both, and how each point of it sees the light.

The table's grid is square, x to the right, y downwards, z towards the camera, its middle at (0, 0); sample i lies at
(i + 0.5) * PITCH - EXTENT / 2. It reaches beyond the 60 mm field of view for the sake of tilted cameras.
"""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from datasets_tfds.mirad_mini.backgrounds import BACKGROUNDS
from datasets_tfds.mirad_mini.layout import Placement
from datasets_tfds.mirad_mini.surface import Surface
from jaxad.imaging.noise import fractal

EXTENT = 88.0  # mm
PITCH = 0.1  # mm
SIZE = 880
COARSE = 2  # the light's grid is this much coarser
WIDE = 4  # and the grid of wide occlusion this much
TABLES = 2  # for each kind of background: a production site has its own table, photographed again and again


@dataclass(frozen=True)
class Scene:
    """A table with products, on the table's grid.

    Attributes:
      height: mm above the table.
      product: albedo (3), gloss, metal, slope along x and y, cover.
      table: albedo (3), gloss, metal, slope along x and y.
      defect: where a product is not as it should be, or a part of it is missing.
    """

    height: Float[np.ndarray, "size size"]
    product: Float[np.ndarray, "size size 8"]
    table: Float[np.ndarray, "size size 7"]
    defect: Bool[np.ndarray, "size size"]


def compose(surfaces: Sequence[Surface], placements: Sequence[Placement], background: str, seed: int) -> Scene:
    """Lays products on a background; `seed` decides which table of that kind, how it lies, and the fine texture."""
    rng = np.random.default_rng(seed)
    table = _table(background, int(rng.integers(TABLES)))
    rows, columns = (slice(None, None, 1 - 2 * int(turn)) for turn in rng.integers(2, size=2))
    height = np.zeros((SIZE, SIZE), np.float32)
    material = np.zeros((SIZE, SIZE, 6), np.float32)
    defect = np.zeros((SIZE, SIZE), bool)
    for surface, placement in zip(surfaces, placements, strict=True):
        _place(surface, placement, height, material, defect)
    product = np.concatenate([material[..., :5], _slopes(height), material[..., 5:]], axis=-1)
    _texture(rng, product)
    return Scene(height, product, _flipped(table, rows, columns), defect)


@functools.cache
def _table(background: str, number: int) -> Float[np.ndarray, "size size 7"]:
    """One of the tables of that kind: albedo (3), gloss, metal, slope along x and y."""
    drawn = BACKGROUNDS[background](np.random.default_rng([zlib.crc32(background.encode()), number]), SIZE, PITCH)
    fields = [drawn.albedo, drawn.gloss[..., None], drawn.metal[..., None], drawn.slope]
    return np.concatenate(fields, axis=-1, dtype=np.float32)


def _flipped(table: Float[np.ndarray, "size size 7"], rows: slice, columns: slice) -> Float[np.ndarray, "size size 7"]:
    """The table with its rows or columns reversed, and its slopes with them."""
    flipped = table[rows, columns].copy()
    flipped[..., 5] *= columns.step
    flipped[..., 6] *= rows.step
    return flipped


def _place(surface: Surface, placement: Placement, height: np.ndarray, material: np.ndarray, defect: np.ndarray):
    """Samples one surface onto the grid, turned, shifted and scaled."""
    size, pitch, scale = len(surface.height), surface.pitch, placement.scale
    layers = _layers(surface, sharpest=PITCH / (scale * pitch))
    angle = np.deg2rad(placement.angle_deg)
    cosine, sine = np.cos(angle) / (scale * pitch), np.sin(angle) / (scale * pitch)
    radius = size * pitch * scale / 2 * (abs(np.cos(angle)) + abs(np.sin(angle)))
    rows, columns = (
        slice(max(int((centre - radius + EXTENT / 2) / PITCH), 0), int((centre + radius + EXTENT / 2) / PITCH) + 1)
        for centre in (placement.y_mm, placement.x_mm)
    )
    y, x = (
        ((np.arange(SIZE)[part] + 0.5) * PITCH - EXTENT / 2 - centre).astype(np.float32)
        for part, centre in ((rows, placement.y_mm), (columns, placement.x_mm))
    )
    y, x = y[:, None], x[None, :]
    column = (x * cosine - y * sine + (size - 1) / 2).astype(np.float32)
    row = (x * sine + y * cosine + (size - 1) / 2).astype(np.float32)
    inside = (row >= 0) & (row < size - 1) & (column >= 0) & (column < size - 1)
    row, column = row[inside], column[inside]
    values = _bilinear(layers, row, column)
    nearest = np.rint(row).astype(np.int32) * size + np.rint(column).astype(np.int32)

    here = np.flatnonzero(inside)
    here = (here // x.size + rows.start) * SIZE + here % x.size + columns.start
    raised = values[:, 0] * np.float32(scale)
    flat_material, flat_height, flat_defect = material.reshape(-1, 6), height.reshape(-1), defect.reshape(-1)
    # Near an outline both products that meet there have filled-in colours; the one that covers more wins.
    wins = values[:, 6] >= flat_material[here, 5]
    flat_material[here[wins]] = values[wins, 1:]
    flat_height[here] = np.maximum(flat_height[here], raised)
    flat_defect[here] |= surface.defect.reshape(-1)[nearest]


def _layers(surface: Surface, sharpest: float) -> Float[np.ndarray, "size size 7"]:
    """Height, albedo (3), gloss, metal and cover, the materials continued beyond the outline for the side walls.

    `sharpest` is how many of the surface's samples one sample of the table's grid spans.
    """
    solid = surface.cover > 0.97
    weight = ndimage.uniform_filter(solid.astype(np.float32), 7)
    grown = (weight > 1e-3) & ~solid
    layers = [surface.height]
    for channel in (*np.moveaxis(surface.albedo, -1, 0), surface.gloss, surface.metal):
        spread = ndimage.uniform_filter(channel * solid, 7)
        layers.append(np.where(grown, spread / np.maximum(weight, 1e-3), channel))
    layers.append(surface.cover)
    if sharpest > 1.15:
        sigma = 0.45 * np.sqrt(sharpest**2 - 1)
        layers = [ndimage.gaussian_filter(layer, sigma, truncate=3) for layer in layers]
    return np.stack(layers, axis=-1).astype(np.float32, copy=False)


def _bilinear(layers: Float[np.ndarray, "size size c"], row: np.ndarray, column: np.ndarray) -> np.ndarray:
    size = len(layers)
    flat = layers.reshape(size * size, -1)
    top, left = row.astype(np.int32), column.astype(np.int32)
    down, right = (row - top)[:, None], (column - left)[:, None]
    first = top * size + left
    upper = flat[first] * (1 - right) + flat[first + 1] * right
    lower = flat[first + size] * (1 - right) + flat[first + size + 1] * right
    return upper * (1 - down) + lower * down


def _slopes(height: Float[np.ndarray, "size size"]) -> Float[np.ndarray, "size size 2"]:
    slopes = np.zeros((*height.shape, 2), np.float32)
    slopes[:, 1:-1, 0] = (height[:, 2:] - height[:, :-2]) / (2 * PITCH)
    slopes[1:-1, :, 1] = (height[2:] - height[:-2]) / (2 * PITCH)
    return slopes


def _texture(rng: np.random.Generator, product: Float[np.ndarray, "size size 8"]) -> None:
    """Grain, waviness and handling marks that no real surface is without; all faint."""
    # Fields with a period of half the table's side: no product is large enough to show the repetition.
    half = (SIZE // 2, SIZE // 2)
    grain = np.tile(fractal(rng, half, exponent=0.6, shortest=0.25 / PITCH, longest=2.5 / PITCH), (2, 2))
    waves = np.tile(fractal(rng, half, exponent=3.0, shortest=2 / PITCH, longest=14 / PITCH), (2, 2))
    handled = np.tile(fractal(rng, half, exponent=2.2, shortest=0.8 / PITCH, longest=25 / PITCH), (2, 2))
    matt = 1 - product[..., 3]
    # The same two fields, transposed, serve as the slopes along the other axis.
    product[..., 5] += (0.05 * matt + 0.008) * grain + 0.010 * waves
    product[..., 6] += (0.05 * matt + 0.008) * grain.T + 0.010 * waves.T
    product[..., :3] *= (1 + 0.018 * handled + 0.012 * grain)[..., None]
    product[..., 3] = np.clip(product[..., 3] - 0.035 * np.abs(handled) - 0.01 * grain, 0.01, 0.98)


def shadow_heights(
    height: Float[np.ndarray, "n n"], pitch: float, azimuth: float, elevation: float
) -> Float[np.ndarray, "n n"]:
    """The height above the table (mm) up to which each point is in the shadow of what stands towards the light.

    Marches towards a light at `azimuth` and `elevation` (degrees) by maxima over stretches that double in length, so
    the number of steps is the logarithm of the number of samples on the way.
    """
    step_x, step_y = np.cos(np.deg2rad(azimuth)), -np.sin(np.deg2rad(azimuth))
    longest = max(abs(step_x), abs(step_y))
    step_x, step_y = step_x / longest, step_y / longest
    drop = pitch / longest * np.tan(np.deg2rad(elevation))
    top = float(height.max())
    shadow = _shifted(height, step_x, step_y) - np.float32(drop)
    way = 1
    while way * drop < top and way < len(height):
        shadow = np.maximum(shadow, _shifted(shadow, way * step_x, way * step_y) - np.float32(way * drop))
        way *= 2
    return np.maximum(shadow, 0)


def _shifted(field: Float[np.ndarray, "n n"], x: float, y: float) -> Float[np.ndarray, "n n"]:
    """field[row + y, column + x], interpolated along the axis where the shift is fractional; 0 outside the field."""
    if abs(x - round(x)) > 1e-6:
        whole = int(np.floor(x))
        part = np.float32(x - whole)
        return _moved(field, whole, round(y)) * (1 - part) + _moved(field, whole + 1, round(y)) * part
    whole = int(np.floor(y))
    part = np.float32(y - whole)
    if part < 1e-6:
        return _moved(field, round(x), whole)
    return _moved(field, round(x), whole) * (1 - part) + _moved(field, round(x), whole + 1) * part


def _moved(field: Float[np.ndarray, "n n"], x: int, y: int) -> Float[np.ndarray, "n n"]:
    n = len(field)
    moved = np.zeros_like(field)
    if abs(x) < n and abs(y) < n:
        moved[max(-y, 0) : n - max(y, 0), max(-x, 0) : n - max(x, 0)] = field[
            max(y, 0) : n - max(-y, 0), max(x, 0) : n - max(-x, 0)
        ]
    return moved


def reduced(field: Float[np.ndarray, "size size *c"], factor: int) -> Float[np.ndarray, "small small *c"]:
    """Means of blocks of `factor` x `factor` samples."""
    small = len(field) // factor
    return field.reshape(small, factor, small, factor, *field.shape[2:]).mean((1, 3), dtype=np.float32)
