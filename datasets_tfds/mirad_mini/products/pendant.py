"""Rabbit pendants: ten designs of body, ears and face; engraved initials, a ring through an ear or the head.

Rule: both ears belong to one design; the initials are upright letters, filled with the partner colour.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from datasets_tfds.mirad_mini.design import Change, Changes, Design, Footprints, extent_of, pick
from datasets_tfds.mirad_mini.glyphs import LETTERS, marked, marks
from datasets_tfds.mirad_mini.products.finish import (
    PARTNERS,
    PLASTICS,
    WOODS,
    burnt,
    linear,
    others,
    printed_layers,
    ringed,
    tinted,
    wooden,
)
from datasets_tfds.mirad_mini.surface import (
    Distance,
    Grid,
    Material,
    Surface,
    bevelled,
    circle,
    covered,
    difference,
    ellipse,
    empty,
    grid,
    lay,
    local,
    polyline,
    rounded_box,
    smooth_noise,
    tapered,
    union,
)

# Pose, ears, eyes, cut-out or relief on the body. Ten designs, as the factory offers them.
DESIGNS = {
    "classic": ("body", "upright", "dots", "none"),
    "chubby": ("body", "short", "dots", "belly"),
    "dancer": ("body", "folded", "closed", "none"),
    "sweetheart": ("body", "spread", "closed", "heart"),
    "face": ("head", "upright", "dots", "none"),
    "lop": ("body", "lop", "dots", "none"),
    "winker": ("head", "folded", "wink", "none"),
    "wide": ("head", "spread", "holes", "none"),
    "runner": ("side", "swept", "dots", "none"),
    "sitter": ("side", "upright", "holes", "belly"),
}
# Letters that look wrong both mirrored and turned.
LETTERS_USED = tuple(letter for letter in LETTERS if letter not in "AHMTUVWYQZNS")

# Ears in units of half the size, relative to the middle of the head, for the right ear: points and half widths.
_EARS = {
    "upright": (((0.13, 0.22), (0.17, 0.55), (0.2, 0.82)), (0.1, 0.145, 0.1)),
    "short": (((0.15, 0.22), (0.2, 0.45), (0.23, 0.6)), (0.11, 0.15, 0.12)),
    "spread": (((0.15, 0.2), (0.33, 0.5), (0.48, 0.72)), (0.09, 0.14, 0.09)),
    "lop": (((0.12, 0.24), (0.47, 0.34), (0.64, 0.0)), (0.08, 0.1, 0.13)),
    "folded": (((0.13, 0.22), (0.18, 0.55), (0.2, 0.82)), (0.1, 0.14, 0.1)),
    "swept": (((0.0, 0.16), (-0.26, 0.48), (-0.56, 0.72)), (0.095, 0.14, 0.1)),
}
_BENT = ((0.13, 0.22), (0.2, 0.56), (0.5, 0.48))  # the right ear of "folded"


@dataclasses.dataclass(frozen=True)
class _Pose:
    """Where head and letters are, in units of half the size; scale of head and ears; room for the letters."""

    head: tuple[float, float]
    scale: float
    letters: tuple[float, float]
    high: float
    wide: float


_POSES = {
    "body": _Pose((0.0, 0.06), 1.0, (0.0, -0.55), 0.3, 0.46),
    "head": _Pose((0.0, -0.42), 1.55, (0.0, -0.09), 0.23, 0.34),
    "side": _Pose((0.45, 0.0), 1.0, (-0.16, -0.5), 0.34, 0.52),
}


def draw(rng: np.random.Generator) -> Design:
    made = pick(rng, ("printed", "printed", "acrylic", "wood", "wood", "metal"))
    options = {"wood": WOODS, "metal": ("steel", "brass", "copper")}.get(made, PLASTICS)
    colour, shape = pick(rng, options), pick(rng, list(DESIGNS))
    return _fitted(
        Design(
            family="pendant",
            colour=colour,
            partner=PARTNERS.get(colour, "black"),
            shape=shape,
            pattern=DESIGNS[shape][1],
            symbol="".join(pick(rng, LETTERS_USED) for _ in range(1 if rng.random() < 0.5 else 2)),
            size_mm=float(rng.uniform(27, 32)),
            extent_mm=80.0,
            thickness_mm=float(rng.uniform(3, 4.5)),
            numbers={"hoop": float(rng.uniform(3.4, 4.4)), "ear": float(rng.uniform(0.92, 1.1)),
                     "plump": float(rng.uniform(0.94, 1.08)), "swing": float(rng.uniform(-22, 22)),
                     "layers": float(rng.uniform(0.012, 0.025)), "lines": float(rng.choice([0, 45, 90])),
                     "weight": float(rng.uniform(0.16, 0.21)), "half": 15.0, "left": 0.0, "down": 0.0},
            choices={"made": made, "metal": pick(rng, ("steel", "nickel", "brass"))},
            seed=int(rng.integers(2**31)),
        )
    )  # fmt: skip


def _fitted(design: Design) -> Design:
    """Gives the rabbit its size and centres rabbit and ring, whatever the outline."""
    coarse = grid(design.extent_mm, 0.5)

    def box(design: Design, *changes: Change) -> tuple[float, float, float, float]:
        rows, columns = np.nonzero(relief(design, coarse, Changes(changes))[0].cover > 0.5)
        x, y = coarse.x[0, columns], coarse.y[rows, 0]
        return float(x.min()), float(x.max()), float(y.min()), float(y.max())

    left, right, low, high = box(design, Change("ring", "missing"))
    half = 15.0 * design.size_mm / max(right - left, high - low)
    design = dataclasses.replace(design, numbers={**design.numbers, "half": half})
    left, right, low, high = box(design)
    numbers = {**design.numbers, "left": (left + right) / 2, "down": (low + high) / 2}
    return dataclasses.replace(design, numbers=numbers, extent_mm=extent_of((right - left) / 2, (high - low) / 2))


def _chain(x, y, points, widths) -> np.ndarray:
    pieces = [tapered(x, y, points[k], points[k + 1], widths[k], widths[k + 1]) for k in range(len(points) - 1)]
    return union(*pieces, smooth=0.1)


def _ears(design: Design, x, y, changes: Changes, thin: float = 0.0) -> list[np.ndarray]:
    """Signed distances to the ears, in units of half the size; `thin` makes them slimmer, for the inner ear."""
    pose, kind = _POSES[DESIGNS[design.shape][0]], DESIGNS[design.shape][1]
    points, widths = _EARS[kind]
    stretch = design.numbers["ear"]
    x, y = (x - np.float32(pose.head[0])) / np.float32(pose.scale), (y - np.float32(pose.head[1])) / pose.scale
    widths = tuple(width - thin for width in widths)
    first = [(px, py * (stretch if py > 0.3 else 1)) for px, py in points]
    second = _BENT if kind == "folded" else first
    if DESIGNS[design.shape][0] == "side":
        second = [(px + 0.2, py * 1.04 - 0.02) for px, py in first]
        flip = 1
    else:
        flip = -1
    ears = []
    if not changes.missing("left ear"):
        ears.append(_chain(flip * x, y, first, widths))
    if not changes.missing("right ear"):
        dx, dy, turn = changes.placed("right ear", 0, 0, 0)
        c, s = np.float32(np.cos(np.radians(turn))), np.float32(np.sin(np.radians(turn)))
        base_x, base_y = second[0]
        shifted_x, shifted_y = x - np.float32(base_x + dx), y - np.float32(base_y + dy)
        there = (c * shifted_x + s * shifted_y + np.float32(base_x), c * shifted_y - s * shifted_x + np.float32(base_y))
        ears.append(_chain(*there, second, widths))
    return [ear * np.float32(pose.scale) for ear in ears]


def _body(design: Design, x, y) -> list[np.ndarray]:
    pose_name = DESIGNS[design.shape][0]
    plump, pose = design.numbers["plump"], _POSES[pose_name]
    head_x, head_y = x - np.float32(pose.head[0]), y - np.float32(pose.head[1])
    if pose_name == "head":
        return [ellipse(head_x, head_y, 0.66 * plump, 0.54)]
    if pose_name == "body":
        return [
            ellipse(head_x, head_y, 0.37, 0.32),
            ellipse(x, y + np.float32(0.55), 0.42 * plump, 0.42),
            tapered(np.abs(x), y, (0.2, -0.86), (0.34, -0.88), 0.12, 0.11),
            tapered(np.abs(x), y, (0.3, -0.42), (0.45, -0.28), 0.09, 0.08),
        ]
    return [
        ellipse(head_x, head_y, 0.36, 0.29),
        ellipse(x + np.float32(0.16), y + np.float32(0.5), 0.58, 0.42 * plump),
        circle(x + np.float32(0.78), y + np.float32(0.52), 0.18),
        tapered(x, y, (0.12, -0.34), (0.4, -0.06), 0.36, 0.26),
        tapered(x, y, (0.32, -0.6), (0.44, -0.9), 0.14, 0.1),
        tapered(x, y, (-0.36, -0.86), (0.08, -0.9), 0.13, 0.1),
    ]


def _eyelet(design: Design) -> tuple[float, float]:
    """The hole for the ring, in units of half the size: near the left ear's tip, or on the head if the ears hang."""
    pose_name, kind = DESIGNS[design.shape][:2]
    pose, stretch = _POSES[pose_name], design.numbers["ear"]
    if kind == "lop":
        return pose.head[0], pose.head[1] + 0.27
    px, py = _EARS[kind][0][-1]
    return pose.head[0] + (px if pose_name == "side" else -px) * pose.scale, pose.head[1] + (py * stretch) * pose.scale


