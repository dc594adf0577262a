"""Textures drawn by formula: clouds, wood, cloth, stone and the like, for defects that no camera has seen.

Each kind is a function (rng, size) -> colours in 0..1; what varies between two of a kind (scale, direction, regularity,
relief, palette) varies over about the range that the photographs of DTD (Cimpoi et al. 2014) span. Noise after Perlin
("An Image Synthesizer", 1985), cells after Worley ("A Cellular Texture Basis Function", 1996).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from jaxad.imaging.noise import fractal, speckle

Field = Float[np.ndarray, "h w"]
Colours = Float[np.ndarray, "h w 3"]
Palette = Float[np.ndarray, "n 3"]
Rng = np.random.Generator


def draw_texture(seed: int, index: int, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Texture `index` of the set `seed`, sRGB: the same for the same three numbers."""
    rng = np.random.default_rng((seed, index))
    name = list(KINDS)[rng.integers(len(KINDS))]
    return draw_kind(name, rng, size)


def draw_kind(name: str, rng: Rng, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A texture of one of `KINDS`, as a camera shows it: unevenly lit, of any contrast, a little noisy."""
    colours = np.clip(KINDS[name](rng, size), 0, 1)
    if rng.random() < 0.12:
        colours = np.repeat(colours.mean(2, keepdims=True), 3, axis=2)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    light = 1 + rng.normal(0, 0.12) * axis[:, None] + rng.normal(0, 0.12) * axis
    colours = colours ** math.exp(rng.normal(0, 0.25)) * light[..., None]
    colours += rng.standard_normal((size, size, 1), dtype=np.float32) * rng.uniform(0.003, 0.02)
    return np.round(np.clip(colours, 0, 1) * 255).astype(np.uint8)


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _one_of(rng: Rng, values: Sequence[Any]) -> Any:
    """One of the values; unlike `rng.choice` it leaves a float a Python float, which does not widen float32."""
    return values[int(rng.integers(len(values)))]


def _palette(rng: Rng, number: int | np.integer, mood: str = "") -> Palette:
    """Colours that go together: shades of a hue, neighbours, opposites, greys, earth, or anything."""
    moods = ("shades", "neighbours", "opposites", "grey", "earth", "any")
    mood = mood or str(rng.choice(moods, p=(0.25, 0.2, 0.15, 0.15, 0.15, 0.1)))
    hue = {
        "shades": rng.random() + rng.normal(0, 0.01, number),
        "neighbours": rng.random() + rng.uniform(-0.1, 0.1, number),
        "opposites": rng.random() + 0.5 * rng.integers(0, 2, number) + rng.normal(0, 0.03, number),
        "grey": rng.random() + rng.normal(0, 0.05, number),
        "earth": rng.normal(0.08, 0.03, number),
        "any": rng.random(number),
    }[mood]
    high = {"grey": 0.12, "earth": 0.7, "shades": 0.8}.get(mood, 0.9)
    saturation = rng.uniform(0, high) * rng.uniform(0.5, 1, number)
    middle, spread = rng.uniform(0.4, 0.75), rng.uniform(0.15, 0.85)
    value = np.clip(middle + spread * rng.permutation(np.linspace(-0.5, 0.5, number)), 0.06, 1)
    if rng.random() < 0.6:
        value = np.sort(value)
    # HSV to RGB by Smith's formula in its closed form
    sector = (np.array([5, 3, 1]) + 6 * hue[:, None]) % 6
    chroma = (value * saturation)[:, None]
    return (value[:, None] - chroma * np.clip(np.minimum(sector, 4 - sector), 0, 1)).astype(np.float32)


def _ramp(value: Field, palette: Palette) -> Colours:
    """The palette's colours in turn as `value` goes from 0 to 1, with mixtures in between."""
    stops = np.linspace(0, 1, len(palette))
    table = np.stack([np.interp(np.linspace(0, 1, 512), stops, band) for band in palette.T], 1).astype(np.float32)
    return table[np.clip(value * 511, 0, 511).astype(np.int32)]


def _even(field: Field) -> Field:
    """A field of mean 0 and deviation 1, mapped to 0..1 so that it is about evenly distributed."""
    return 1 / (1 + np.exp((-1.702) * field))


def _step(value: Field, width: float) -> Field:
    """0 below -width/2, 1 above, linear between: an anti-aliased edge where `width` is what a pixel spans."""
    return np.clip(value / float(width) + 0.5, 0, 1)


def _mix(below: Colours | Palette, above: Colours | Palette, amount: Field) -> Colours:
    return below + (above - below) * amount[..., None]


def _soft(rng: Rng, size: int, knots: int) -> Field:
    """A smooth random field, about -1..1. Pillow's resize takes one thread; a matrix product would take them all."""
    values = rng.standard_normal((knots + 2, knots + 2), dtype=np.float32) * np.float32(0.7)
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))


