"""Line charts and score histograms as inline SVG; colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Bool, Float

_WIDTH, _HEIGHT = 290, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 44  # margins
_BINS = 32


@dataclass(frozen=True)
class Line:
    """One curve: `kind` is its style class; with `steps` it runs flat at a point's height from the point before it."""

    kind: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    steps: bool = False


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, y_label: str, x_limit: float = 1.0, diagonal: bool = False
) -> str:
    """A chart of fractions, x in [0, x_limit] and y in [0, 1]; `diagonal` draws the curve of a random guess."""
    parts = [_grid(_fractions(x_limit), _fractions(1.0), x_limit, x_label, y_label)]
    if diagonal:
        parts.append(f'<path class="chance" d="{_path(np.array([0.0, 1.0]), np.array([0.0, 1.0]), x_limit)}"/>')
    for line in lines:
        x, y = _until(line.x, line.y, x_limit)
        if line.steps:
            x, y = _staircase(x, y)
        parts.append(f'<path class="curve {line.kind}" d="{_path(x, y, x_limit)}"/>')
    return _svg(title, parts)


def histogram(
    title: str, scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], threshold: float | None
) -> str:
    """Image scores, normal images upward and anomalous ones downward, as shares of their kind, and the threshold."""
    finite = np.isfinite(scores)
    scores, labels = np.asarray(scores, np.float64)[finite], np.asarray(labels, bool)[finite]
    if not scores.size:
        return _svg(title, [f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">no scores</text>'])
    drawn_threshold = threshold if threshold is not None and math.isfinite(threshold) else None
    shown = np.append(scores, [] if drawn_threshold is None else [drawn_threshold])
    low, high = float(shown.min()), float(shown.max())
    margin = 0.04 * (high - low) or 0.5
    low, high = low - margin, high + margin
    edges = np.linspace(low, high, _BINS + 1)
    normal, anomalous = (
        np.histogram(scores[labels == kind], edges)[0] / max(1, np.sum(labels == kind)) for kind in (False, True)
    )
    tallest = normal.max() + anomalous.max()
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    scale = plot_height / (1.12 * tallest)
    base = _TOP + 0.06 * plot_height + normal.max() * scale

    def across(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * plot_width

    parts = []
    step = nice_step(tallest, 8)
    for count in range(-int(anomalous.max() / step), int(normal.max() / step) + 1):
        y = base - count * step * scale
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{abs(count) * step * 100:.3g}%</text>')
    for value in ticks(low, high):
        parts.append(
            f'<text x="{across(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:.6g}</text>'
        )
    width = plot_width / _BINS
    for kind, shares, sign in (("normal", normal, 1), ("anomalous", anomalous, -1)):
        bars = "".join(
            f"M{_LEFT + i * width + 0.6:.1f} {base:.1f}v{-sign * share * scale:.1f}h{width - 1.2:.1f}V{base:.1f}z"
            for i, share in enumerate(shares)
            if share
        )
        parts.append(f'<path class="bar {kind}" d="{bars}"/>')
    parts.append(f'<path class="axis" d="M{_LEFT} {base:.1f}H{_WIDTH - _RIGHT}"/>')
    if drawn_threshold is not None:
        x = across(drawn_threshold)
        anchor, offset = ("end", -5) if x > _LEFT + 0.6 * plot_width else ("start", 5)
        parts.append(f'<path class="threshold" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(
            f'<text class="strong" x="{x + offset:.1f}" y="{_TOP + 9}" text-anchor="{anchor}">'
            f"threshold {drawn_threshold:.4g}</text>"
        )
    parts.append(_labels("image score", "share of images"))
    return _svg(title, parts)


def _svg(title: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _grid(x_ticks: Sequence[float], y_ticks: Sequence[float], x_limit: float, x_label: str, y_label: str) -> str:
    parts = []
    for tick in x_ticks:
        x = _across(tick, x_limit)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y_ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {_up(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{_up(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
    return "".join(parts) + _labels(x_label, y_label)


def _labels(x_label: str, y_label: str) -> str:
    middle = _TOP + (_HEIGHT - _TOP - _BOTTOM) / 2
    center = _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2
    return (
        f'<text x="{center}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )


def _path(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], x_limit: float) -> str:
    points = (f"{_across(a, x_limit):.1f} {_up(b):.1f}" for a, b in zip(x, y, strict=True))
    # points that fall on the same tenth of a pixel are drawn once
    kept = []
    for point in points:
        if not kept or point != kept[-1]:
            kept.append(point)
    return "M" + "L".join(kept) if kept else ""


def _until(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], limit: float
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The part of a curve up to x = `limit`, where it ends."""
    if not x.size or x[-1] <= limit:
        return x, y
    count = int(np.searchsorted(x, limit, side="right"))
    share = (limit - x[count - 1]) / (x[count] - x[count - 1])
    end = y[count - 1] + share * (y[count] - y[count - 1])
    return np.append(x[:count], limit), np.append(y[:count], end)


def _staircase(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Flat at each point's height from the point before it; points at x = 0 would have no width and are left out."""
    wide = x > 0
    x, y = np.append(0.0, x[wide]), y[wide]
    return np.repeat(x, 2)[1:-1], np.repeat(y, 2)


def _across(value: float, limit: float) -> float:
    return _LEFT + value / limit * (_WIDTH - _LEFT - _RIGHT)


def _up(value: float) -> float:
    return _HEIGHT - _BOTTOM - value * (_HEIGHT - _TOP - _BOTTOM)


def _fractions(limit: float) -> list[float]:
    step = 0.1 if limit < 0.5 else 0.25
    return [round(i * step, 4) for i in range(round(limit / step) + 1)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values between `low` and `high`."""
    step = nice_step(high - low, count)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def nice_step(span: float, count: int) -> float:
    """1, 2 or 5 times a power of ten, so that about `count` steps make up `span`."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
