"""The relief of a product on a square grid, and the geometry it is put together from.

Shapes are signed distances in millimetres (negative inside), so that anti-aliased outlines, bevels and grooves of a
shape all come from the same array. A product is built layer by layer: plate, rim, print, ring.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from jaxad.imaging.noise import lattice

Distance = Float[np.ndarray, "rows columns"]
Points = Sequence[tuple[float, float]]

FAR_MM = 3.0  # a windowed shape's distance outside its window: more than any bevel or groove reaches


@dataclass(frozen=True)
class Surface:
    """The relief of one product on a square grid, its centre in the grid's middle, x to the right, row 0 on top.

    Attributes:
      height: mm above the table; 0 where there is nothing.
      cover: 0 outside, 1 on the product, anti-aliased between.
      albedo: linear RGB reflectance in 0..1.
      gloss: 0 matt to 1 highly polished.
      metal: 0 plastic, wood, print; 1 metal, whose highlights take the albedo's colour.
      defect: where the product does not look as a perfect one would; also beside it, if a part is missing.
      pitch: mm between samples.
    """

    height: Float[np.ndarray, "size size"]
    cover: Float[np.ndarray, "size size"]
    albedo: Float[np.ndarray, "size size 3"]
    gloss: Float[np.ndarray, "size size"]
    metal: Float[np.ndarray, "size size"]
    defect: Bool[np.ndarray, "size size"]
    pitch: float


@dataclass(frozen=True)
class Grid:
    """Coordinates in mm from the middle: x to the right (a row vector), y upwards (a column vector)."""

    x: Float[np.ndarray, "1 size"]
    y: Float[np.ndarray, "size 1"]
    pitch: float
    extent: float  # mm across, whatever the pitch

    @property
    def size(self) -> int:
        return self.x.shape[1]

    def window(self, centre: tuple[float, float], reach: float) -> tuple["Grid", tuple[slice, slice]]:
        """The part of the grid within `reach` mm of `centre` in x and in y, and where it lies."""
        first, last = float(self.x[0, 0]), float(self.y[0, 0])
        columns = self._slice((centre[0] - reach - first) / self.pitch, (centre[0] + reach - first) / self.pitch)
        rows = self._slice((last - centre[1] - reach) / self.pitch, (last - centre[1] + reach) / self.pitch)
        return Grid(self.x[:, columns], self.y[rows], self.pitch, self.extent), (rows, columns)

    def _slice(self, first: float, last: float) -> slice:
        start = min(max(math.floor(first), 0), self.size)
        return slice(start, max(start, min(math.ceil(last) + 1, self.size)))


def grid(extent_mm: float, pitch: float) -> Grid:
    """A grid of at least `extent_mm` across, symmetric about its middle."""
    size = 2 * math.ceil(extent_mm / pitch / 2)
    steps = ((np.arange(size) - (size - 1) / 2) * pitch).astype(np.float32)
    return Grid(steps[None, :], steps[::-1, None].copy(), pitch, extent_mm)


def local(g: Grid, centre: tuple[float, float], angle_deg: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the grid in a frame at `centre`, turned counter-clockwise by `angle_deg`."""
    x, y = g.x - np.float32(centre[0]), g.y - np.float32(centre[1])
    if angle_deg == 0:
        return x, y
    c, s = np.float32(math.cos(math.radians(angle_deg))), np.float32(math.sin(math.radians(angle_deg)))
    return c * x + s * y, c * y - s * x


def windowed(
    g: Grid, centre: tuple[float, float], reach: float, shape: Callable[[Grid], np.ndarray], far: float = FAR_MM
) -> Distance:
    """The signed distance `shape(window)` near `centre`, `far` elsewhere; a small shape costs only what it covers."""
    window, where = g.window(centre, reach + far)
    distance = np.full((g.size, g.size), far, np.float32)
    distance[where] = np.minimum(shape(window), far)
    return distance


# Signed distances to simple shapes, on coordinates (x, y) that broadcast.


def circle(x, y, radius: float) -> np.ndarray:
    return np.hypot(x, y) - np.float32(radius)


def ellipse(x, y, radius_x: float, radius_y: float) -> np.ndarray:
    """Distance to an ellipse to first order, which is accurate enough near its outline."""
    k0 = np.hypot(x / np.float32(radius_x), y / np.float32(radius_y))
    k1 = np.hypot(x / np.float32(radius_x**2), y / np.float32(radius_y**2))
    return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-4))


def rounded_box(x, y, half_x: float, half_y: float, radius: float) -> np.ndarray:
    over_x, over_y = np.abs(x) - np.float32(half_x - radius), np.abs(y) - np.float32(half_y - radius)
    outside = np.hypot(np.maximum(over_x, 0), np.maximum(over_y, 0))
    return outside + np.minimum(np.maximum(over_x, over_y), 0) - np.float32(radius)


