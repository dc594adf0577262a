"""What a design is, how its parts may be altered, and what a family of designs provides."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from datasets_tfds.mirad_mini.surface import Grid, Surface


@dataclass(frozen=True)
class Design:
    """One customer's product, individual in every field.

    Attributes:
      family: name of the family.
      colour, partner: names in the palette; the symbol has the partner colour, which follows from that behind it.
      shape, pattern: names within the family.
      symbol: what is printed, embossed or engraved; "" if nothing is.
      size_mm: largest extent of the body, without a ring.
      extent_mm: side of the square that holds the whole product.
      thickness_mm: of the body.
      numbers: further measures, by name.
      choices: further choices, by name.
      seed: for the harmless variation: tolerances, texture, dust.
    """

    family: str
    colour: str
    partner: str
    shape: str
    pattern: str
    symbol: str
    size_mm: float
    extent_mm: float
    thickness_mm: float
    numbers: Mapping[str, float] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def attributes(self) -> dict[str, str | float]:
        """What is individual about the product, for the labels of an image."""
        return {
            "colour": self.colour,
            "partner": self.partner,
            "shape": self.shape,
            "pattern": self.pattern,
            "symbol": self.symbol,
            "size_mm": round(self.size_mm, 2),
        }

    def stream(self, purpose: int) -> np.random.Generator:
        """Random numbers for one purpose, independent of those for the others."""
        return np.random.default_rng((self.seed, purpose))


@dataclass(frozen=True)
class Change:
    """A part that is not as designed.

    Attributes:
      part: its name within the family, for instance "stud 3".
      action: "missing", "moved", "mirrored", "turned" (upside down), "recoloured" or "replaced".
      x, y, angle: how far the part is "moved", in mm and degrees.
      value: the name of the colour if "recoloured", the other symbol if "replaced".
    """

    part: str
    action: str
    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0
    value: str = ""


class Changes:
    """The changes of a product by part; a family asks about each part while it builds the product."""

    def __init__(self, changes: tuple[Change, ...] = ()):
        self._changes = changes

    def _of(self, part: str, action: str) -> Change | None:
        return next((c for c in self._changes if c.part == part and c.action == action), None)

    def parts(self) -> set[str]:
        return {change.part for change in self._changes}

    def missing(self, part: str) -> bool:
        return self._of(part, "missing") is not None

    def mirrored(self, part: str) -> bool:
        return self._of(part, "mirrored") is not None

    def moved(self, part: str) -> bool:
        return self._of(part, "moved") is not None

    def placed(self, part: str, x: float, y: float, angle: float = 0.0) -> tuple[float, float, float]:
        """Where a part that belongs at (x, y, angle) is."""
        if change := self._of(part, "moved"):
            x, y, angle = x + change.x, y + change.y, angle + change.angle
        return x, y, angle + (180 if self._of(part, "turned") else 0)

    def colour(self, part: str, designed: str) -> str:
        change = self._of(part, "recoloured")
        return change.value if change else designed

    def symbol(self, part: str, designed: str) -> str:
        change = self._of(part, "replaced")
        return change.value if change else designed


Footprints = dict[str, Bool[np.ndarray, "size size"]]


@dataclass(frozen=True)
class Family:
    """A family of designs.

    Attributes:
      draw: draws a new design.
      relief: the surface of a design with changed parts, and where each part that can be changed lies.
      faults: the changes that make a logical defect, by kind of defect; x and angle of a "moved" part are the smallest
        displacement that is seen as a defect, in any direction.
    """

    draw: Callable[[np.random.Generator], Design]
    relief: Callable[[Design, Grid, Changes], tuple[Surface, Footprints]]
    faults: Callable[[Design], Mapping[str, tuple[Change, ...]]]


def pick(rng: np.random.Generator, options) -> str:
    return str(options[int(rng.integers(len(options)))])


def extent_of(half_width: float, half_height: float) -> float:
    """Side of the square grid of a product, with 1.5 mm of table around it."""
    return 2 * (max(half_width, half_height) + 1.5)


def turned(x: float, y: float, angle_deg: float) -> tuple[float, float]:
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return c * x - s * y, s * x + c * y
