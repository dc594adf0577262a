"""Snowflakes: six equal arms with branches and tips of the customer's choice, a hub, an eyelet and a ring.

Rule: all six arms are equal; the letter or digit on the hub, if any, is upright when the eyelet is on top, and in the
partner colour.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from datasets_tfds.mirad_mini.design import Change, Changes, Design, Footprints, extent_of, pick
from datasets_tfds.mirad_mini.glyphs import marked, marks
from datasets_tfds.mirad_mini.products.finish import PARTNERS, others, printed_layers, ringed, tinted
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
    segment,
    tapered,
    union,
    windowed,
)

COLOURS = ("white", "white", "sky", "blue", "silver", "turquoise", "red", "purple", "navy", "green")
TIPS = ("round", "diamond", "fork", "arrow", "ball")
HUBS = ("disc", "hexagon", "ring", "star")
SYMBOLS = ("1", "2", "3", "4", "5", "7", "A", "B", "C", "E", "F", "G", "J", "K", "L", "P", "R", "S")


def draw(rng: np.random.Generator) -> Design:
    colour, size = pick(rng, COLOURS), float(rng.uniform(27, 33))
    hub = pick(rng, HUBS)
    hoop = float(rng.uniform(3.2, 4.2))
    pairs = int(rng.integers(2, 5))
    top = size / 2 + 2 * hoop + 0.6
    first, last = float(rng.uniform(0.28, 0.38)), float(rng.uniform(0.72, 0.8))
    numbers = {"hoop": hoop, "down": (top - size / 2) / 2, "pairs": float(pairs),
               "spine": float(rng.uniform(0.8, 1.15)),
               "lean": float(rng.choice([50, 60, 60, 75])), "hub": float(rng.uniform(0.2, 0.27)) * size / 2 + 1.2,
               "swing": float(rng.uniform(-20, 20)), "layers": float(rng.uniform(0.01, 0.025)), "bevel": 0.35,
               "lines": float(rng.choice([0, 45, 90])), "web": float(rng.uniform(0.42, 0.6))}  # fmt: skip
    for k in range(pairs):
        numbers[f"at {k}"] = first + (last - first) * k / max(pairs - 1, 1)
        numbers[f"long {k}"] = float(rng.uniform(0.16, 0.36)) * (1 - 0.55 * k / pairs)
    return Design(
        family="snowflake",
        colour=colour,
        partner=PARTNERS[colour],
        shape=pick(rng, TIPS),
        pattern=hub,
        symbol=pick(rng, SYMBOLS) if hub in ("disc", "hexagon") else "",
        size_mm=size,
        extent_mm=extent_of(size / 2, (size / 2 + top) / 2),
        thickness_mm=float(rng.uniform(3, 4)),
        numbers=numbers,
        choices={"metal": pick(rng, ("steel", "nickel", "brass")), "made": pick(rng, ("printed", "printed", "acrylic")),
                 "web": pick(rng, ("none", "none", "hexagon"))},
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _arm(design: Design, x: np.ndarray, y: np.ndarray, alone: str = "") -> np.ndarray:
    """One arm along +y with its mirror image folded onto x >= 0; `alone` is another tip, with fewer branches."""
    n, half = design.numbers, design.size_mm / 2
    spine = n["spine"]
    tip = alone or design.shape
    end = half - (0.0 if tip in ("round", "fork") else 1.9) - spine
    arm = [tapered(x, y, (0, 0), (0, end), spine * 1.1, spine * 0.85)]
    lean = math.radians(n["lean"])
    for k in range(int(n["pairs"])):
        at, long = n[f"at {k}"] * half, n[f"long {k}"] * half
        if alone:
            long = 0.45 * long if k % 2 == 0 else 0
        if long > 0:
            arm.append(
                tapered(
                    x,
                    y,
                    (0, at),
                    (long * math.sin(lean), at + long * math.cos(lean)),
                    spine * 0.8,
                    spine * 0.65,
                )
            )
    if tip == "diamond":
        arm.append(polygon(x, y, [(0, half - 0.4), (1.5, half - 2.6), (0, half - 4.8), (-1.5, half - 2.6)], 0.4))
    elif tip == "ball":
        arm.append(circle(x, y - np.float32(half - 1.7), 1.7))
    elif tip == "arrow":
        arm.append(polygon(x, y, [(0, half - 0.4), (2.2, half - 3.6), (-2.2, half - 3.6)], 0.4))
    elif tip == "fork":
        arm.append(tapered(x, y, (0, half - 3.8), (1.9, half - 0.7), spine * 0.8, spine * 0.65))
    return union(*arm, smooth=0.5)


def _plate(design: Design, g: Grid, changes: Changes, centre) -> tuple[np.ndarray, np.ndarray, Footprints]:
    """Signed distances to the six arms and to the hub, and where each arm may lie."""
    n, half = design.numbers, design.size_mm / 2
    x, y = local(g, centre)
    radius = np.hypot(x, y)
    around = np.arctan2(x, y)  # 0 straight up, clockwise
    sector = np.round(around / np.float32(math.pi / 3))
    inner = np.abs(around - sector * np.float32(math.pi / 3))
    sector = sector.astype(np.int8) % 6
    fold_x, fold_y = radius * np.sin(inner), radius * np.cos(inner)
    arms = _arm(design, fold_x, fold_y)
    if design.choices["web"] == "hexagon":
        at = n["web"] * half
        arms = union(arms, segment(fold_x, fold_y, (0, at), (at * math.sin(math.pi / 3), at * 0.5)) - np.float32(0.65))
    footprints: Footprints = {}
    for k in range(6):
        part = f"arm {k}"
        if changes.missing(part):
            arms = np.where((sector == k) & (radius > n["hub"] + 1.5), np.float32(9), arms)
        elif changes.symbol(part, "") != "":
            arms = np.where(sector == k, _arm(design, fold_x, fold_y, changes.symbol(part, "")), arms)
        elif changes.moved(part):
            # An arm set askew: its own copy, turned about the hub.
            _, _, angle = changes.placed(part, 0, 0)
            turned_x, turned_y = local(g, centre, -60.0 * k + angle)
            askew = _arm(design, np.abs(turned_x), turned_y)
            arms = union(np.where((sector == k) & (radius > n["hub"]), np.float32(9), arms), askew)
            footprints[part] = (askew < 0) & (radius > n["hub"])
    if design.pattern == "hexagon":
        hub = polygon(x, y, [(r * math.sin(a), r * math.cos(a)) for r, a in _corners(n["hub"] - 0.5)], 0.5)
    elif design.pattern == "star":
        hub = polygon(fold_x, fold_y, [(0, n["hub"] * 1.5), (n["hub"] * 0.45, n["hub"] * 0.78), (0, 0)], 0.3)
        hub = union(hub, radius - np.float32(n["hub"] * 0.75))
    else:
        hub = radius - np.float32(n["hub"])
    if design.pattern == "ring":
        hub = np.maximum(hub, np.float32(n["hub"] * 0.5) - radius)
        arms = np.maximum(arms, np.float32(n["hub"] * 0.5) - radius)
    return arms, hub, footprints


def _corners(radius: float) -> list[tuple[float, float]]:
    return [(radius, math.radians(60 * k + 30)) for k in range(6)]


def relief(design: Design, g: Grid, changes: Changes) -> tuple[Surface, Footprints]:
    rng, n = design.stream(0), design.numbers
    centre, half, thickness = (0.0, -n["down"]), design.size_mm / 2, design.thickness_mm
    arms, hub, footprints = _plate(design, g, changes, centre)
    eye = (0.0, centre[1] + half + 0.7)
    eyelet = windowed(g, eye, 2.4, lambda w: circle(*local(w, eye), 2.3))
    bore = windowed(g, eye, 2.4, lambda w: circle(*local(w, eye), 1.25))
    plate = difference(union(arms, hub, eyelet, smooth=0.4), bore)
    printed = design.choices["made"] == "printed"
    body = Material(tinted(design.colour, rng), float(rng.uniform(0.3, 0.45)) if printed else 0.92)
    top = bevelled(plate, thickness, n["bevel"] if printed else 0.15)
    if printed:
        top = top + printed_layers(g, rng, plate, n["lines"], 0.45, n["layers"])
    surface = lay(empty(g), covered(plate, g.pitch), body, top)
    if not printed:
        # Light gathers in the cut edges of acrylic.
        edge = np.exp(np.minimum(plate, 0) / np.float32(0.12)) * surface.cover
        surface = lay(surface, edge * 0.45, Material((0.8, 0.84, 0.86), 0.7))
    elif design.pattern in ("disc", "hexagon"):
        pad = hub + np.float32(0.5)
        surface = lay(surface, covered(pad, g.pitch), body, bevelled(pad, thickness + 0.6, 0.3))
    if design.symbol:
        off = rng.uniform(-0.12, 0.12, 2)
        x, y, angle = changes.placed("symbol", centre[0] + off[0], centre[1] + off[1], rng.uniform(-2, 2))
        line = marks(changes.symbol("symbol", design.symbol), (x, y), 1.25 * n["hub"], 1.2 * n["hub"], angle)
        line = [dataclasses.replace(mark, mirrored=changes.mirrored("symbol")) for mark in line]
        ink = Material(tinted(changes.colour("symbol", design.partner), rng), 0.4)
        shape = marked(g, [] if changes.missing("symbol") else line, 0.2)
        footprints["symbol"] = shape < 0
        surface = lay(surface, covered(shape, g.pitch), ink, surface.height + bevelled(shape, 0.4, 0.2))
    if not changes.missing("ring"):
        surface, footprints["ring"] = ringed(
            surface, g, (eye[0], eye[1] + 0.2), thickness, n["hoop"], 0.5, design.choices["metal"], n["swing"], False
        )
    return surface, footprints


def faults(design: Design) -> Mapping[str, tuple[Change, ...]]:
    arms = [f"arm {k}" for k in range(1, 6)]
    other = TIPS[(TIPS.index(design.shape) + 2) % len(TIPS)]
    wrong = [Change(arm, "replaced", value=other) for arm in arms]
    moved = [Change(arm, "moved", angle=17) for arm in arms]
    if design.symbol:
        colours = others(design.partner, design.colour, 2, design.seed)
        wrong = [*wrong, Change("symbol", "mirrored"), Change("symbol", "turned"),
                 *(Change("symbol", "recoloured", value=c) for c in colours),
                 Change("symbol", "replaced", value="heart")]  # fmt: skip
    return {
        "missing_ring": (Change("ring", "missing"),),
        "missing_part": tuple(Change(arm, "missing") for arm in arms),
        "misplaced_part": tuple(moved),
        "wrong_symbol": tuple(wrong),
    }
