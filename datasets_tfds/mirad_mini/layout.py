"""Where products lie in the 60 x 60 mm field of view: x to the right, y downwards, (0, 0) the middle."""

from dataclasses import dataclass

import numpy as np

FIELD_MM = 60.0
# Within this circle a product stays in the picture for every pose of the camera.
REACH_MM = 27.5
# Half of the largest product's diagonal extent.
LARGEST_RADIUS_MM = 22.0
# How far from upright a hand lays a product down.
TURN_DEG = 15.0


@dataclass(frozen=True)
class Placement:
    """A product's centre in mm, its turn in degrees counter-clockwise as seen, and its size relative to the design."""

    x_mm: float
    y_mm: float
    angle_deg: float
    scale: float = 1.0


def lay_out(rng: np.random.Generator, count: int) -> list[Placement]:
    """Places `count` products at random without overlap; several are scaled to 0.5-0.7 so that they fit.

    Raises:
      ValueError: for fewer than 1 or more than 4 products.
    """
    if not 1 <= count <= 4:
        raise ValueError(f"count is {count}; the field holds 1 to 4 products")
    if count == 1:
        scale = float(rng.uniform(0.94, 1.0))
        way, direction = (REACH_MM - LARGEST_RADIUS_MM) * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
        return [_placement(rng, way * np.cos(direction), way * np.sin(direction), scale)]
    scale = float(rng.uniform(*_SCALES[count]))
    while True:
        for _ in range(50):
            centres = _scatter(rng, count, scale * LARGEST_RADIUS_MM)
            if centres is not None:
                return [_placement(rng, x, y, scale) for x, y in centres]
        scale = max(0.97 * scale, _SCALES[count][0] * 0.9)


# Discs of these sizes fit into the reach with room to spare; the smallest still leaves products half as large as alone.
_SCALES = {2: (0.56, 0.60), 3: (0.50, 0.55), 4: (0.45, 0.48)}


def _scatter(rng: np.random.Generator, count: int, radius: float) -> list[tuple[float, float]] | None:
    """Centres of discs without overlap, each drawn until it fits; None if one finds no place."""
    centres: list[tuple[float, float]] = []
    for _ in range(count):
        for _ in range(60):
            way, direction = (REACH_MM - radius) * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            x, y = way * np.cos(direction), way * np.sin(direction)
            if all(np.hypot(x - a, y - b) >= 2 * radius for a, b in centres):
                centres.append((x, y))
                break
        else:
            return None
    return centres


def _placement(rng: np.random.Generator, x: float, y: float, scale: float) -> Placement:
    return Placement(float(x), float(y), float(rng.uniform(-TURN_DEG, TURN_DEG)), scale)
