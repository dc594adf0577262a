"""Building bricks: studs on a plate of glossy plastic, and a tile with a symbol.

Rule: the tile lies in the design's place; its symbol is one of the bricks' pictograms or letters, stands upright when
the tile is below or to the right, and has the partner colour of the tile.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from datasets_tfds.mirad_mini.design import Change, Changes, Design, Footprints, extent_of, pick
from datasets_tfds.mirad_mini.glyphs import marked, marks
from datasets_tfds.mirad_mini.products.finish import PARTNERS, PLASTICS, gated, linear, others, tinted
from datasets_tfds.mirad_mini.surface import (
    Distance,
    Grid,
    Material,
    Surface,
    bevelled,
    circle,
    covered,
    empty,
    lay,
    local,
    rounded_box,
    union,
    windowed,
)

SYMBOLS = ("heart", "star", "bolt", "moon", "house", "tree", "fish", "arrow", "flag", "note", "key",
           "A", "B", "E", "F", "G", "J", "K", "L", "P", "R")  # fmt: skip
PATTERNS = ("plain", "two_tone", "studs", "chequered")

# Columns and rows of studs; then the tile: first column and row (from the top), columns, rows.
SHAPES = {
    "4x2": ((4, 2), (2, 0, 2, 2)),
    "3x3": ((3, 3), (1, 1, 2, 2)),
    "4x3": ((4, 3), (1, 1, 2, 2)),
    "4x4": ((4, 4), (1, 2, 2, 2)),
    "5x3": ((5, 3), (1, 1, 3, 2)),
    "5x2": ((5, 2), (2, 0, 3, 2)),
}


def draw(rng: np.random.Generator) -> Design:
    shape, colour = pick(rng, list(SHAPES)), pick(rng, PLASTICS)
    (columns, rows), _ = SHAPES[shape]
    # 28 to 37 mm wide, and never beyond a circle 44 mm across.
    size = min(float(rng.uniform(28, 37)), 43 * columns / math.hypot(columns, rows))
    unit = size / columns
    second = pick(rng, [c for c in PLASTICS if c != colour])
    return Design(
        family="brick",
        colour=colour,
        partner=PARTNERS[second],
        shape=shape,
        pattern=pick(rng, PATTERNS),
        symbol=pick(rng, SYMBOLS),
        size_mm=size,
        extent_mm=extent_of(size / 2, unit * rows / 2),
        thickness_mm=float(rng.uniform(3.2, 6.5)),
        numbers={"unit": unit, "stud": float(rng.uniform(0.29, 0.33)) * unit, "gloss": float(rng.uniform(0.6, 0.85))},
        choices={"second": second, "symbol": pick(rng, ("printed", "printed", "embossed")),
                 "logo": pick(rng, ("ring", "dot", "none"))},
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _centres(design: Design) -> list[tuple[str, float, float, int]]:
    """Name, place and parity of every stud that the tile does not cover."""
    (columns, rows), (left, top, wide, high) = SHAPES[design.shape]
    unit = design.numbers["unit"]
    return [
        (f"stud {row * columns + column}", (column - (columns - 1) / 2) * unit, ((rows - 1) / 2 - row) * unit,
         (row + column) % 2)
        for row in range(rows)
        for column in range(columns)
        if not (left <= column < left + wide and top <= row < top + high)
    ]  # fmt: skip


def _tile(design: Design) -> tuple[tuple[float, float], float, float]:
    """Centre, half width and half height of the tile in mm."""
    (columns, rows), (left, top, wide, high) = SHAPES[design.shape]
    unit = design.numbers["unit"]
    centre = ((left + wide / 2 - columns / 2) * unit, (rows / 2 - top - high / 2) * unit)
    return centre, wide * unit / 2, high * unit / 2


def relief(design: Design, g: Grid, changes: Changes) -> tuple[Surface, Footprints]:
    rng = design.stream(0)
    (columns, rows), _ = SHAPES[design.shape]
    unit, thickness, gloss = design.numbers["unit"], design.thickness_mm, design.numbers["gloss"]
    plain = Material(tinted(design.colour, rng), gloss)
    second = Material(tinted(design.choices["second"], rng), gloss)
    ink = Material(tinted(changes.colour("symbol", design.partner), rng, 0.03), gloss * 0.8)

    outline = rounded_box(g.x, g.y, columns * unit / 2, rows * unit / 2, 0.5)
    surface = lay(empty(g), covered(outline, g.pitch), plain, bevelled(outline, thickness, 0.45))
    if design.pattern == "two_tone":
        # Two mouldings pressed together: a seam along half the length.
        seam = np.float32((columns // 2 - columns / 2) * unit)
        surface = lay(surface, covered(seam - g.x, g.pitch) * surface.cover, second)
        groove = covered(np.abs(g.x - seam) - np.float32(0.12), g.pitch) * surface.cover
        surface = lay(surface, groove, Material(plain.colour, gloss * 0.5), surface.height - np.float32(0.25))
    reach = rng.uniform(-0.3, 0.3, 2) * unit
    surface = gated(surface, g, (float(reach[0]), float(reach[1])))

    footprints: Footprints = {}
    surface, footprints = _studs(design, g, changes, surface, plain, second)
    centre, half_x, half_y = _tile(design)
    tile = rounded_box(*local(g, centre), half_x - 0.12, half_y - 0.12, 0.4)
    footprints["tile"] = tile < 0
    if not changes.missing("tile"):
        surface = _tiled(surface, g, tile, thickness, second)

    # A print is never exactly in its place.
    off = rng.uniform(-0.25, 0.25, 2)
    x, y, angle = changes.placed("symbol", centre[0] + off[0], centre[1] + off[1], rng.uniform(-2, 2))
    small = 1.5 * min(half_x, half_y)
    line = marks(changes.symbol("symbol", design.symbol), (x, y), small, 1.6 * half_x, angle)
    line = [dataclasses.replace(mark, mirrored=changes.mirrored("symbol")) for mark in line]
    if not (changes.missing("symbol") or changes.missing("tile")):
        shape = np.maximum(marked(g, line, weight=0.16), tile)
        footprints["symbol"] = shape < 0
        if design.choices["symbol"] == "embossed":
            surface = lay(surface, covered(shape, g.pitch), ink, surface.height + bevelled(shape, 0.55, 0.25))
        else:
            worn = ink if rng.random() < 0.7 else Material(ink.colour, gloss * 0.5)
            surface = lay(surface, covered(shape, g.pitch) * 0.97, worn)
    return surface, footprints


def _tiled(surface: Surface, g: Grid, outline: Distance, thickness: float, material: Material) -> Surface:
    gap = covered(outline - np.float32(0.25), g.pitch) * surface.cover
    surface = lay(surface, gap, Material((0.02, 0.02, 0.02), 0.1), surface.height - np.float32(0.3))
    return lay(surface, covered(outline, g.pitch), material, bevelled(outline, thickness + 1.6, 0.3))


def _studs(
    design: Design, g: Grid, changes: Changes, surface: Surface, plain: Material, second: Material
) -> tuple[Surface, Footprints]:
    """All studs, colour by colour; the logo on top of each is a relief, too."""
    radius, rise = design.numbers["stud"], 0.22 * design.numbers["unit"]
    footprints: Footprints = {}
    coloured: dict[str, list[np.ndarray]] = {}
    for name, at_x, at_y, parity in _centres(design):
        if changes.missing(name):
            continue
        x, y, _ = changes.placed(name, at_x, at_y)
        stud = windowed(g, (x, y), radius, lambda w, x=x, y=y: circle(*local(w, (x, y)), radius), 1.0)
        footprints[name] = stud < 0
        base = "second" if design.pattern == "studs" or (design.pattern == "chequered" and parity) else "plain"
        if design.pattern == "two_tone":
            base = _side(design, at_x)
        coloured.setdefault(changes.colour(name, base), []).append(stud)
    for name, studs in coloured.items():
        material = {"plain": plain, "second": second}.get(name) or Material(linear(name), plain.gloss)
        joined = union(*studs)
        height = bevelled(joined, design.thickness_mm + rise, 0.28)
        if design.choices["logo"] == "ring":
            height = height + np.float32(0.1) * covered(np.abs(joined + radius * 0.55) - np.float32(0.2), g.pitch)
        elif design.choices["logo"] == "dot":
            height = height - np.float32(0.12) * covered(joined + radius * 0.72, g.pitch)
        surface = lay(surface, covered(joined, g.pitch), material, height)
    return surface, footprints


def _side(design: Design, x: float) -> str:
    columns = SHAPES[design.shape][0][0]
    return "second" if x > (columns // 2 - columns / 2) * design.numbers["unit"] else "plain"


def faults(design: Design) -> Mapping[str, tuple[Change, ...]]:
    studs = [name for name, *_ in _centres(design)]
    wrong = others(design.partner, design.choices["second"], 2, design.seed)
    return {
        "missing_part": (*(Change(stud, "missing") for stud in studs), Change("symbol", "missing"),
                         Change("tile", "missing")),
        "misplaced_part": (Change("symbol", "moved", x=2.2, angle=40), Change("symbol", "moved", x=2.8, angle=20),
                           Change(studs[0], "moved", x=2.2),
                           Change(studs[-1], "moved", x=2.2)),
        "wrong_symbol": (Change("symbol", "mirrored"), Change("symbol", "turned"),
                         *(Change("symbol", "recoloured", value=c) for c in wrong),
                         Change("symbol", "replaced", value="4"), Change("symbol", "replaced", value="7")),
        "colour_error": tuple(Change(stud, "recoloured", value=c) for stud in studs
                              for c in others(design.colour, design.choices["second"], 1, design.seed)),
    }  # fmt: skip