def _plane(
    rng: Rng, size: int, cells: float, warp: float = 0.0, turn: bool = True
) -> tuple[Field, Field, float, float]:
    """Coordinates x, y over `cells` units, turned about the middle and warped by about `warp` units.

    Returns:
      x, y, what a pixel spans, the direction of x in degrees counter-clockwise.
    """
    angle = _one_of(rng, (0, 0, 90, rng.uniform(0, 360), rng.uniform(0, 360))) if turn else 0
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    axis = (np.arange(size, dtype=np.float32) - size / 2) * (cells / size)
    offset = rng.uniform(20, 40, 2).astype(np.float32)
    x = cosine * axis - sine * axis[:, None] + offset[0]
    y = sine * axis + cosine * axis[:, None] + offset[1]
    if warp:
        knots = int(rng.integers(2, 6))
        x = x + warp * (_soft(rng, size, knots) + 0.4 * _soft(rng, size, 2 * knots))
        y = y + warp * (_soft(rng, size, knots) + 0.4 * _soft(rng, size, 2 * knots))
    return x, y, cells / size, angle


def _cells(
    rng: Rng, x: Field, y: Field, jitter: float, staggered: bool = False
) -> tuple[Field, Field, Int[np.ndarray, "h w"], Field, Field]:
    """Worley's cells: one point per unit square, moved by up to jitter / 2; `staggered` moves every second row by 0.5.

    Returns:
      Distance to the nearest point, to the second nearest, the number of the nearest (0..1023), the vector to it.
    """
    moves = (jitter * rng.uniform(-0.5, 0.5, (2, 1024)) + 0.5).astype(np.float32)
    row = np.floor(y)
    first = second = np.full(x.shape, np.inf, np.float32)
    number, nearest = np.zeros(x.shape, np.int32), (x, y)
    for down in (-1, 0, 1):
        shift = ((row + down) % 2) * 0.5 if staggered else 0.0
        column = np.floor(x - shift)
        for right in (-1, 0, 1):
            cell = ((column + right).astype(np.int32) & 31) + (((row + down).astype(np.int32) & 31) << 5)
            dx, dy = column - x + (shift + right) + moves[0].take(cell), row - y + down + moves[1].take(cell)
            distance = dx * dx + dy * dy
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            first = np.where(nearer, distance, first)
            number = np.where(nearer, cell, number)
            nearest = (np.where(nearer, dx, nearest[0]), np.where(nearer, dy, nearest[1]))
    return np.sqrt(first), np.sqrt(second), number, *nearest


def _lit(rng: Rng, colours: Colours, height: Field, depth: float) -> Colours:
    """The colours on a relief, lit from one side; `depth` is the change of brightness for a slope of 1 per pixel."""
    angle = rng.uniform(0, 2 * math.pi)
    slope = np.zeros_like(height)
    slope[:, 1:-1] = math.cos(angle) * (height[:, :-2] - height[:, 2:])
    slope[1:-1] += math.sin(angle) * (height[:-2] - height[2:])
    slope[:, (0, -1)], slope[(0, -1), :] = slope[:, (1, -2)], slope[(1, -2), :]
    return colours * np.clip(1 + depth * slope, 0.15, 2.2)[..., None]