def segment(x, y, start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Distance (not signed) to a line from `start` to `end`: subtract half the width of a stroke."""
    (ax, ay), (bx, by) = start, end
    dx, dy = bx - ax, by - ay
    squared = max(dx * dx + dy * dy, 1e-9)
    px, py = x - np.float32(ax), y - np.float32(ay)
    along = np.clip(px * np.float32(dx / squared) + py * np.float32(dy / squared), 0, 1)
    return np.hypot(px - along * np.float32(dx), py - along * np.float32(dy))


def tapered(x, y, start: tuple[float, float], end: tuple[float, float], first: float, last: float) -> np.ndarray:
    """A rounded stroke whose half width runs from `first` at `start` to `last` at `end`."""
    (ax, ay), (bx, by) = start, end
    dx, dy = bx - ax, by - ay
    squared = max(dx * dx + dy * dy, 1e-9)
    px, py = x - np.float32(ax), y - np.float32(ay)
    along = np.clip(px * np.float32(dx / squared) + py * np.float32(dy / squared), 0, 1)
    return np.hypot(px - along * np.float32(dx), py - along * np.float32(dy)) - (
        np.float32(first) + along * np.float32(last - first)
    )


def polyline(x, y, points: Points, closed: bool = False) -> np.ndarray:
    """Distance (not signed) to a chain of segments."""
    ends = [*points[1:], points[0]] if closed else points[1:]
    distances = [segment(x, y, start, end) for start, end in zip(points, ends, strict=False)]
    return union(*distances)


def polygon(x, y, points: Points, radius: float = 0.0) -> np.ndarray:
    """Distance to a simple polygon, its corners rounded outwards by `radius`."""
    inside = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), bool)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        if ay != by:
            crossing = (y < ay) != (y < by)
            inside ^= crossing & (x < (bx - ax) * (y - np.float32(ay)) / np.float32(by - ay) + np.float32(ax))
    edge = polyline(x, y, points, closed=True)
    return np.where(inside, -edge, edge) - np.float32(radius)


def regular(sides: int, radius: float, turn_deg: float = 0.0) -> list[tuple[float, float]]:
    """Corners of a regular polygon, the first straight up when `turn_deg` is 0."""
    angles = [math.radians(90 + turn_deg + 360 * k / sides) for k in range(sides)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def union(*distances: np.ndarray, smooth: float = 0.0) -> np.ndarray:
    """The union of shapes; with `smooth` mm the inner corners are filled, as by a fillet."""
    joined = distances[0]
    for distance in distances[1:]:
        if smooth > 0:
            blend = np.maximum(np.float32(smooth) - np.abs(joined - distance), 0) / np.float32(smooth)
            joined = np.minimum(joined, distance) - blend * blend * np.float32(smooth / 4)
        else:
            joined = np.minimum(joined, distance)
    return joined


def difference(shape: np.ndarray, *cut: np.ndarray) -> np.ndarray:
    for distance in cut:
        shape = np.maximum(shape, -distance)
    return shape


# From distances to relief.


def covered(distance: Distance, pitch: float) -> Float[np.ndarray, "rows columns"]:
    """How much of each sample a shape covers, 0..1."""
    return np.clip(np.float32(0.5) - distance / np.float32(pitch), 0, 1)


def bevelled(distance: Distance, height: float, radius: float) -> Float[np.ndarray, "rows columns"]:
    """Height in mm of a slab whose upper edge is rounded with `radius`; outside it, the height of the edge's foot."""
    short = np.clip(1 + distance / np.float32(radius), 0, 1)
    return np.float32(height - radius) + np.float32(radius) * np.sqrt(np.maximum(1 - short * short, 0))


def domed(distance: Distance, half_width: float) -> Float[np.ndarray, "rows columns"]:
    """Height in mm of a round tube or bead, `half_width` at its middle line; `distance` is that to its outline."""
    across = np.clip(1 + distance / np.float32(half_width), 0, 1)
    return np.float32(half_width) * np.sqrt(np.maximum(1 - across * across, 0))


@dataclass(frozen=True)
class Material:
    """What a layer is made of: linear RGB, gloss and metal as in Surface; texture is added separately."""

    colour: tuple[float, float, float]
    gloss: float = 0.4
    metal: float = 0.0


def empty(g: Grid) -> Surface:
    flat = np.zeros((g.size, g.size), np.float32)
    return Surface(flat, flat, np.zeros((g.size, g.size, 3), np.float32), flat, flat, flat.astype(bool), g.pitch)


def lay(surface: Surface, cover: np.ndarray, material: Material, height: np.ndarray | None = None) -> Surface:
    """Lays a material over a surface where `cover` says so.

    Args:
      cover: 0..1, how much of each sample the layer hides.
      height: of the layer's top in mm above the table; None for a print, which follows what is below.
    """
    keep = 1 - cover
    colour = np.asarray(material.colour, np.float32)
    return replace(
        surface,
        height=surface.height if height is None else surface.height * keep + height * cover,
        cover=np.maximum(surface.cover, cover) if height is not None else surface.cover,
        albedo=surface.albedo * keep[..., None] + colour * cover[..., None],
        gloss=surface.gloss * keep + np.float32(material.gloss) * cover,
        metal=surface.metal * keep + np.float32(material.metal) * cover,
    )


def cut(surface: Surface, opening: np.ndarray) -> Surface:
    """Removes the product, down to the table, where `opening` (0..1) says so."""
    keep = 1 - opening
    return replace(surface, height=surface.height * keep, cover=surface.cover * keep)


def smooth_noise(g: Grid, rng: np.random.Generator, scale_mm: float | tuple[float, float]) -> np.ndarray:
    """Smooth random field of unit variance with features of `scale_mm` (along x and y); the same at every pitch."""
    scale_x, scale_y = scale_mm if isinstance(scale_mm, tuple) else (scale_mm, scale_mm)
    return lattice(rng, (g.size, g.size), (max(round(g.extent / scale_y), 1), max(round(g.extent / scale_x), 1)))
