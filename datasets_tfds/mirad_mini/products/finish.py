"""Colours and finishes: plastics, wood, metal; printed layers, grain, pearl, rings, dust."""

import math
from dataclasses import replace

import numpy as np

from datasets_tfds.mirad_mini.surface import (
    Distance,
    Grid,
    Material,
    Surface,
    circle,
    covered,
    domed,
    lay,
    local,
    segment,
    smooth_noise,
    windowed,
)

# Names to sRGB; plastics as moulders and filament makers sell them.
COLOURS = {
    "red": "#b8231c", "blue": "#1f55a5", "yellow": "#ecc22e", "green": "#2b7d45", "white": "#e9e8e2",
    "black": "#26282b", "orange": "#e2762a", "purple": "#69418f", "pink": "#e391a8", "turquoise": "#2a9d98",
    "lime": "#a3bf3c", "grey": "#9a9d9f", "tan": "#d3b98c", "brown": "#6a4630", "sky": "#7fb2d9", "navy": "#22315a",
    "silver": "#b9babd", "cream": "#e8dcbf", "pearl": "#ddd6cc", "rose": "#d9a3a0",
    "birch": "#d6b483", "beech": "#c49465", "walnut": "#6d4a32", "cherry": "#9a5a3a",
    "ink": "#1c1c20", "gold": "#b8923a",
}  # fmt: skip

# The colour of the symbol follows from that of the body, and always contrasts with it.
PARTNERS = {
    "red": "white", "blue": "yellow", "yellow": "black", "green": "white", "white": "blue", "black": "orange",
    "orange": "navy", "purple": "yellow", "pink": "purple", "turquoise": "white", "lime": "brown", "grey": "red",
    "tan": "green", "brown": "cream", "sky": "navy", "navy": "orange", "silver": "red", "cream": "brown",
    "pearl": "rose", "rose": "brown", "birch": "brown", "beech": "black", "walnut": "cream", "cherry": "cream",
}  # fmt: skip

PLASTICS = ("red", "blue", "yellow", "green", "white", "black", "orange", "purple", "pink", "turquoise", "lime",
            "grey", "tan", "sky", "navy")  # fmt: skip
WOODS = ("birch", "beech", "walnut", "cherry")

# Normal reflectance of metals, linear RGB.
METALS = {
    "steel": (0.58, 0.57, 0.55), "nickel": (0.66, 0.61, 0.53), "brass": (0.84, 0.63, 0.30), "copper": (0.86, 0.52, 0.38)
}  # fmt: skip