def _bands(rng: Rng, position: Field, pixel: float, palette: Palette) -> Colours:
    """Bands of random widths in the palette's colours that repeat with every unit of `position`."""
    edges = np.sort(rng.random(len(palette) - 1)) if rng.random() < 0.6 else np.arange(1, len(palette)) / len(palette)
    band = np.searchsorted(edges, np.arange(512) / 512, "right")
    soft = max(pixel, 1 / 512) if rng.random() < 0.7 else rng.uniform(0.05, 0.4)
    width = max(int(512 * min(soft, 0.5)), 1)
    kernel = np.fft.rfft(np.bincount(np.arange(width) - width // 2 & 511, minlength=512) / width)
    table = np.fft.irfft(np.fft.rfft(palette[band], axis=0) * kernel[:, None], n=512, axis=0).astype(np.float32)
    return table[(position * 512).astype(np.int32) & 511]


def _strokes(
    rng: Rng, size: int, ground: Palette, palette: Palette, paths: list[np.ndarray], widths: np.ndarray
) -> Colours:
    """Lines through the points of each path (in 0..1) in colours of the palette, on a ground of one colour."""
    image = Image.new("RGB", (2 * size, 2 * size), tuple((ground * 255).astype(int)))
    draw = ImageDraw.Draw(image)
    for path, width in zip(paths, widths, strict=True):
        colour = tuple((palette[rng.integers(len(palette))] * 255).astype(int))
        draw.line([tuple(p) for p in path * 2 * size], colour, max(int(2 * size * width), 1), joint="curve")
    return np.asarray(image.reduce(2), np.float32) / 255


def _clouds(rng: Rng, size: int) -> Colours:
    field = fractal(
        rng, (size, size), exponent=rng.uniform(1.4, 3.4), stretch=_log_uniform(rng, 1, 4), angle=rng.uniform(0, 180)
    )
    return _ramp(_even(field * rng.uniform(0.7, 1.6)), _palette(rng, rng.integers(2, 6)))


def _smears(rng: Rng, size: int) -> Colours:
    angle, stretch = rng.uniform(0, 180), _log_uniform(rng, 3, 12)
    fields = [fractal(rng, (size, size), exponent=2.2, stretch=stretch, angle=angle) for _ in range(2)]
    colours = _ramp(_even(fields[0]), _palette(rng, 2))
    return _mix(colours, _palette(rng, 1)[0], _step(fields[1] - rng.uniform(-0.5, 1), rng.uniform(0.1, 1)))


def _marble(rng: Rng, size: int) -> Colours:
    x, _, _, _ = _plane(rng, size, _log_uniform(rng, 1, 5))
    bent = fractal(
        rng, (size, size), exponent=rng.uniform(3.2, 4), stretch=_log_uniform(rng, 1, 3), angle=rng.uniform(0, 180)
    )
    wave = np.sin(math.pi * x + rng.uniform(1, 3) * bent)
    veins = (1 - np.abs(wave)) ** _log_uniform(rng, 1.5, 8)
    ground = _even(fractal(rng, (size, size), exponent=2.6))
    palette = _palette(rng, 3)
    return _mix(_mix(palette[2], palette[1], ground * 0.7), palette[0], veins)


def _wood(rng: Rng, size: int) -> Colours:
    x, y, pixel, angle = _plane(rng, size, _log_uniform(rng, 3, 14))
    rings = np.hypot(x - rng.uniform(22, 38), (y - 30) * rng.uniform(0.05, 0.35))
    bent = fractal(rng, (size, size), exponent=3.4, stretch=_log_uniform(rng, 2, 6), angle=angle + 90)
    growth = (rings + rng.uniform(0.1, 0.6) * bent) % 1
    late = min(max(rng.uniform(0.05, 0.3), 2 * pixel), 0.5)  # late wood ends in a short step
    tone = np.minimum(growth / (1 - late), (1 - growth) / late) ** (rng.uniform(0.8, 2.5))
    fibres = fractal(rng, (size, size), exponent=0.8, stretch=30, angle=angle + 90)
    colours = _ramp(tone, _palette(rng, 3, "earth" if rng.random() < 0.8 else ""))
    return colours * (1 + rng.uniform(0.03, 0.12) * fibres)[..., None]


def _stripes(rng: Rng, size: int) -> Colours:
    cells = _log_uniform(rng, 2, 20)
    x, _, pixel, _ = _plane(rng, size, cells, warp=_one_of(rng, (0, 0.1, rng.uniform(0, 0.12) * cells)))
    return _cloth_grain(rng, _bands(rng, x, pixel, _palette(rng, rng.integers(2, 6))))


def _zigzags(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 3, 14), warp=_one_of(rng, (0, 0.15)))
    period, height = rng.uniform(0.5, 2), rng.uniform(0.3, 1.2)
    wave = np.abs((y / period) % 2 - 1) if rng.random() < 0.6 else np.sin(math.pi * y / period) * 0.5
    return _cloth_grain(rng, _bands(rng, x + height * wave, 2 * pixel, _palette(rng, rng.integers(2, 5))))


def _swirls(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 3, 12), warp=rng.uniform(0, 0.4))
    dx, dy = x - rng.uniform(29, 31), y - rng.uniform(29, 31)
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx) / (2 * math.pi)
    arms = int(rng.integers(-3, 4))  # none: rings
    position = radius * rng.uniform(0.5, 1.5) + arms * angle + 8
    return _bands(rng, position, pixel, _palette(rng, rng.integers(2, 5)))


