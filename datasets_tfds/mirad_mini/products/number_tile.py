"""Number tiles: 3D-printed plates with a rim, a raised number in the partner colour, a hole and a ring.

Rule: one to three digits in the family's font, upright when the hole is on top, centred, in the partner colour.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from datasets_tfds.mirad_mini.design import Change, Changes, Design, Footprints, extent_of, pick
from datasets_tfds.mirad_mini.glyphs import marked, marks
from datasets_tfds.mirad_mini.products.finish import PARTNERS, PLASTICS, others, printed_layers, ringed, tinted
from datasets_tfds.mirad_mini.surface import (
    Grid,
    Material,
    Surface,
    bevelled,
    circle,
    covered,
    difference,
    empty,
    lay,
    local,
    polygon,
    regular,
    rounded_box,
    union,
    windowed,
)

SHAPES = ("square", "hexagon", "shield", "round", "tag")
PATTERNS = ("rim", "double_rim", "dots", "bars")


def draw(rng: np.random.Generator) -> Design:
    colour, size = pick(rng, PLASTICS), float(rng.uniform(25, 29))
    digits = int(rng.choice([1, 2, 2, 3]))
    hoop = float(rng.uniform(4.6, 5.8))
    hole = 2.1 if rng.random() < 0.6 else 1.8
    top = size / 2 + 2 * hoop - 2.2 * hole
    return Design(
        family="number_tile",
        colour=colour,
        partner=PARTNERS[colour],
        shape=pick(rng, SHAPES),
        pattern=pick(rng, PATTERNS),
        symbol="".join(str(rng.integers(0 if k else 1, 10)) for k in range(digits)),
        size_mm=size,
        extent_mm=extent_of(size / 2, (size / 2 + top) / 2),
        thickness_mm=float(rng.uniform(3.2, 5)),
        numbers={"hoop": hoop, "hole": hole, "down": (top - size / 2) / 2, "weight": float(rng.uniform(0.15, 0.2)),
                 "swing": float(rng.uniform(-16, 16)), "spacing": float(rng.uniform(0.4, 0.55)),
                 "lines": float(rng.choice([0, 45, 90, -45])), "layers": float(rng.uniform(0.012, 0.03)),
                 "gloss": float(rng.uniform(0.25, 0.5))},
        choices={"metal": pick(rng, ("steel", "nickel", "nickel", "brass")), "ring": pick(rng, ("split", "wire"))},
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _outline(design: Design, g: Grid, centre: tuple[float, float]) -> np.ndarray:
    x, y = local(g, centre)
    half = design.size_mm / 2
    if design.shape == "square":
        return rounded_box(x, y, half, half, 0.2 * half)
    if design.shape == "round":
        return circle(x, y, half)
    if design.shape == "hexagon":
        return polygon(x, y, regular(6, half - 1.5), 1.5)
    if design.shape == "tag":
        corners = [(-half, -half), (half, -half), (half, 0.45 * half), (0.42 * half, half), (-0.42 * half, half),
                   (-half, 0.45 * half)]  # fmt: skip
    else:
        low = [(half * math.sin(a), -half * math.cos(a) * 1.0) for a in np.linspace(-1.15, 1.15, 21)]
        corners = [(-0.88 * half, 0.92 * half), *((0.95 * px, py) for px, py in low), (0.88 * half, 0.92 * half)]
        corners = [(px, min(py, 0.92 * half)) for px, py in corners]
    inset = [(px * (half - 1.6) / half, py * (half - 1.6) / half) for px, py in corners]
    return polygon(x, y, inset, 1.6)


def relief(design: Design, g: Grid, changes: Changes) -> tuple[Surface, Footprints]:
    rng, n = design.stream(0), design.numbers
    half, thickness, centre = design.size_mm / 2, design.thickness_mm, (0.0, -n["down"])
    base = Material(tinted(design.colour, rng), n["gloss"])
    raised = Material(tinted(changes.colour("symbol", design.partner), rng), n["gloss"])
    trim = Material(tinted(design.partner, rng), n["gloss"])
    footprints: Footprints = {}

    outline = _outline(design, g, centre)
    drop = 1.25 * n["hole"] + 1.4
    hole = (0.0, centre[1] + half * (0.92 if design.shape == "shield" else 1.0) - drop)
    bore = windowed(g, hole, n["hole"], lambda w: circle(*local(w, hole), n["hole"]))
    plate = outline if changes.missing("hole") else difference(outline, bore)
    footprints["hole"] = bore < 0
    layers = printed_layers(g, rng, plate, n["lines"], n["spacing"], n["layers"])
    surface = lay(empty(g), covered(plate, g.pitch), base, bevelled(plate, thickness, 0.5) + layers)

    band = np.abs(outline + 1.5) - np.float32(0.75)
    surface = lay(surface, covered(band, g.pitch) * surface.cover, trim if design.pattern == "bars" else base,
                  bevelled(band, thickness + 0.8, 0.35) + layers)  # fmt: skip
    extras = _extras(design, g, outline, centre)
    if extras is not None:
        surface = lay(surface, covered(extras, g.pitch) * surface.cover, trim, bevelled(extras, thickness + 0.6, 0.25))
    collar = difference(np.maximum(bore - np.float32(1.0), outline), bore)
    if not changes.missing("hole"):
        surface = lay(surface, covered(collar, g.pitch), base, bevelled(collar, thickness + 0.5, 0.3))

    off = rng.uniform(-0.2, 0.2, 2)
    x, y, angle = changes.placed("symbol", centre[0] + off[0], centre[1] + off[1] - 0.16 * half, rng.uniform(-1.5, 1.5))
    widest = (1.1 if design.shape == "shield" or design.pattern == "double_rim" else 1.3) * half
    line = marks(changes.symbol("symbol", design.symbol), (x, y), 0.92 * half, widest, angle)
    placed = []
    for k, mark in enumerate(line):
        part = f"digit {k}"
        turn = 180.0 if changes.placed(part, 0, 0)[2] == 180 else 0.0
        if not changes.missing(part):
            flip = changes.mirrored(part)
            placed.append(dataclasses.replace(mark, angle=mark.angle + turn, mirrored=flip))
            footprints[part] = marked(g, placed[-1:], n["weight"]) < 0
    number = marked(g, placed, n["weight"])
    footprints["symbol"] = number < 0
    top = printed_layers(g, rng, number, n["lines"] + 90, n["spacing"], n["layers"])
    surface = lay(surface, covered(number, g.pitch), raised, bevelled(number, thickness + 1.1, 0.3) + top)
    if not changes.missing("ring") and not changes.missing("hole"):
        surface, footprints["ring"] = ringed(
            surface, g, (hole[0], hole[1] - 0.15 * n["hole"]), thickness, n["hoop"], 0.75, design.choices["metal"],
            n["swing"], design.choices["ring"] == "split",
        )  # fmt: skip
    return surface, footprints


def _extras(design: Design, g: Grid, outline: np.ndarray, centre: tuple[float, float]) -> np.ndarray | None:
    half = design.size_mm / 2
    if design.pattern == "double_rim":
        return np.abs(outline + 3.2) - np.float32(0.35)
    if design.pattern == "dots":
        places = [(centre[0] + sx * 0.62 * half, centre[1] + 0.55 * half) for sx in (-1, 1)]
        return union(*(windowed(g, p, 0.9, lambda w, p=p: circle(*local(w, p), 0.9)) for p in places))
    if design.pattern == "bars":
        place = (centre[0], centre[1] - 0.74 * half)
        return windowed(g, place, 0.5 * half, lambda w: rounded_box(*local(w, place), 0.4 * half, 0.45, 0.45))
    return None


def faults(design: Design) -> Mapping[str, tuple[Change, ...]]:
    digits = [f"digit {k}" for k in range(len(design.symbol))]
    # The other digits, turned, are digits again, or nearly so.
    uneven = [digit for digit, figure in zip(digits, design.symbol, strict=True) if figure in "1347"]
    wrong = others(design.partner, design.colour, 2, design.seed)
    return {
        "missing_ring": (Change("ring", "missing"),),
        "missing_part": (*(Change(digit, "missing") for digit in digits), Change("hole", "missing")),
        "misplaced_part": (Change("symbol", "moved", x=2.6, angle=30),),
        "wrong_symbol": (*(Change(digit, "mirrored") for digit in digits), *(Change(d, "turned") for d in uneven),
                         *(Change("symbol", "recoloured", value=c) for c in wrong),
                         Change("symbol", "replaced", value="star"), Change("symbol", "replaced", value="K")),
        "colour_error": (),
    }  # fmt: skip
