"""Digits, letters and pictograms as strokes and filled outlines, so that printing, embossing and engraving all work.

A glyph lives in a box one unit high, its baseline at y = 0; `marks` sets glyphs in a line and `marked` measures the
signed distance to them in mm.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets_tfds.mirad_mini.surface import Distance, Grid, local, polygon, polyline, union, windowed

Line = list[tuple[float, float]]


@dataclass(frozen=True)
class Glyph:
    """Strokes are drawn with a pen, fills are solid; `width` in units of the height."""

    width: float
    strokes: tuple[Line, ...] = ()
    fills: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A glyph in its place: centre and height in mm, turned counter-clockwise by `angle` degrees."""

    glyph: str
    centre: tuple[float, float]
    height: float
    angle: float = 0.0
    mirrored: bool = False


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> Line:
    steps = max(2, math.ceil(abs(end - start) / 15))
    angles = [math.radians(start + (end - start) * k / steps) for k in range(steps + 1)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def _turned(lines: Sequence[Line], width: float) -> tuple[Line, ...]:
    return tuple([(width - x, 1 - y) for x, y in line] for line in lines)


def _pen(width: float, *strokes: Line) -> Glyph:
    return Glyph(width, strokes=strokes)


def _solid(width: float, *fills: Line, strokes: tuple[Line, ...] = ()) -> Glyph:
    return Glyph(width, strokes=strokes, fills=fills)


_SIX = (_arc(0.3, 0.3, 0.3, 0.3, 0, 360), _arc(0.62, 0.3, 0.62, 0.7, 180, 105))

DIGITS = {
    "0": _pen(0.6, _arc(0.3, 0.5, 0.3, 0.5, 0, 360)),
    "1": _pen(0.5, [(0.06, 0.78), (0.3, 1), (0.3, 0)], [(0.06, 0), (0.54, 0)]),
    "2": _pen(0.6, [*_arc(0.3, 0.71, 0.29, 0.29, 165, -40), (0, 0), (0.6, 0)]),
    "3": _pen(0.58, _arc(0.28, 0.76, 0.25, 0.24, 150, -90), _arc(0.28, 0.27, 0.3, 0.27, 90, -150)),
    "4": _pen(0.64, [(0.46, 0), (0.46, 1), (0, 0.3), (0.64, 0.3)]),
    "5": _pen(0.6, [(0.54, 1), (0.1, 1), (0.07, 0.54), *_arc(0.28, 0.32, 0.31, 0.32, 125, -145)]),
    "6": _pen(0.6, *_SIX),
    "7": _pen(0.6, [(0, 1), (0.6, 1), (0.2, 0)]),
    "8": _pen(0.6, _arc(0.3, 0.76, 0.24, 0.24, 0, 360), _arc(0.3, 0.26, 0.3, 0.26, 0, 360)),
    "9": _pen(0.6, *_turned(_SIX, 0.6)),
}

LETTERS = {
    "A": _pen(0.68, [(0, 0), (0.34, 1), (0.68, 0)], [(0.12, 0.34), (0.56, 0.34)]),
    "B": _pen(
        0.6,
        [(0, 0), (0, 1), (0.3, 1), *_arc(0.3, 0.76, 0.24, 0.24, 90, -90), (0, 0.52)],
        [(0.3, 0.52), *_arc(0.32, 0.26, 0.28, 0.26, 90, -90), (0, 0)],
    ),
    "C": _pen(0.66, _arc(0.37, 0.5, 0.37, 0.5, 48, 312)),
    "D": _pen(0.62, [(0, 0), (0, 1), (0.2, 1), *_arc(0.2, 0.5, 0.42, 0.5, 90, -90), (0, 0)]),
    "E": _pen(0.54, [(0.54, 1), (0, 1), (0, 0), (0.54, 0)], [(0, 0.52), (0.44, 0.52)]),
    "F": _pen(0.54, [(0.54, 1), (0, 1), (0, 0)], [(0, 0.5), (0.44, 0.5)]),
    "G": _pen(0.7, [*_arc(0.37, 0.5, 0.37, 0.5, 48, 325), (0.68, 0.46), (0.42, 0.46)]),
    "H": _pen(0.62, [(0, 0), (0, 1)], [(0.62, 0), (0.62, 1)], [(0, 0.52), (0.62, 0.52)]),
    "J": _pen(0.5, [(0.15, 1), (0.48, 1), (0.48, 0.25), *_arc(0.24, 0.25, 0.24, 0.25, 0, -165)]),
    "K": _pen(0.62, [(0, 0), (0, 1)], [(0.58, 1), (0, 0.42)], [(0.2, 0.6), (0.62, 0)]),
    "L": _pen(0.52, [(0, 1), (0, 0), (0.52, 0)]),
    "M": _pen(0.78, [(0, 0), (0, 1), (0.39, 0.35), (0.78, 1), (0.78, 0)]),
    "N": _pen(0.64, [(0, 0), (0, 1), (0.64, 0), (0.64, 1)]),
    "P": _pen(0.58, [(0, 0), (0, 1), (0.3, 1), *_arc(0.3, 0.74, 0.28, 0.26, 90, -90), (0, 0.48)]),
    "Q": _pen(0.76, _arc(0.37, 0.5, 0.37, 0.5, 0, 360), [(0.46, 0.26), (0.76, -0.04)]),
    "R": _pen(
        0.6, [(0, 0), (0, 1), (0.3, 1), *_arc(0.3, 0.74, 0.28, 0.26, 90, -90), (0, 0.48)], [(0.28, 0.48), (0.6, 0)]
    ),
    "S": _pen(0.6, [*_arc(0.3, 0.755, 0.27, 0.245, 35, 270), *_arc(0.3, 0.255, 0.3, 0.255, 90, -145)]),
    "T": _pen(0.62, [(0, 1), (0.62, 1)], [(0.31, 1), (0.31, 0)]),
    "U": _pen(0.62, [(0, 1), (0, 0.31), *_arc(0.31, 0.31, 0.31, 0.31, 180, 360), (0.62, 1)]),
    "V": _pen(0.66, [(0, 1), (0.33, 0), (0.66, 1)]),
    "W": _pen(0.9, [(0, 1), (0.22, 0), (0.45, 0.72), (0.68, 0), (0.9, 1)]),
    "Y": _pen(0.66, [(0, 1), (0.33, 0.48), (0.66, 1)], [(0.33, 0.48), (0.33, 0)]),
    "Z": _pen(0.6, [(0, 1), (0.6, 1), (0, 0), (0.6, 0)]),
}


def _heart() -> Line:
    turns = [2 * math.pi * k / 28 for k in range(28)]
    return [
        (
            0.5 + 0.5 * math.sin(t) ** 3,
            0.57 + (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 29,
        )
        for t in turns
    ]


def _star(points: int, inner: float) -> Line:
    corners = []
    for k in range(2 * points):
        radius, a = (0.52 if k % 2 == 0 else 0.52 * inner), math.pi * (0.5 + k / points)
        corners.append((0.5 + radius * math.cos(a), 0.48 + radius * math.sin(a)))
    return corners


def _drop() -> Line:
    return [(0.33, 1.02), *_arc(0.33, 0.33, 0.33, 0.33, 30, -210)]


PICTOGRAMS = {
    "heart": _solid(1.0, _heart()),
    "star": _solid(1.0, _star(5, 0.42)),
    "bolt": _solid(0.62, [(0.36, 1), (0, 0.42), (0.26, 0.42), (0.14, 0), (0.62, 0.6), (0.34, 0.6), (0.58, 1)]),
    "moon": _solid(0.8, [*_arc(0.5, 0.5, 0.5, 0.5, 70, 290), *_arc(0.72, 0.5, 0.4, 0.42, 240, 120)]),
    "drop": _solid(0.66, _drop()),
    "house": _solid(1.0, [(0.5, 1), (0, 0.52), (0.14, 0.52), (0.14, 0), (0.4, 0), (0.4, 0.34), (0.6, 0.34), (0.6, 0),
                          (0.86, 0), (0.86, 0.8), (0.72, 0.8)]),
    "tree": _solid(0.8, [(0.4, 1), (0.1, 0.62), (0.26, 0.62), (0, 0.2), (0.33, 0.2), (0.33, 0), (0.47, 0), (0.47, 0.2),
                         (0.8, 0.2), (0.54, 0.62), (0.7, 0.62)]),
    "arrow": _solid(0.9, [(0, 0.64), (0.48, 0.64), (0.48, 0.92), (0.9, 0.5), (0.48, 0.08), (0.48, 0.36), (0, 0.36)]),
    "flag": _solid(0.8, [(0.08, 1), (0.8, 0.74), (0.08, 0.46)], strokes=([(0.06, 0), (0.06, 1)],)),
    "fish": _solid(1.1, [*_arc(0.44, 0.5, 0.44, 0.34, 35, 325), (1.1, 0.12), (1.0, 0.5), (1.1, 0.88)]),
    "key": _solid(0.9, [(0.4, 0.56), (0.9, 0.56), (0.9, 0.22), (0.78, 0.22), (0.78, 0.44), (0.68, 0.44), (0.68, 0.28),
                        (0.56, 0.28), (0.56, 0.44), (0.4, 0.44)], strokes=(_arc(0.2, 0.5, 0.18, 0.2, 0, 360),)),
    "note": _solid(0.7, _arc(0.2, 0.16, 0.2, 0.15, 0, 340), strokes=([(0.36, 0.16), (0.36, 1), (0.66, 0.72)],)),
    "crown": _solid(1.0, [(0, 0.08), (0, 0.82), (0.27, 0.48), (0.5, 0.98), (0.73, 0.48), (1, 0.82), (1, 0.08)]),
    "leaf": _solid(0.6, [*_arc(0.033, 0.5, 0.567, 0.567, -61, 61), *_arc(0.567, 0.5, 0.567, 0.567, 119, 241)]),
    "anchor": _solid(
        0.8,
        strokes=(
            [(0.4, 0.02), (0.4, 0.76)], _arc(0.4, 0.88, 0.11, 0.12, 0, 360), [(0.18, 0.62), (0.62, 0.62)],
            _arc(0.4, 0.38, 0.38, 0.36, 195, 345),
        ),
    ),
    "clover": _solid(0.9, *(_arc(0.45 + 0.24 * math.cos(a), 0.62 + 0.24 * math.sin(a), 0.22, 0.22, 0, 340)
                            for a in (math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6)),
                     strokes=([(0.45, 0.6), (0.58, 0)],)),
}  # fmt: skip

GLYPHS = {**DIGITS, **LETTERS, **PICTOGRAMS, "dot": _solid(1.0, _arc(0.5, 0.5, 0.5, 0.5, 0, 340))}


def spelled(symbol: str) -> tuple[str, ...]:
    """The glyphs of a symbol: a pictogram's name is one glyph, everything else is spelled character by character."""
    return (symbol,) if symbol in GLYPHS else tuple(symbol)


def marks(
    symbol: str, centre: tuple[float, float], height: float, widest: float, angle: float = 0.0, spacing: float = 0.26
) -> tuple[Mark, ...]:
    """Sets a symbol's glyphs in a line about `centre`, at most `height` mm high and `widest` mm wide."""
    names = spelled(symbol)
    widths = [GLYPHS[name].width for name in names]
    total = sum(widths) + spacing * (len(names) - 1)
    height = min(height, widest / total)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    placed, at = [], -total / 2
    for name, width in zip(names, widths, strict=True):
        along = (at + width / 2) * height
        placed.append(Mark(name, (centre[0] + c * along, centre[1] + s * along), height, angle))
        at += width + spacing
    return tuple(placed)


def marked(g: Grid, placed: Sequence[Mark], weight: float = 0.17, rounding: float = 0.03) -> Distance:
    """Signed distance in mm to marks; the pen's width `weight` and the corners' `rounding` are parts of the height."""
    distances = [_one(g, mark, weight, rounding) for mark in placed]
    return union(*distances) if distances else np.full((g.size, g.size), 99, np.float32)


def _one(g: Grid, mark: Mark, weight: float, rounding: float) -> Distance:
    glyph = GLYPHS[mark.glyph]

    def shape(window: Grid) -> np.ndarray:
        x, y = local(window, mark.centre, mark.angle)
        x, y = x / np.float32(-mark.height if mark.mirrored else mark.height), y / np.float32(mark.height)
        x, y = x + np.float32(glyph.width / 2), y + np.float32(0.5)
        parts = [polyline(x, y, line) - np.float32(weight / 2) for line in glyph.strokes]
        parts += [polygon(x, y, outline, rounding) for outline in glyph.fills]
        return union(*parts) * np.float32(mark.height)

    return windowed(g, mark.centre, mark.height * math.hypot(0.55, 0.6 * max(glyph.width, 0.6)), shape)