def _strata(rng: Rng, size: int) -> Colours:
    x, _, pixel, angle = _plane(rng, size, _log_uniform(rng, 0.6, 3))
    rough = fractal(rng, (size, size), exponent=2.6, stretch=_log_uniform(rng, 2, 6), angle=angle + 90)
    position = x + rng.uniform(0.02, 0.12) * rough
    palette = _palette(rng, rng.integers(8, 20), _one_of(rng, ("shades", "neighbours", "earth")))
    colours = _bands(rng, position, pixel, palette)
    return _lit(rng, colours, fractal(rng, (size, size), exponent=1.8), rng.uniform(0.05, 0.3))


def _checks(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 3, 24), warp=_one_of(rng, (0, 0.1, 0.4)))
    palette = _palette(rng, 2)
    board = _step(np.sin(math.pi * x) * np.sin(math.pi * y), math.pi * pixel)
    return _cloth_grain(rng, _mix(palette[0], palette[1], board))


def _tartan(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 1.5, 8), warp=_one_of(rng, (0, 0.03)))
    palette = _palette(rng, rng.integers(3, 7))
    state = rng.bit_generator.state
    warp = _bands(rng, x, pixel, palette)
    rng.bit_generator.state = state  # the same bands across
    weft = _bands(rng, y, pixel, palette)
    threads = _log_uniform(rng, 6, 30)
    twill = ((x + y) * threads) % 1 if pixel * threads < 0.5 else 0.5 + 0 * x
    return _mix(warp, weft, _step(twill - 0.5, 0.5))