def _face(design: Design, x, y) -> tuple[np.ndarray | None, np.ndarray]:
    """Signed distances to what is cut through and to what is engraved and coloured, in units of half the size."""
    pose_name, _, eyes, _ = DESIGNS[design.shape]
    pose = _POSES[pose_name]
    x, y = (x - np.float32(pose.head[0])) / np.float32(pose.scale), (y - np.float32(pose.head[1])) / pose.scale
    if pose_name == "side":
        spots = [((0.1, 0.05), 1.0)]
        lines = [polyline(x, y, [(0.22, -0.1), (0.12, -0.13)]) - np.float32(0.02),
                 circle(x - np.float32(0.31), y + np.float32(0.01), 0.045)]  # fmt: skip
    else:
        spots = [((-0.15, 0.05), 1.0), ((0.15, 0.05), -1.0)]
        mouth = polyline(x, y, [(-0.09, -0.13), (-0.045, -0.165), (0, -0.11), (0.045, -0.165), (0.09, -0.13)])
        nose = ellipse(x, y + np.float32(0.06), 0.055, 0.04)
        teeth = rounded_box(np.abs(x) - np.float32(0.024), y + np.float32(0.195), 0.019, 0.032, 0.006)
        lines = [mouth - np.float32(0.018), nose, teeth]
    holes = []
    for k, ((at_x, at_y), side) in enumerate(spots):
        if eyes == "closed" or (eyes == "wink" and k == 1):
            curve = [(at_x - 0.07, at_y), (at_x, at_y + 0.05 * abs(side)), (at_x + 0.07, at_y)]
            lines.append(polyline(x, y, curve) - np.float32(0.02))
        elif eyes == "holes":
            holes.append(circle(x - np.float32(at_x), y - np.float32(at_y), 0.05))
        else:
            lines.append(ellipse(x - np.float32(at_x), y - np.float32(at_y), 0.042, 0.055))
    scale = np.float32(pose.scale)
    return (union(*holes) * scale if holes else None), union(*lines) * scale


