"""Structural damage to a surface, and where two surfaces differ."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from datasets_tfds.mirad_mini.design import Change
from datasets_tfds.mirad_mini.surface import Grid, Surface, covered, local, polygon, tapered, union

# Differences beyond these are visible: mm, share of a sample, square root of reflectance, gloss, metal.
HEIGHT_MM, COVER, TONE, GLOSS, METAL = 0.08, 0.3, 0.06, 0.25, 0.4


@dataclass(frozen=True)
class Defect:
    """One defect of a product: a change of a part, or damage at a place.

    Attributes:
      kind: one of DEFECTS.
      change: what is wrong, for a logical defect or a part in a wrong colour; None for damage.
      variant: the type of damage, for instance "pit" or "through" for a hole.
      x, y, angle: place of the damage in mm from the middle of the grid, and its direction in degrees.
      size_mm: extent of the damage.
      strength: factor of its contrast or depth.
      colour: linear RGB of a stain or a patch.
      seed: for the shape of the damage.
    """

    kind: str
    change: Change | None = None
    variant: str = ""
    x: float = 0.0
    y: float = 0.0
    angle: float = 0.0
    size_mm: float = 0.0
    strength: float = 1.0
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seed: int = 0


def differing(perfect: Surface, surface: Surface) -> Bool[np.ndarray, "size size"]:
    """Where two surfaces differ by more than the thresholds of this module."""
    different = np.abs(surface.height - perfect.height) > HEIGHT_MM
    different |= np.abs(surface.cover - perfect.cover) > COVER
    both = (surface.cover > 0.5) & (perfect.cover > 0.5)
    tone = np.abs(np.sqrt(np.maximum(surface.albedo, 0)) - np.sqrt(np.maximum(perfect.albedo, 0))).max(-1) > TONE
    tone |= np.abs(surface.gloss - perfect.gloss) > GLOSS
    tone |= np.abs(surface.metal - perfect.metal) > METAL
    return different | (tone & both)


def closed(mask: Bool[np.ndarray, "size size"]) -> Bool[np.ndarray, "size size"]:
    """Fills gaps of a sample or two; everything that was set stays set."""
    grown = np.pad(mask, 2)
    grown = grown[:-2] | grown[1:-1] | grown[2:]
    grown = grown[:, :-2] | grown[:, 1:-1] | grown[:, 2:]
    shrunk = grown[:-2] & grown[1:-1] & grown[2:]
    return (shrunk[:, :-2] & shrunk[:, 1:-1] & shrunk[:, 2:]) | mask


def damaged(surface: Surface, g: Grid, defect: Defect) -> Surface:
    """The surface with one structural defect; whatever the defect does not reach stays as it is."""
    reach = g.extent if defect.variant == "band" else defect.size_mm * 1.6 + 1.0
    window, where = g.window((defect.x, defect.y), reach)
    names = ("height", "cover", "albedo", "gloss", "metal")
    part = replace(surface, defect=surface.defect[where], **{name: getattr(surface, name)[where] for name in names})
    part = _DAMAGES[defect.kind](part, window, defect, np.random.default_rng(defect.seed))
    fields = {}
    for name in names:
        fields[name] = getattr(surface, name).copy()
        fields[name][where] = getattr(part, name)
    return replace(surface, **fields)


def _blot(g: Grid, defect: Defect, rng: np.random.Generator, roughness: float) -> np.ndarray:
    """Approximate signed distance to an irregular round shape of the defect's size."""
    x, y = local(g, (defect.x, defect.y), defect.angle)
    around, radius = np.arctan2(y, x), np.hypot(x, y * np.float32(rng.uniform(1, 1.5)))
    edge = np.zeros_like(radius)
    for k in range(2, 9):
        edge += np.float32(rng.normal() / k) * np.cos(np.float32(k) * around + np.float32(rng.uniform(0, 6.3)))
    return radius - np.float32(defect.size_mm / 2) * np.clip(1 + np.float32(roughness) * edge, 0.4, 1.6)


def _mix(surface: Surface, amount: np.ndarray, colour: np.ndarray, gloss: float) -> Surface:
    return replace(
        surface,
        albedo=surface.albedo + amount[..., None] * (colour - surface.albedo),
        gloss=surface.gloss + amount * (np.float32(gloss) - surface.gloss),
    )