def _woven(rng: Rng, size: int) -> Colours:
    x, y, _, _ = _plane(rng, size, _log_uniform(rng, 8, 40), warp=_one_of(rng, (0, 0.2, 0.5)))
    column, row = np.floor(x), np.floor(y)
    u, v = 2 * (x - column) - 1, 2 * (y - row) - 1
    repeat, slant = int(_one_of(rng, (2, 3, 4))), int(_one_of(rng, (-1, 1)))  # 2: plain weave; more: twill
    warp_above = (column + slant * row) % repeat < max(repeat // 2, 1)
    fill = rng.uniform(0.75, 1.0)
    warp, weft = np.sqrt(np.clip(1 - (u / fill) ** 2, 0, 1)), np.sqrt(np.clip(1 - (v / fill) ** 2, 0, 1))
    top, below = np.where(warp_above, warp, weft), np.where(warp_above, weft, warp)
    bow = 1 - 0.5 * np.where(warp_above, v, u) ** 2  # a thread dives where it is crossed next
    warp_seen = warp_above == (top > 0.05)
    height = np.where(top > 0.05, top * bow, below * 0.5)
    palette = _palette(rng, 4)
    kinds = rng.integers(0, 4, 64) if rng.random() < 0.5 else np.repeat(rng.permutation(4)[:2], 32)
    threads = np.where(warp_seen, column.astype(np.int32) & 31, 32 + (row.astype(np.int32) & 31))
    rough = 1 + 0.06 * fractal(rng, (size, size), exponent=1)
    return palette[kinds[threads]] * ((0.25 + 0.75 * height) * rough)[..., None]


def _knitted(rng: Rng, size: int) -> Colours:
    x, y, _, _ = _plane(rng, size, _log_uniform(rng, 5, 22), warp=_one_of(rng, (0.05, 0.3)))
    column = np.floor(x)
    u = (x - column) * 2 - 1
    slant = y * rng.uniform(1, 1.6) + np.abs(u) * 0.8
    v = (slant % 1) * 2 - 1
    height = np.sqrt(np.clip(1 - np.abs(v) ** 2, 0, 1)) * np.sqrt(np.clip(np.sin(math.pi * np.abs(u)), 0, 1))
    palette = _palette(rng, 3)
    rows = np.floor(slant).astype(np.int32)
    pattern = rng.integers(0, 2, 16)[rows & 15] if rng.random() < 0.5 else np.zeros_like(rows)
    fibres = fractal(rng, (size, size), exponent=0.7)
    return palette[1 + pattern] * (0.3 + 0.7 * height + 0.06 * fibres)[..., None]


def _cloth_grain(rng: Rng, colours: Colours) -> Colours:
    """The colours with grain: two prints in three are on something rough."""
    if rng.random() < 0.33:
        return colours
    size = len(colours)
    rough = fractal(rng, (size, size), exponent=rng.uniform(0.3, 2.2))
    return colours * (1 + rng.uniform(0.02, 0.12) * rough)[..., None]


def _dots(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 3, 20), warp=_one_of(rng, (0, 0.3)))
    jitter = _one_of(rng, (0, rng.uniform(0, 0.7)))
    distance, _, number, _, _ = _cells(rng, x, y, jitter, staggered=rng.random() < 0.5)
    radii = rng.uniform(0.12, 0.42) * (1 + _one_of(rng, (0, 0.4)) * rng.uniform(-1, 1, 1024))
    palette = _palette(rng, rng.integers(2, 6))
    colours = palette[1 + rng.integers(0, len(palette) - 1, 1024)[number]]
    dots = _step(radii.astype(np.float32)[number] - distance, max(pixel, _one_of(rng, (0, 0.1))))
    return _cloth_grain(rng, _mix(palette[0], colours, dots))


def _mosaic(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 4, 26), warp=_one_of(rng, (0, 0.5)))
    honeycomb = rng.random() < 0.35
    jitter, squeeze = (0.0, 1.15) if honeycomb else (rng.uniform(0.5, 1), 1.0)
    first, second, number, _, _ = _cells(rng, x, y * squeeze, jitter, honeycomb)
    palette = _palette(rng, rng.integers(3, 8))
    joint = _step(second - first - rng.uniform(0, 0.2), 2 * pixel)
    tones = palette[1 + rng.integers(0, len(palette) - 1, 1024)[number]]
    tones = tones * rng.normal(1, rng.uniform(0, 0.15), 1024).astype(np.float32)[number][..., None]
    relief = np.clip((second - first) * 4, 0, 1) + 0.1 * fractal(rng, (size, size), exponent=2)
    return _lit(rng, _mix(palette[0], tones, joint), relief, rng.uniform(0, 0.8) * 0.1 / pixel)