def relief(design: Design, g: Grid, changes: Changes) -> tuple[Surface, Footprints]:
    rng, n, made = design.stream(0), design.numbers, design.choices["made"]
    half, thickness, left, down = n["half"], design.thickness_mm, n["left"], n["down"]
    unit = np.float32(1 / half)
    x, y = (g.x + np.float32(left)) * unit, (g.y + np.float32(down)) * unit
    ears = _ears(design, x, y, changes)
    silhouette = union(*_body(design, x, y), *ears, smooth=0.06) * np.float32(half)
    at = _eyelet(design)
    eye = (at[0] * half - left, at[1] * half - down)
    bore = circle(*local(g, eye), 1.15)
    silhouette = union(silhouette, circle(*local(g, eye), 2.2), smooth=0.6)
    holes, engraved = _face(design, x, y)
    plate = difference(silhouette, bore)
    if holes is not None:
        plate = difference(plate, holes * np.float32(half))

    surface = _made(design, g, rng, plate)
    ink = Material(tinted(design.partner, rng, 0.03), 0.35)
    surface = _engraved(surface, g, engraved * np.float32(half), ink)
    footprints: Footprints = {}
    inner = _ears(design, x, y, changes, thin=0.065)
    if inner and made != "wood":
        surface = _engraved(surface, g, union(*inner) * np.float32(half) + 0.35, ink if made == "acrylic" else None)
    extra = DESIGNS[design.shape][3]
    pose = _POSES[DESIGNS[design.shape][0]]
    if extra == "belly":
        belly = np.abs(ellipse(x - np.float32(pose.letters[0]), y - np.float32(pose.letters[1]), 0.31, 0.3)) * half
        surface = _engraved(surface, g, belly - np.float32(0.3), None)
    elif extra == "heart":
        middle = (pose.letters[0] * half - left, pose.letters[1] * half - down - 0.3)
        heart = marked(g, marks("heart", middle, 0.72 * half, 99))
        surface = _engraved(surface, g, np.abs(heart) - np.float32(0.3), None)

    off = rng.uniform(-0.2, 0.2, 2)
    wide = min(pose.wide, 0.36) if extra == "belly" else pose.wide
    spot = (pose.letters[0] * half - left + off[0], pose.letters[1] * half - down + off[1])
    spot = changes.placed("symbol", *spot, rng.uniform(-2, 2))
    line = marks(changes.symbol("symbol", design.symbol), spot[:2], pose.high * half, wide * half, spot[2])
    line = [dataclasses.replace(mark, mirrored=changes.mirrored("symbol")) for mark in line]
    shape = marked(g, [] if changes.missing("symbol") else line, n["weight"])
    footprints["symbol"] = shape < 0
    surface = _engraved(surface, g, shape, Material(tinted(changes.colour("symbol", design.partner), rng, 0.03), 0.35))
    if not changes.missing("ring"):
        surface, footprints["ring"] = ringed(
            surface, g, (eye[0], eye[1] + 0.2), thickness, n["hoop"], 0.5, design.choices["metal"], n["swing"], False
        )
    return surface, footprints


