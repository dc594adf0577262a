"""Families of individualised products, from a drawn design to the surface of the product with its defects.

The families resemble those of MIRAD (arXiv:2510.16370); shapes and designs are the project's own.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from datasets_tfds.mirad_mini.damage import Defect, closed, damaged, differing
from datasets_tfds.mirad_mini.design import Changes, Design, Family, Footprints
from datasets_tfds.mirad_mini.products import brick, button, number_tile, pendant, snowflake
from datasets_tfds.mirad_mini.products.finish import dusted, mottled
from datasets_tfds.mirad_mini.surface import Grid, Surface, grid
from jaxad.errors import UserError

FAMILIES = {
    "brick": Family(brick.draw, brick.relief, brick.faults),
    "number_tile": Family(number_tile.draw, number_tile.relief, number_tile.faults),
    "snowflake": Family(snowflake.draw, snowflake.relief, snowflake.faults),
    "pendant": Family(pendant.draw, pendant.relief, pendant.faults),
    "button": Family(button.draw, button.relief, button.faults),
}


def draw_design(family: str, rng: np.random.Generator) -> Design:
    """A new individual design of a family.

    Raises:
      UserError: there is no such family.
    """
    if family not in FAMILIES:
        raise UserError(f"there is no product family {family!r}; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[family].draw(rng)


def build(design: Design, defects: Sequence[Defect] = (), pitch: float = 0.1) -> Surface:
    """The surface of a product, its defects marked where it differs from the perfect one of the same design.

    Pure: the same design and defects give the same surface; `pitch`, mm between samples, changes the sampling only.
    """
    g = grid(design.extent_mm, pitch)
    perfect, footprints = _finished(design, g, ())
    if not defects:
        return perfect
    changes = tuple(defect.change for defect in defects if defect.change is not None)
    surface, mask = perfect, np.zeros((g.size, g.size), bool)
    if changes:
        surface, moved = _finished(design, g, changes)
        for part in {change.part for change in changes}:
            for places in (footprints, moved):
                mask |= places.get(part, mask) & ~_hidden(places, part)
    for defect in defects:
        if defect.change is None:
            surface = damaged(surface, g, defect)
    mask |= closed(differing(perfect, surface))
    return replace(surface, defect=mask)


def _hidden(footprints: Footprints, part: str) -> np.ndarray:
    """Where the ring lies over a part."""
    ring = footprints.get("ring")
    return ring if ring is not None and part != "ring" else np.zeros_like(footprints.get(part, np.zeros(1)), bool)


def _finished(design: Design, g: Grid, changes: tuple) -> tuple[Surface, Footprints]:
    surface, footprints = FAMILIES[design.family].relief(design, g, Changes(changes))
    surface = mottled(surface, g, design.stream(1))
    surface = dusted(surface, g, design.stream(2), design.size_mm / 2)
    return surface, footprints


__all__ = ["FAMILIES", "Defect", "Design", "build", "draw_design"]