def _cracks(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 2, 12), warp=rng.uniform(0.2, 0.8))
    rough = fractal(rng, (size, size), exponent=2.2)
    first, second, number, _, _ = _cells(rng, x + 0.04 * rough, y, 1.0)
    width = rng.uniform(0.02, 0.12) * np.clip(1 + rng.uniform(0, 1) * fractal(rng, (size, size), exponent=3), 0.1, 3)
    palette = _palette(rng, 3, _one_of(rng, ("", "earth", "grey")))
    colours = _mix(palette[1], palette[2], _even(rough))
    colours = colours * rng.normal(1, 0.08, 1024).astype(np.float32)[number][..., None]
    flakes = _step(second - first - width, max(2 * pixel, 0.03))
    return _lit(rng, _mix(palette[0] * 0.5, colours, flakes), 2 * flakes + 0.3 * rough, rng.uniform(0.05, 0.3))


def _crystals(rng: Rng, size: int) -> Colours:
    x, y, _, _ = _plane(rng, size, _log_uniform(rng, 4, 18))
    _, _, number, dx, dy = _cells(rng, x, y * rng.uniform(0.4, 1), 1.0)
    tilt = rng.normal(0, rng.uniform(0.1, 0.5), (3, 1024)).astype(np.float32)
    tone = 0.5 + tilt[0][number] * dx + tilt[1][number] * dy + 0.6 * tilt[2][number]
    return _ramp(tone, _palette(rng, rng.integers(2, 5)))


def _bubbles(rng: Rng, size: int) -> Colours:
    """Domes, or pits and pores where the light comes from the other side and the ground is dark."""
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 3, 20), warp=_one_of(rng, (0, 0.4)))
    distance, _, number, _, _ = _cells(rng, x, y, rng.uniform(0.2, 0.9))
    radius = (rng.uniform(0.3, 0.6) * rng.uniform(0.5, 1, 1024)).astype(np.float32)[number]
    dome = np.clip(1 - (distance / radius) ** 2, 0, 1)
    pits = rng.random() < 0.5
    palette = _palette(rng, 3)
    ground = _mix(palette[0], palette[1], _even(fractal(rng, (size, size), exponent=2)))
    if pits:
        colours = ground * (1 - rng.uniform(0.2, 0.8) * dome)[..., None]
    else:
        colours = _mix(ground, palette[2], _step(radius - distance, 2 * pixel))
    return _lit(rng, colours, -dome if pits else dome, rng.uniform(0.3, 1) * 0.12 / pixel)


def _scales(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 4, 20), warp=_one_of(rng, (0, 0.2, 0.5)))
    y = y * rng.uniform(1.2, 2)
    colours = np.zeros((size, size, 3), np.float32)
    palette, tones = _palette(rng, rng.integers(2, 4)), rng.integers(0, 64, 1024)
    dark = rng.uniform(0.3, 0.7)
    for above in (2, 1, 0):  # a row covers those behind it
        row = np.floor(y) - above
        shifted = x - 0.5 * (row % 2)
        column = np.floor(shifted)
        distance = np.hypot(shifted - column - 0.5, (y - row - 1) * 0.5)
        inside = _step(0.56 - distance, pixel)
        number = ((column.astype(np.int32) & 31) + ((row.astype(np.int32) & 31) << 5)) & 1023
        shade = 1 - dark * np.clip(distance / 0.56, 0, 1) ** 3
        colours = _mix(colours, palette[tones[number] % len(palette)] * shade[..., None], inside)
    return colours


def _bricks(rng: Rng, size: int) -> Colours:
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 3, 14), warp=_one_of(rng, (0, 0.08)), turn=rng.random() < 0.4)
    aspect = _one_of(rng, (1, 2, 3))
    row = np.floor(y)
    x = x / aspect + _one_of(rng, (0, 0.5, 0.33)) * row
    column = np.floor(x)
    u, v = (0.5 - np.abs(x - column - 0.5)) * aspect, 0.5 - np.abs(y - row - 0.5)
    rough = fractal(rng, (size, size), exponent=1.8)
    gap = np.minimum(u, v) - rng.uniform(0.02, 0.12) + _one_of(rng, (0, 0.02)) * rough
    palette = _palette(rng, 5, _one_of(rng, ("", "earth")))
    number = ((column.astype(np.int32) & 31) + ((row.astype(np.int32) & 31) << 5)) & 1023
    tones = palette[1 + rng.integers(0, 4, 1024)[number]] * (1 + rng.uniform(0.02, 0.15) * rough)[..., None]
    stone = _step(gap, max(pixel, 0.03))
    return _lit(rng, _mix(palette[0], tones, stone), stone + 0.1 * rough, rng.uniform(0.1, 0.5))


