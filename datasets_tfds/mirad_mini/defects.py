"""Which defects a product can have, and drawing one to three of them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from datasets_tfds.mirad_mini.damage import Defect, differing
from datasets_tfds.mirad_mini.design import Design, turned
from datasets_tfds.mirad_mini.products import FAMILIES, build
from datasets_tfds.mirad_mini.products.finish import PLASTICS, linear
from datasets_tfds.mirad_mini.surface import Surface

STRUCTURAL = ("scratch", "stain", "hole", "deformation", "colour_error")
LOGICAL = ("missing_ring", "missing_part", "misplaced_part", "wrong_symbol")
DEFECTS = (*STRUCTURAL, *LOGICAL)

COARSE_MM = 0.3
_TRIES = 12

# Dried oil, ink, glue, rust, marker: linear RGB.
_STAINS = ((0.11, 0.06, 0.02), (0.015, 0.015, 0.06), (0.7, 0.66, 0.5), (0.3, 0.09, 0.02), (0.02, 0.1, 0.03))


def kinds(family: str) -> tuple[str, ...]:
    """The kinds of defect that products of a family can have, in the order of DEFECTS."""
    without = {"brick": ("missing_ring",), "button": ("missing_ring",)}.get(family, ())
    return tuple(kind for kind in DEFECTS if kind not in without)


def draw_defects(
    design: Design, rng: np.random.Generator, difficulty: float = 1.0, compound: float = 0.38
) -> tuple[Defect, ...]:
    """Draws the defects of one product.

    Args:
      difficulty: 0.5 (easy) to 2 (hard); the more difficult, the smaller and fainter the damage, and the less far parts
        are moved.
      compound: the probability of two or three defects, of different kinds.

    Returns:
      The defects; at difficulty 1 and below, each of them is visible on the finished product.
    """
    perfect = build(design, pitch=COARSE_MM)
    count = int(rng.integers(2, 4)) if rng.random() < compound else 1
    drawn: list[Defect] = []
    candidates = [*STRUCTURAL, *LOGICAL]
    while len(drawn) < count and candidates:
        group = STRUCTURAL if rng.random() < 0.5 else LOGICAL
        left = [kind for kind in candidates if kind in group] or candidates
        kind = left[int(rng.integers(len(left)))]
        candidates.remove(kind)
        defect = draw_defect(design, kind, rng, difficulty, perfect)
        if defect is not None:
            drawn.append(defect)
    return tuple(drawn)


def draw_defect(
    design: Design, kind: str, rng: np.random.Generator, difficulty: float = 1.0, perfect: Surface | None = None
) -> Defect | None:
    """One visible defect of a kind; None if no place for it is found on the product.

    Args:
      perfect: `build(design, pitch=COARSE_MM)`, if already at hand.
    """
    if kind not in kinds(design.family):
        return None
    if perfect is None:
        perfect = build(design, pitch=COARSE_MM)
    largest = 0.6 * float((perfect.cover > 0.5).sum()) * COARSE_MM**2
    smallest = 3.0 / difficulty
    for _ in range(_TRIES):
        defect = _candidate(design, kind, rng, difficulty, perfect)
        if defect is None:
            return None
        surface = build(design, (defect,), COARSE_MM)
        seen = float(differing(perfect, surface).sum()) * COARSE_MM**2
        marked = float(surface.defect.sum()) * COARSE_MM**2
        # A symmetric symbol that is mirrored, or a 0 that is turned, is no defect.
        if seen >= max(smallest, 0.2 * marked) and marked <= largest:
            return defect
    return None


def _candidate(
    design: Design, kind: str, rng: np.random.Generator, difficulty: float, perfect: Surface
) -> Defect | None:
    options = FAMILIES[design.family].faults(design).get(kind, ())
    if kind in LOGICAL or (options and rng.random() < 0.4):
        if not options:
            return None
        change = options[int(rng.integers(len(options)))]
        if change.action == "moved":
            # A family's fault states the smallest displacement that is seen as one.
            far = float(rng.uniform(1.35, 2.2)) / difficulty**0.5
            x, y = turned(change.x * far, 0, float(rng.uniform(0, 360)))
            angle = change.angle * float(rng.uniform(1.25, 2.05)) * float(rng.choice([-1, 1])) / difficulty**0.5
            change = replace(change, x=x, y=y, angle=angle)
        return Defect(kind, change)
    return _DRAWN[kind](rng, difficulty, perfect)


def _place(rng: np.random.Generator, perfect: Surface, margin_mm: float) -> tuple[float, float]:
    """A place on the product, at least `margin_mm` from its outline where the product is large enough."""
    solid = (perfect.cover > 0.9) & (perfect.metal * (perfect.height > 0) < 2)
    inner = solid
    for _ in range(round(margin_mm / perfect.pitch)):
        inner = inner & np.roll(inner, 1, 0) & np.roll(inner, -1, 0) & np.roll(inner, 1, 1) & np.roll(inner, -1, 1)
    return _one_of(rng, inner if inner.any() else solid, perfect.pitch)


def _edge(rng: np.random.Generator, perfect: Surface) -> tuple[float, float]:
    """A place on the outline."""
    solid = perfect.cover > 0.5
    inner = solid & np.roll(solid, 1, 0) & np.roll(solid, -1, 0) & np.roll(solid, 1, 1) & np.roll(solid, -1, 1)
    return _one_of(rng, solid & ~inner, perfect.pitch)


def _one_of(rng: np.random.Generator, mask: np.ndarray, pitch: float) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    k = int(rng.integers(len(rows)))
    middle = (mask.shape[0] - 1) / 2
    return float((columns[k] - middle) * pitch), float((middle - rows[k]) * pitch)


def _colour_at(perfect: Surface, place: tuple[float, float]) -> np.ndarray:
    middle = (perfect.height.shape[0] - 1) / 2
    return perfect.albedo[round(middle - place[1] / perfect.pitch), round(middle + place[0] / perfect.pitch)]


def _unlike(rng: np.random.Generator, colour: np.ndarray, options, apart: float) -> tuple[float, float, float]:
    """One of the options that differ in tone from a colour by more than `apart`; failing that, the most different."""
    distances = [float(np.abs(np.sqrt(option) - np.sqrt(colour)).max()) for option in options]
    far = [option for option, distance in zip(options, distances, strict=True) if distance > apart]
    return tuple(far[int(rng.integers(len(far)))] if far else options[int(np.argmax(distances))])


def _common(rng: np.random.Generator, difficulty: float, low: float, high: float) -> dict:
    """Size in mm (between `low` and `high` at difficulty 1), strength, direction and seed."""
    return {
        "size_mm": float(rng.uniform(low, high)) / difficulty**0.6,
        "strength": float(rng.uniform(1.4, 2.1)) / difficulty**0.6,
        "angle": float(rng.uniform(0, 360)),
        "seed": int(rng.integers(2**31)),
    }


def _scratch(rng: np.random.Generator, difficulty: float, perfect: Surface) -> Defect:
    x, y = _place(rng, perfect, 1.0)
    return Defect("scratch", x=x, y=y, **_common(rng, difficulty, 10, 26))


def _stain(rng: np.random.Generator, difficulty: float, perfect: Surface) -> Defect:
    x, y = _place(rng, perfect, 1.0)
    colour = _unlike(rng, _colour_at(perfect, (x, y)), _STAINS, 0.25)
    return Defect("stain", x=x, y=y, colour=colour, **_common(rng, difficulty, 6, 14))


def _hole(rng: np.random.Generator, difficulty: float, perfect: Surface) -> Defect:
    x, y = _place(rng, perfect, 1.5)
    variant = "pit" if rng.random() < 0.6 else "through"
    return Defect("hole", variant=variant, x=x, y=y, **_common(rng, difficulty, 2.9, 5.5))


def _deformation(rng: np.random.Generator, difficulty: float, perfect: Surface) -> Defect:
    variant = str(rng.choice(["chip", "melt", "melt", "dent"]))
    x, y = _place(rng, perfect, 1.5) if variant == "dent" else _edge(rng, perfect)
    low, high = {"chip": (5.2, 9.5), "melt": (8.7, 15.6), "dent": (7.0, 13.8)}[variant]
    return Defect("deformation", variant=variant, x=x, y=y, **_common(rng, difficulty, low, high))


def _colour_error(rng: np.random.Generator, difficulty: float, perfect: Surface) -> Defect:
    x, y = _place(rng, perfect, 1.0)
    colour = _unlike(rng, _colour_at(perfect, (x, y)), [linear(name) for name in PLASTICS], 0.32 / difficulty**0.5)
    variant = "patch" if rng.random() < 0.6 else "band"
    return Defect("colour_error", variant=variant, x=x, y=y, colour=colour, **_common(rng, difficulty, 7, 15.6))


_DRAWN: dict[str, Callable[[np.random.Generator, float, Surface], Defect]] = {
    "scratch": _scratch,
    "stain": _stain,
    "hole": _hole,
    "deformation": _deformation,
    "colour_error": _colour_error,
}