def _scratch(surface: Surface, g: Grid, defect: Defect, rng: np.random.Generator) -> Surface:
    x, y = local(g, (defect.x, defect.y), defect.angle)
    steps = 7
    along = np.linspace(-defect.size_mm / 2, defect.size_mm / 2, steps)
    bend = rng.normal(0, 0.05) * along**2 / max(defect.size_mm, 1) * 2 + rng.normal(0, 0.08, steps)
    widths = np.clip(rng.uniform(0.09, 0.26, steps) * min(defect.strength, 1.3), 0.08, 0.4)
    widths[[0, -1]] *= 0.4
    groove = union(
        *(
            tapered(x, y, (along[k], bend[k]), (along[k + 1], bend[k + 1]), widths[k], widths[k + 1])
            for k in range(steps - 1)
        )
    )
    depth = np.float32(0.22 * defect.strength) * np.clip(0.3 - groove / np.float32(0.2), 0, 1) * surface.cover
    burr = np.float32(0.06) * np.exp(-(((groove - 0.15) / 0.1) ** 2)) * surface.cover
    cut = covered(groove, g.pitch) * surface.cover
    light = surface.albedo.mean(-1, keepdims=True)
    # Stress whitens dark plastic; bright plastic shows dirt in the groove.
    colour = np.where(light < 0.35, surface.albedo * 0.45 + 0.42, surface.albedo * np.float32(0.4))
    surface = _mix(surface, cut * np.float32(min(0.75 * defect.strength, 0.95)), colour, 0.12)
    return replace(surface, height=np.maximum(surface.height - depth + burr, 0))


def _stain(surface: Surface, g: Grid, defect: Defect, rng: np.random.Generator) -> Surface:
    blot = _blot(g, defect, rng, 0.35)
    soft = np.clip(0.5 - blot / np.float32(0.35), 0, 1)
    rim = np.exp(-((blot + 0.25) ** 2) / np.float32(0.06))  # what dries last is darkest
    cloud = 0.85 + 0.15 * np.cos(blot * np.float32(2.3) + np.float32(rng.uniform(0, 6)))
    amount = np.clip(soft * (0.55 * cloud + 0.3 * rim) * defect.strength, 0, 0.95) * surface.cover
    return _mix(surface, amount.astype(np.float32), np.asarray(defect.colour, np.float32), float(rng.uniform(0.1, 0.8)))


def _hole(surface: Surface, g: Grid, defect: Defect, rng: np.random.Generator) -> Surface:
    blot = _blot(g, defect, rng, 0.18)
    lip = np.float32(0.12) * np.exp(-(((blot - 0.2) / 0.2) ** 2)) * surface.cover
    if defect.variant == "through":
        keep = 1 - covered(blot, g.pitch)
        return replace(surface, height=(surface.height + lip) * keep, cover=surface.cover * keep)
    deep = np.clip(-blot / np.float32(0.4), 0, 1)
    rough = 1 + 0.15 * rng.standard_normal(blot.shape).astype(np.float32)
    height = surface.height + lip - np.float32(1.3 * min(defect.strength, 1.5)) * deep * rough * surface.cover
    inside = covered(blot, g.pitch)[..., None]
    albedo = surface.albedo * (1 - 0.45 * inside)
    gloss = surface.gloss * (1 - 0.8 * inside[..., 0])
    return replace(surface, height=np.maximum(height, 0), albedo=albedo, gloss=gloss)


def _deformation(surface: Surface, g: Grid, defect: Defect, rng: np.random.Generator) -> Surface:
    if defect.variant == "chip":
        return _chip(surface, g, defect, rng)
    x, y = local(g, (defect.x, defect.y))
    radius = np.hypot(x, y)
    if defect.variant == "dent":
        bowl = np.clip(1 - (radius * 2 / np.float32(defect.size_mm)) ** 2, 0, 1) ** 2
        depth = np.float32(0.9 * min(defect.strength, 1.6)) * bowl * surface.cover
        return replace(surface, height=np.maximum(surface.height - depth, 0.2 * surface.cover))
    # Melted or bent: the material flows along one direction and sinks.
    near = np.clip(1 - (radius / np.float32(defect.size_mm * 0.75)) ** 2, 0, 1) ** 2
    flow = np.float32(0.3 * defect.size_mm * min(defect.strength, 1.3)) * near
    wave = 1 + 0.25 * np.sin(radius * np.float32(2.5) + np.float32(rng.uniform(0, 6)))
    shift_x = flow * wave * np.float32(math.cos(math.radians(defect.angle)))
    shift_y = flow * wave * np.float32(math.sin(math.radians(defect.angle)))
    moved = _resampled(surface, -shift_x / np.float32(g.pitch), shift_y / np.float32(g.pitch))
    sunk = moved.height * (1 - np.float32(0.3 * min(defect.strength, 1.3)) * near)
    return replace(moved, height=sunk, gloss=np.clip(moved.gloss + 0.2 * near, 0, 1) * (moved.gloss > 0))


