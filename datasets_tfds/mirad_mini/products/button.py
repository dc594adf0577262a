"""Coat buttons: round, scalloped or flower-shaped, with two or four holes, a rim, and a ring of equal motifs.

Rule: holes are evenly spaced about the middle; all motifs are equal and evenly spaced, with their feet towards the
middle, and in the partner colour.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from datasets_tfds.mirad_mini.design import Change, Changes, Design, Footprints, extent_of, pick
from datasets_tfds.mirad_mini.glyphs import Mark, marked
from datasets_tfds.mirad_mini.products.finish import (
    PARTNERS,
    PLASTICS,
    WOODS,
    gated,
    others,
    pearly,
    tinted,
    wooden,
)
from datasets_tfds.mirad_mini.surface import (
    Grid,
    Material,
    Surface,
    bevelled,
    circle,
    covered,
    cut,
    empty,
    lay,
    local,
    union,
    windowed,
)

SHAPES = ("round", "round", "scalloped", "flower")
MOTIFS = ("heart", "star", "leaf", "drop", "dot", "anchor", "clover", "moon", "tree", "crown")


def draw(rng: np.random.Generator) -> Design:
    made = pick(rng, ("plastic", "plastic", "wood", "pearl"))
    colour = pick(rng, {"wood": WOODS, "pearl": ("pearl", "rose", "sky", "cream")}.get(made, PLASTICS))
    size, pattern = float(rng.uniform(26, 36)), pick(rng, ("motifs", "motifs", "motifs", "grooves", "flutes"))
    return Design(
        family="button",
        colour=colour,
        partner=PARTNERS[colour],
        shape=pick(rng, SHAPES),
        pattern=pattern,
        symbol=pick(rng, MOTIFS) if pattern == "motifs" else "",
        size_mm=size,
        extent_mm=extent_of(size / 2, size / 2),
        thickness_mm=float(rng.uniform(3.2, 5)),
        numbers={"holes": float(rng.choice([2, 4, 4])), "hole": float(rng.uniform(1.05, 1.45)),
                 "spread": float(rng.uniform(2.5, 3.3)), "petals": float(rng.integers(6, 10)),
                 "motifs": float(rng.integers(5, 9)), "dish": float(rng.uniform(0.6, 1.2)),
                 "rim": float(rng.uniform(0.13, 0.2)), "gloss": float(rng.uniform(0.5, 0.9))},
        choices={"made": made, "relief": pick(rng, ("engraved", "painted", "raised"))},
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _outline(design: Design, g: Grid) -> np.ndarray:
    half, petals = design.size_mm / 2, design.numbers["petals"]
    radius = np.hypot(g.x, g.y)
    if design.shape == "round":
        return radius - np.float32(half)
    around = np.arctan2(g.x, g.y)
    if design.shape == "scalloped":
        depth = 0.03 * half
        return (radius - np.float32(half - depth) - np.float32(depth) * np.cos(np.float32(2 * petals) * around)) * 0.92
    wedge = np.float32(2 * math.pi / petals)
    inner = around - np.round(around / wedge) * wedge
    petal = half * math.sin(math.pi / petals) / (1 + math.sin(math.pi / petals)) * 1.12
    x, y = radius * np.sin(inner), radius * np.cos(inner)
    return union(circle(x, y - np.float32(half - petal), petal), radius - np.float32(0.8 * half), smooth=0.8)


def _holes(design: Design) -> list[tuple[str, float, float]]:
    count, spread = int(design.numbers["holes"]), design.numbers["spread"]
    turns = [math.pi * (2 * k / count + (0.25 if count == 4 else 0)) for k in range(count)]
    return [(f"hole {k}", spread * math.cos(t), spread * math.sin(t)) for k, t in enumerate(turns)]


def _motifs(design: Design, changes: Changes) -> list[tuple[str, Mark]]:
    count, half = int(design.numbers["motifs"]), design.size_mm / 2
    ring = 0.36 * half + 0.5 * (1 - design.numbers["rim"]) * half * 0.62
    height = min(0.3 * half, 2 * math.pi * ring / count * 0.8)
    placed = []
    for k in range(count):
        part, turn = f"motif {k}", -360 * k / count
        at_x, at_y = ring * math.sin(2 * math.pi * k / count), ring * math.cos(2 * math.pi * k / count)
        x, y, angle = changes.placed(part, at_x, at_y, turn)
        if not changes.missing(part):
            glyph = changes.symbol(part, changes.symbol("symbol", design.symbol))
            placed.append((part, Mark(glyph, (x, y), height, angle, changes.mirrored(part))))
    return placed


def relief(design: Design, g: Grid, changes: Changes) -> tuple[Surface, Footprints]:
    rng, n, made = design.stream(0), design.numbers, design.choices["made"]
    half, thickness = design.size_mm / 2, design.thickness_mm
    gloss = 0.25 if made == "wood" else n["gloss"]
    body = Material(tinted(design.colour, rng), gloss)
    ink = Material(tinted(design.partner, rng, 0.03), 0.45)
    outline = _outline(design, g)
    radius = np.hypot(g.x, g.y)

    # A rounded rim, and within it a dish; `inside` is 1 in the dish.
    rim = n["rim"] * half
    inside = np.clip((-outline - np.float32(rim)) / np.float32(1.6), 0, 1)
    inside = inside * inside * (3 - 2 * inside)
    top = bevelled(outline, thickness, 0.55 * rim) - np.float32(n["dish"]) * inside
    if design.pattern == "grooves":
        bands = radius / np.float32(1.9)
        top = top - np.float32(0.16) * inside * (radius > 5) * np.maximum(np.cos(2 * np.pi * bands), 0) ** 3
    elif design.pattern == "flutes":
        flutes = np.cos(np.arctan2(g.x, g.y) * np.float32(4 * n["petals"]))
        top = top + np.float32(0.2) * flutes * inside * np.clip((radius - 5.2) / 1.5, 0, 1)
    surface = lay(empty(g), covered(outline, g.pitch), body, top)
    if made == "wood":
        surface = wooden(surface, g, rng, surface.cover)
    elif made == "pearl":
        surface = pearly(surface, g, rng, surface.cover)
    else:
        surface = gated(surface, g, (0.0, 0.0), 1.0)
    collar = np.abs(radius - np.float32(n["spread"] + n["hole"] + 0.9)) - np.float32(0.25)
    surface = dataclasses.replace(surface, height=surface.height - np.float32(0.12) * covered(collar, g.pitch))

    footprints: Footprints = {}
    if design.symbol:
        surface, footprints = _decorated(design, g, changes, surface, ink)
    bores = []
    for part, at_x, at_y in _holes(design):
        if changes.missing(part):
            continue
        x, y, _ = changes.placed(part, at_x, at_y)
        bores.append(windowed(g, (x, y), n["hole"], lambda w, at=(x, y): circle(*local(w, at), n["hole"])))
        footprints[part] = bores[-1] < 0
    bore = union(*bores) if bores else np.full_like(outline, 9)
    # The drill leaves a rounded edge.
    sink = np.clip(1 - bore / np.float32(0.45), 0, 1)
    surface = dataclasses.replace(surface, height=surface.height - np.float32(0.3) * sink * sink * surface.cover)
    return cut(surface, covered(bore, g.pitch)), footprints


def _decorated(
    design: Design, g: Grid, changes: Changes, surface: Surface, ink: Material
) -> tuple[Surface, Footprints]:
    footprints: Footprints = {}
    by_colour: dict[str, list[np.ndarray]] = {}
    for part, mark in _motifs(design, changes):
        shape = marked(g, [mark], 0.14)
        footprints[part] = shape < 0
        by_colour.setdefault(changes.colour(part, "partner"), []).append(shape)
    for name, shapes in by_colour.items():
        shape = union(*shapes)
        paint = ink if name == "partner" else Material(tinted(name, design.stream(9), 0.03), ink.gloss)
        depth = {"engraved": -0.35, "painted": 0.03, "raised": 0.4}[design.choices["relief"]]
        height = surface.height + np.float32(depth) * np.clip(-shape / np.float32(0.25), 0, 1)
        surface = lay(surface, covered(shape, g.pitch) * surface.cover, paint, height)
    return surface, footprints


def faults(design: Design) -> Mapping[str, tuple[Change, ...]]:
    holes = [name for name, *_ in _holes(design)]
    motifs = [f"motif {k}" for k in range(int(design.numbers["motifs"]))] if design.symbol else []
    other = MOTIFS[(MOTIFS.index(design.symbol) + 3) % len(MOTIFS)] if design.symbol else ""
    wrong = others(design.partner, design.colour, 1, design.seed)
    return {
        "missing_part": (*(Change(hole, "missing") for hole in holes), *(Change(m, "missing") for m in motifs)),
        "misplaced_part": (*(Change(hole, "moved", x=1.9) for hole in holes),
                           *(Change(m, "moved", x=1.5, angle=50) for m in motifs[:3])),
        "wrong_symbol": (*(Change(m, "replaced", value=other) for m in motifs), *(Change(m, "turned") for m in motifs),
                         *(Change(m, "recoloured", value=c) for m in motifs[:4] for c in wrong)),
    }  # fmt: skip