def _made(design: Design, g: Grid, rng: np.random.Generator, plate: Distance) -> Surface:
    """The bare plate in the design's material."""
    n, made, cover = design.numbers, design.choices["made"], covered(plate, g.pitch)
    if made == "metal":
        brushed = smooth_noise(g, rng, (3.0, 0.14))
        body = Material(linear(design.colour), 0.72, 1.0)
        return lay(empty(g), cover, body, bevelled(plate, design.thickness_mm, 0.9) + np.float32(0.004) * brushed)
    body = Material(tinted(design.colour, rng), {"printed": 0.38, "acrylic": 0.92, "wood": 0.16}[made])
    if made == "printed":
        top = bevelled(plate, design.thickness_mm, 0.6)
        return lay(empty(g), cover, body, top + printed_layers(g, rng, plate, n["lines"], 0.45, n["layers"]))
    surface = lay(empty(g), cover, body, bevelled(plate, design.thickness_mm, 0.2))
    if made == "wood":
        return burnt(wooden(surface, g, rng, cover), plate)
    edge = np.exp(np.minimum(plate, 0) / np.float32(0.12)) * cover
    return lay(surface, edge * 0.35, Material((0.75, 0.78, 0.8), 0.75))


def _engraved(surface: Surface, g: Grid, shape: Distance, ink: Material | None) -> Surface:
    """Sinks a shape 0.4 mm into the product, and fills it with paint unless `ink` is None."""
    cover = covered(shape, g.pitch) * surface.cover
    sunk = surface.height - np.clip(-shape * np.float32(2), 0, np.float32(0.4)) * surface.cover
    if ink is None:
        return dataclasses.replace(surface, height=np.where(shape < 0, sunk, surface.height))
    return lay(surface, cover, ink, sunk)


def faults(design: Design) -> Mapping[str, tuple[Change, ...]]:
    wrong = others(design.partner, design.colour, 2, design.seed)
    return {
        "missing_ring": (Change("ring", "missing"),),
        "missing_part": (Change("right ear", "missing"), Change("symbol", "missing")),
        "misplaced_part": (Change("symbol", "moved", x=2.6, angle=30), Change("right ear", "moved", angle=26)),
        "wrong_symbol": (Change("symbol", "mirrored"), Change("symbol", "turned"),
                         *(Change("symbol", "recoloured", value=c) for c in wrong),
                         Change("symbol", "replaced", value="4"), Change("symbol", "replaced", value="star")),
    }  # fmt: skip