def _chip(surface: Surface, g: Grid, defect: Defect, rng: np.random.Generator) -> Surface:
    turns = np.sort(rng.uniform(0, 2 * math.pi, 9))
    reach = defect.size_mm / 2 * rng.uniform(0.65, 1.15, 9)
    corners = [(float(r * math.cos(t)), float(r * math.sin(t))) for r, t in zip(reach, turns, strict=True)]
    broken = polygon(*local(g, (defect.x, defect.y), defect.angle), corners)
    ledge = np.clip(1 - broken / np.float32(0.8), 0, 1) * surface.cover  # the fracture slopes
    rough = 1 + 0.3 * rng.standard_normal(broken.shape).astype(np.float32)
    height = np.maximum(surface.height - np.float32(1.1) * ledge * rough, 0.1 * surface.cover)
    pale = covered(broken - np.float32(0.6), g.pitch) * surface.cover
    surface = _mix(surface, 0.4 * pale, surface.albedo * np.float32(0.7) + np.float32(0.2), 0.1)
    keep = 1 - covered(broken, g.pitch)
    return replace(surface, height=height * keep, cover=surface.cover * keep)


def _resampled(surface: Surface, columns: np.ndarray, rows: np.ndarray) -> Surface:
    """Each sample taken from (rows, columns) further on, by bilinear interpolation."""
    high, wide = surface.height.shape
    row = np.clip(np.arange(high)[:, None] + rows, 0, high - 1.001)
    column = np.clip(np.arange(wide)[None, :] + columns, 0, wide - 1.001)
    r, c = row.astype(int), column.astype(int)
    fr, fc = (row - r).astype(np.float32), (column - c).astype(np.float32)
    r2, c2 = np.minimum(r + 1, high - 1), np.minimum(c + 1, wide - 1)

    def take(field: np.ndarray) -> np.ndarray:
        a, b = (fr[..., None], fc[..., None]) if field.ndim == 3 else (fr, fc)
        upper = field[r, c] * (1 - b) + field[r, c2] * b
        return upper * (1 - a) + (field[r2, c] * (1 - b) + field[r2, c2] * b) * a

    fields = {name: take(getattr(surface, name)) for name in ("height", "cover", "albedo", "gloss", "metal")}
    return replace(surface, **fields)


def _colour_error(surface: Surface, g: Grid, defect: Defect, rng: np.random.Generator) -> Surface:
    """A patch or a band across the product in another colour, with the texture of the right colour."""
    if defect.variant == "band":
        y = local(g, (defect.x, defect.y), defect.angle)[1]
        shape = np.abs(y) - np.float32(0.2 * defect.size_mm)
    else:
        shape = _blot(g, defect, rng, 0.25)
    amount = np.clip(0.5 - shape / np.float32(0.25), 0, 1) * surface.cover * (1 - surface.metal)
    light = surface.albedo.mean(-1, keepdims=True)
    texture = np.clip(light / max(float(np.median(light[surface.cover > 0.5])), 0.02), 0.85, 1.15)
    colour = np.asarray(defect.colour, np.float32) * texture
    return replace(surface, albedo=surface.albedo + (amount * min(0.75 * defect.strength, 1))[..., None] * (
        colour - surface.albedo))  # fmt: skip


_DAMAGES: dict[str, Callable[[Surface, Grid, Defect, np.random.Generator], Surface]] = {
    "scratch": _scratch,
    "stain": _stain,
    "hole": _hole,
    "deformation": _deformation,
    "colour_error": _colour_error,
}