def _perforated(rng: Rng, size: int) -> Colours:
    """Sheets with round holes, and meshes of wire with square ones."""
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 4, 24), warp=_one_of(rng, (0, 0.25)))
    if rng.random() < 0.5:
        distance = _cells(rng, x, y, 0, staggered=rng.random() < 0.6)[0]
    else:
        distance = np.maximum(np.abs(x % 1 - 0.5), np.abs(y % 1 - 0.5))
    sheet = _step(distance - rng.uniform(0.22, 0.42), pixel)
    palette = _palette(rng, 3, _one_of(rng, ("", "grey")))
    wear = _even(fractal(rng, (size, size), exponent=2.4, stretch=_log_uniform(rng, 1, 6)))
    colours = _mix(palette[0] * 0.4, _mix(palette[1], palette[2], wear), sheet)
    return _lit(rng, colours, sheet, rng.uniform(0.2, 0.6))


def _brushed(rng: Rng, size: int) -> Colours:
    angle = _one_of(rng, (0, 90, rng.uniform(0, 180)))
    lines = fractal(rng, (size, size), exponent=rng.uniform(0.3, 1), stretch=_log_uniform(rng, 15, 80), angle=angle)
    across = _plane(rng, size, _log_uniform(rng, 0.5, 2))[0]
    shine = 0.5 + 0.35 * np.sin(math.pi * across) + rng.uniform(0.04, 0.2) * lines
    return _ramp(shine, _palette(rng, 3, "grey" if rng.random() < 0.6 else "shades"))


def _wrinkles(rng: Rng, size: int) -> Colours:
    knots = int(rng.integers(2, 10))
    height = np.zeros((size, size), np.float32)
    for octave in range(3):
        height -= np.abs(_soft(rng, size, knots << octave)) * (0.5**octave)
    palette = _palette(rng, 2, _one_of(rng, ("shades", "neighbours", "grey")))
    return _lit(rng, _mix(palette[0], palette[1], _even(height + 1)), height, rng.uniform(0.8, 3.5) * size / 256)


def _scribbles(rng: Rng, size: int) -> Colours:
    number = int(_log_uniform(rng, 6, 40))
    curl = np.cumsum(rng.normal(0, rng.uniform(0.02, 0.25), (number, 60)), 1) + rng.normal(0, 0.1, (number, 1))
    turns = np.cumsum(np.tanh(curl), 1) * rng.uniform(0.1, 0.4) + rng.uniform(0, 7, (number, 1))
    paths = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 2) * rng.uniform(0.008, 0.025), 1) + rng.random(
        (number, 1, 2)
    )
    palette = _palette(rng, rng.integers(2, 7))
    widths = np.full(number, _log_uniform(rng, 0.003, 0.03)) * np.exp(rng.normal(0, 0.3, number))
    return _cloth_grain(rng, _strokes(rng, size, palette[0], palette[1:], list(paths), widths))


def _fibres(rng: Rng, size: int) -> Colours:
    number = int(_log_uniform(rng, 150, 700))
    angle = rng.uniform(0, math.pi) + rng.normal(0, _log_uniform(rng, 0.05, 2), (number, 1))
    bent = angle + rng.normal(0, rng.uniform(0.05, 0.5), (number, 1)) * np.linspace(-1, 1, 6)
    steps = np.stack([np.cos(bent), np.sin(bent)], 2) * rng.uniform(0.03, 0.15)
    paths = np.cumsum(steps, 1) + rng.uniform(-0.3, 1.2, (number, 1, 2))
    palette = _palette(rng, rng.integers(4, 9), _one_of(rng, ("", "shades", "earth")))
    return _strokes(
        rng, size, palette[0] * 0.6, palette[1:], list(paths), np.full(number, _log_uniform(rng, 0.003, 0.015))
    )