def linear(name: str) -> tuple[float, float, float]:
    """A colour of the palette as linear RGB."""
    if name in METALS:
        return METALS[name]
    code = COLOURS[name]
    srgb = [int(code[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb)
    return r, g, b


def tinted(name: str, rng: np.random.Generator, tolerance: float = 0.05) -> tuple[float, float, float]:
    """The colour of a batch: its brightness and, to a lesser degree, its hue vary within the tolerance."""
    factors = np.exp(rng.normal(0, tolerance) + rng.normal(0, tolerance / 3, 3))
    r, g, b = np.clip(np.asarray(linear(name)) * factors, 0.008, 0.88)
    return float(r), float(g), float(b)


def others(name: str, body: str, count: int, seed: int) -> tuple[str, ...]:
    """Up to `count` colours that a symbol of colour `name` on `body` might have by mistake, chosen by the seed.

    They are unlike both, and so visible on the body.
    """
    far = [c for c in PLASTICS if min(float(np.abs(_seen(c) - _seen(known)).sum()) for known in (name, body)) > 0.55]
    first = seed % max(len(far), 1)
    return tuple((far[first:] + far[:first])[:count])


def _seen(name: str) -> np.ndarray:
    return np.asarray(linear(name)) ** (1 / 2.2)


def printed_layers(
    g: Grid, rng: np.random.Generator, distance: Distance | None = None, angle: float = 45.0, spacing: float = 0.44,
    amplitude: float = 0.025,
) -> np.ndarray:  # fmt: skip
    """Relief in mm (0 or less) of a 3D-printed top: straight lines, and two or three that follow the outline."""
    across = local(g, (0, 0), angle)[0] + np.zeros((g.size, g.size), np.float32)
    if distance is not None:
        across = np.where(distance > -2.5 * spacing, distance, across)
    place = across / np.float32(spacing)
    line = np.floor(place)
    middle = 2 * (place - line) - 1
    jitter = (1 + 0.35 * rng.standard_normal(512)).astype(np.float32)
    return -np.float32(amplitude) * middle * middle * jitter[line.astype(np.int32) & 511]


def mottled(surface: Surface, g: Grid, rng: np.random.Generator, strength: float = 0.02) -> Surface:
    """Slight unevenness of colour and polish over the whole product."""
    patches = smooth_noise(g, rng, 3.0) * np.float32(0.6) + smooth_noise(g, rng, 0.5) * np.float32(0.4)
    shine = smooth_noise(g, rng, 5.0)
    return replace(
        surface,
        albedo=surface.albedo * (1 + np.float32(strength) * patches)[..., None],
        gloss=np.clip(surface.gloss * (1 + np.float32(0.06) * shine), 0, 1),
    )


def wooden(surface: Surface, g: Grid, rng: np.random.Generator, where: np.ndarray) -> Surface:
    """Growth rings along y, fibres and pores, over the part of the surface that is wood."""
    drift = smooth_noise(g, rng, (5.0, 26.0))
    rings = g.x * np.float32(rng.uniform(0.25, 0.5)) + np.float32(rng.uniform(0.5, 0.9)) * drift
    late = (rings - np.floor(rings)) ** 3
    fibres = smooth_noise(g, rng, (0.22, 5.0))
    pores = np.maximum(smooth_noise(g, rng, (0.2, 1.6)) - 1.6, 0)
    tone = np.clip(1 - 0.3 * late + 0.07 * fibres - 0.28 * pores, 0.2, 1.3)
    factor = np.stack([tone, tone**1.25, tone**1.5], -1)
    return replace(
        surface,
        albedo=surface.albedo * (1 + where[..., None] * (factor - 1)),
        height=surface.height + where * np.float32(0.012) * (fibres - 2 * pores),
    )


def burnt(surface: Surface, distance: Distance, width: float = 0.5) -> Surface:
    """The brown edge that a laser leaves on wood."""
    toast = np.exp(np.minimum(distance, 0) / np.float32(width)) * np.float32(0.75)
    keep = 1 - toast[..., None] * np.asarray([0.75, 0.88, 0.95], np.float32)
    return replace(surface, albedo=surface.albedo * keep)


def pearly(surface: Surface, g: Grid, rng: np.random.Generator, where: np.ndarray) -> Surface:
    """Swirls of mother-of-pearl: bands of light and dark with a shift from rose to green."""
    swirl = smooth_noise(g, rng, (7.0, 4.5)) * np.float32(1.3) + smooth_noise(g, rng, 1.6) * np.float32(0.3)
    phase = swirl * np.float32(2.4)
    shift = np.stack([0.10 * np.sin(phase), 0.06 * np.sin(phase + 2.2), 0.10 * np.sin(phase + 4.0)], -1)
    light = 0.12 * np.sin(phase * 1.7)
    return replace(surface, albedo=surface.albedo * (1 + where[..., None] * (shift + light[..., None])))


def ringed(
    surface: Surface, g: Grid, hole: tuple[float, float], plate: float, radius: float, tube: float, metal: str,
    swing_deg: float = 0.0, split: bool = True,
) -> tuple[Surface, np.ndarray]:  # fmt: skip
    """Hangs a metal ring in a hole; it points outwards along +y, turned by `swing_deg`.

    The ring leaves the hole over the plate on its left and under it on its right, and lies on the table further out.

    Args:
      plate: height of the plate about the hole in mm.
      radius, tube: radius of the ring's middle line, and half the wire's thickness, in mm.
      split: whether it has two coils, like a key ring, or is one wire.

    Returns:
      The surface, and where the ring is visible.
    """
    swing = math.radians(swing_deg)
    outwards = (-math.sin(swing), math.cos(swing))
    centre = (hole[0] + radius * outwards[0], hole[1] + radius * outwards[1])
    x, y = local(g, centre, swing_deg)
    apart = np.hypot(x, y) - np.float32(radius)
    if split:
        wire = np.abs(np.abs(apart) - np.float32(tube / 2)) - np.float32(tube / 2)
        # Where the outer coil ends, the wire steps down.
        end = segment(x, y, (radius * 0.45, radius * 0.75), (radius * 0.8, radius * 1.2)) - np.float32(0.12)
        wire = np.maximum(wire, -end)
    else:
        wire = np.abs(apart) - np.float32(tube)
    solid = domed(wire, tube / 2 if split else tube) * (2 if split else 1)
    over = np.clip((np.float32(0.6) - x) / np.float32(1.2), 0, 1)  # 1 left of the hole, 0 right of it
    seen = covered(wire, g.pitch) * np.where(over > 0.5, 1, 1 - surface.cover)
    slope = np.clip((y + np.float32(radius)) / np.float32(2 * radius), 0, 1)  # 0 at the hole, 1 far out
    falling = np.clip((slope - np.float32(0.35)) / np.float32(0.65), 0, 1)
    above = np.float32(plate + 0.8) * (1 - falling * falling * (3 - 2 * falling))
    level = over * above + (1 - over) * np.float32(plate * 0.4) * (1 - slope) + solid
    return lay(surface, seen, Material(METALS[metal], 0.88, 1.0), level), seen > 0.5


def dusted(surface: Surface, g: Grid, rng: np.random.Generator, reach: float) -> Surface:
    """A few grains of dust and a fibre: harmless, and smaller than any defect."""
    for _ in range(int(rng.poisson(4))):
        place = (float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach)))
        size, light = float(rng.uniform(0.06, 0.16)), float(rng.choice([0.12, 0.45, 0.6]))
        bend, length = float(rng.uniform(0, math.pi)), float(rng.uniform(0, 0.4))
        tip = (length * math.cos(bend), length * math.sin(bend))
        window, where = g.window(place, 1.2)
        if 0 in (window.x.size, window.y.size):
            continue
        x, y = local(window, place)
        grain = covered(segment(x, y, (0, 0), tip) - np.float32(size), g.pitch)
        grain = grain * (surface.cover[where] > 0.99) * np.float32(0.6)
        albedo, gloss = surface.albedo.copy(), surface.gloss.copy()
        albedo[where] += grain[..., None] * (np.float32(light) - albedo[where])
        gloss[where] *= 1 - grain
        surface = replace(surface, albedo=albedo, gloss=gloss)
    return surface


def gated(surface: Surface, g: Grid, place: tuple[float, float], radius: float = 0.9) -> Surface:
    """The faint round mark that an injection gate or an ejector pin leaves."""

    def mark(window: Grid) -> np.ndarray:
        return np.abs(circle(*local(window, place), radius)) - np.float32(0.12)

    groove = covered(windowed(g, place, radius, mark), g.pitch)
    return replace(surface, height=surface.height - np.float32(0.035) * groove * surface.cover)