def _granite(rng: Rng, size: int) -> Colours:
    palette = _palette(rng, rng.integers(3, 6))
    colours = _mix(palette[0], palette[1], _even(fractal(rng, (size, size), exponent=2)) * 0.6)
    for colour in palette[1:]:
        radius = _log_uniform(rng, 0.8, 4) * size / 256
        specks = speckle(rng, (size, size), density=rng.uniform(0.03, 0.3) / radius**2, radius=radius)
        colours = _mix(colours, colour, _step(specks - rng.uniform(0.8, 2), 0.4))
    return colours


def _rust(rng: Rng, size: int) -> Colours:
    """Patches that eat into paint or metal, brighter at their rims, sometimes running down."""
    patches = fractal(rng, (size, size), exponent=rng.uniform(1.8, 2.8))
    runs = fractal(rng, (size, size), exponent=2, stretch=_log_uniform(rng, 4, 15), angle=90)
    depth = patches + rng.uniform(0, 0.7) * runs - rng.uniform(-0.7, 0.8)
    paint = _palette(rng, 1)[0] * (1 + 0.05 * runs)[..., None]
    rust = np.array([[0.75, 0.45, 0.22], [0.55, 0.27, 0.12], [0.32, 0.16, 0.1], [0.2, 0.11, 0.08]], np.float32)
    rust = rust * rng.normal(1, 0.12, 3).astype(np.float32)
    grain = fractal(rng, (size, size), exponent=1.2)
    eaten = _ramp(np.clip(depth * 0.5 + 0.12 * grain, 0, 1), rust)
    return _lit(rng, _mix(paint, eaten, _step(depth, 0.15)), np.clip(-depth, -0.3, 0.1) + 0.1 * grain, 0.5)


def _ornaments(rng: Rng, size: int) -> Colours:
    """Waves in three to seven directions: lace, quasicrystals, wallpaper."""
    x, y, pixel, _ = _plane(rng, size, _log_uniform(rng, 4, 18), warp=_one_of(rng, (0, 0.15)))
    directions = int(rng.integers(3, 8))
    angles = np.arange(directions) * math.pi / directions
    phases = rng.uniform(0, 6.28, directions) * _one_of(rng, (0, 1))
    total = np.zeros_like(x)
    for angle, phase in zip(angles.tolist(), phases.tolist(), strict=True):
        total += np.cos(2 * math.pi * (math.cos(angle) * x + math.sin(angle) * y) + phase)
    total /= math.sqrt(directions / 2)
    palette = _palette(rng, rng.integers(2, 5))
    if rng.random() < 0.4:
        return _cloth_grain(rng, _ramp(_even(total), palette))
    return _cloth_grain(rng, _bands(rng, total * rng.uniform(0.3, 0.8) + 4, 5 * pixel, palette))


KINDS: dict[str, Callable[[Rng, int], Colours]] = {
    "clouds": _clouds,
    "smears": _smears,
    "marble": _marble,
    "wood": _wood,
    "stripes": _stripes,
    "zigzags": _zigzags,
    "swirls": _swirls,
    "strata": _strata,
    "checks": _checks,
    "tartan": _tartan,
    "woven": _woven,
    "knitted": _knitted,
    "dots": _dots,
    "mosaic": _mosaic,
    "cracks": _cracks,
    "crystals": _crystals,
    "bubbles": _bubbles,
    "scales": _scales,
    "bricks": _bricks,
    "perforated": _perforated,
    "brushed metal": _brushed,
    "wrinkles": _wrinkles,
    "scribbles": _scribbles,
    "fibres": _fibres,
    "granite": _granite,
    "rust": _rust,
    "ornaments": _ornaments,
}
