"""Changes of a metric as inline SVG: one row per condition with its interval, or one line per corruption."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from jaxad.report.charts import nice_step, ticks

WIDTH = 540
COLORS = 6  # classes s0 ... s5 of CHART_STYLE
_MARGIN = 24  # of a sheet, and between its charts
_LETTER = 5.9  # mean width of a letter in the style sheet's 11-pixel text
_NUMBERS, _TOP, _BOTTOM = 104, 34, 42  # margins of a chart of rows
_LANE, _GAP = 20, 12  # height of one mark's lane, and between rows
_LINES_LEFT, _LINES_RIGHT, _LINES_HEIGHT = 54, 104, 330

CHART_STYLE = """
:root { --s0: #0072b2; --s1: #c04a00; --s2: #00795a; --s3: #9b3f86; --s4: #806600; --s5: #3d4349; }
@media (prefers-color-scheme: dark) { :root {
  --s0: #56b4e9; --s1: #f2934a; --s2: #3cc49a; --s3: #e08fc4; --s4: #d9c24a; --s5: #c9ced3; } }
.s0 { --own: var(--s0); } .s1 { --own: var(--s1); } .s2 { --own: var(--s2); }
.s3 { --own: var(--s3); } .s4 { --own: var(--s4); } .s5 { --own: var(--s5); }
svg .mean { fill: var(--own); stroke: var(--surface); stroke-width: 1; }
svg .one { fill: none; stroke: var(--own); opacity: 0.6; }
svg .interval { stroke: var(--own); stroke-width: 2; }
svg .whisker { stroke: var(--own); opacity: 0.65; }
svg .line { stroke: var(--own); stroke-width: 2; stroke-linejoin: round; }
svg .zero { stroke: var(--muted); stroke-width: 1.5; }
svg text.row, svg text.named { fill: var(--text); font-size: 12px; }
svg text.named { fill: var(--own); font-weight: 600; }
"""

_SHEET_STYLE = """
text { font-family: system-ui, sans-serif; }
svg text.title, svg text.heading { fill: var(--text); font-weight: 650; font-size: 15px; }
svg text.title { font-size: 20px; }
"""


@dataclass(frozen=True)
class Mark:
    """One measured change, in points (hundredths of the metric's scale).

    Attributes:
      arm: index of its arm among those of the chart.
      change: mean over the categories.
      interval: 95 % interval of the mean; None where it was not computed.
      value: the metric itself, in percent.
      categories: the change of each category.
    """

    arm: int
    change: float
    interval: tuple[float, float] | None
    value: float
    categories: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """The changes that one corruption causes, by severity; `intervals` as in `Mark`."""

    name: str
    severities: Sequence[float]
    changes: Sequence[float]
    intervals: Sequence[tuple[float, float] | None]


def row_chart(
    title: str, metric: str, rows: Mapping[str, Sequence[Mark]], arms: Sequence[str], arm_label: str = ""
) -> str:
    """One row per condition with a lane per arm: the mean as a filled mark, its interval, categories as hollow marks.

    Args:
      title: the chart in words, for screen readers.
      rows: condition -> its marks, one per arm.
      arms: names of the arms, for the legend; a single arm is not named.
      arm_label: what the arms are, such as "trained on".
    """
    marks = [mark for lanes in rows.values() for mark in lanes]
    values = [v for mark in marks for v in (mark.change, *(mark.interval or ()), *mark.categories.values())]
    low, high = _limits(values)
    left = 24 + 7 * max(10, *map(len, rows), 0)
    plot = WIDTH - left - _NUMBERS

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * plot

    parts, y = [], float(_TOP)
    for place, (name, lanes) in enumerate(rows.items()):
        height = _LANE * len(lanes) + _GAP
        if place:
            parts.append(f'<path class="grid" d="M0 {y:.1f}H{WIDTH}"/>')
        middle = y + height / 2
        parts.append(f'<text class="row" x="{left - 12}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for lane, mark in enumerate(lanes):
            parts.append(_lane(mark, y + _GAP / 2 + _LANE * (lane + 0.5), across, metric))
        y += height
    bottom = y
    grid = []
    for tick in ticks(low, high, 8):
        x = across(tick)
        grid.append(f'<path class="{"grid" if tick else "zero"}" d="M{x:.1f} {_TOP}V{bottom:.1f}"/>')
        grid.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{_tick(tick)}</text>')
    head = (
        f'<text x="{WIDTH - 62}" y="{_TOP - 12}" text-anchor="end">change</text>'
        f'<text x="{WIDTH - 4}" y="{_TOP - 12}" text-anchor="end">{escape(metric)}</text>'
        f'<text class="strong" x="{left}" y="{_TOP - 12}">{escape(metric)}</text>'
        f'<text x="{left + plot / 2}" y="{bottom + 34:.1f}" text-anchor="middle">change in percentage points</text>'
    )
    keys = _arm_keys(arms, arm_label) + [("s5 one", "one category")] * any(mark.categories for mark in marks)
    keys += [("s5 interval", "95 % interval")] * any(mark.interval is not None for mark in marks)
    legend, height = _legend(keys, bottom + _BOTTOM + 14)
    return _svg(title, height, [*grid, head, *parts, legend])


def severity_chart(title: str, metric: str, lines: Sequence[Line]) -> str:
    """One line per corruption, named at its end; marks of the same severity are drawn side by side."""
    values = [v for line in lines for i, c in zip(line.intervals, line.changes, strict=True) for v in (c, *(i or ()))]
    low, high = _limits(values)
    most = max((severity for line in lines for severity in line.severities), default=1)
    plot_width, top = WIDTH - _LINES_LEFT - _LINES_RIGHT, 34
    bottom = _LINES_HEIGHT - 44

    def across(severity: float) -> float:
        return _LINES_LEFT + severity / (most or 1) * (plot_width - 16)

    def up(change: float) -> float:
        return bottom - (change - low) / (high - low) * (bottom - top)

    parts = [f'<text class="strong" x="{_LINES_LEFT}" y="20">{escape(metric)}</text>']
    for tick in ticks(low, high, 8):
        kind, right = ("zero" if not tick else "grid"), WIDTH - _LINES_RIGHT
        parts.append(f'<path class="{kind}" d="M{_LINES_LEFT} {up(tick):.1f}H{right}"/>')
        parts.append(f'<text x="{_LINES_LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{_tick(tick)}</text>')
    for severity in sorted({severity for line in lines for severity in line.severities}):
        label = "none" if not severity else f"{severity:g}"
        parts.append(f'<text x="{across(severity):.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    middle = _LINES_LEFT + (plot_width - 16) / 2
    bars = "; bars: 95 % intervals" * any(ends is not None for line in lines for ends in line.intervals)
    parts.append(f'<text x="{middle}" y="{_LINES_HEIGHT - 6}" text-anchor="middle">severity{bars}</text>')
    parts.append(
        f'<text transform="translate(12 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        "change in percentage points</text>"
    )
    ends = _apart([up(line.changes[-1]) for line in lines], 15, top, bottom)
    for place, (line, end) in enumerate(zip(lines, ends, strict=True)):
        color, aside = f"s{place % COLORS}", 4.5 * (place - (len(lines) - 1) / 2)
        points = [(across(s) + aside * bool(s), up(c)) for s, c in zip(line.severities, line.changes, strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="{color} line" d="M{path}"/>')
        for (x, y), change, ends_of in zip(points, line.changes, line.intervals, strict=True):
            if ends_of is not None:
                parts.append(f'<path class="{color} whisker" d="M{x:.1f} {up(ends_of[0]):.1f}V{up(ends_of[1]):.1f}"/>')
            said = f"{line.name}: {_said(change, ends_of)}"
            parts.append(_shape(place, "mean", x, y, 4.2, said))
        x, y = points[-1]
        parts.append(f'<path class="grid" d="M{x + 6:.1f} {y:.1f}L{WIDTH - _LINES_RIGHT + 4} {end:.1f}"/>')
        parts.append(
            f'<text class="{color} named" x="{WIDTH - _LINES_RIGHT + 8}" y="{end + 4:.1f}">{escape(line.name)}</text>'
        )
    return _svg(title, _LINES_HEIGHT, parts)


def sheet(title: str, figures: Sequence[tuple[str, Sequence[str]]], style: str) -> str:
    """A standalone SVG file: the figures (heading, charts side by side) one below the other, and the style sheet."""
    columns = max((len(charts) for _, charts in figures), default=1)
    width, parts, y = columns * (WIDTH + _MARGIN) + _MARGIN, [], 64.0
    for heading, charts in figures:
        parts.append(f'<text class="heading" x="{_MARGIN}" y="{y + 16:.0f}">{escape(heading)}</text>')
        y += 34
        heights = [float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', chart)[0]) for chart in charts]
        for column, (chart, height) in enumerate(zip(charts, heights, strict=True)):
            x = _MARGIN + column * (WIDTH + _MARGIN)
            placed = f'<svg x="{x}" y="{y:.0f}" width="{WIDTH}" height="{height:g}" '
            parts.append(chart.replace("<svg ", placed, 1))
        y += max(heights, default=0) + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y:.0f}" width="{width}" height="{y:.0f}">'
        f"<style>{style}{_SHEET_STYLE}</style>"
        '<rect width="100%" height="100%" style="fill: var(--surface)"/>'
        f'<text class="title" x="{_MARGIN}" y="40">{escape(title)}</text>{"".join(parts)}</svg>\n'
    )


def _lane(mark: Mark, y: float, across: Callable[[float], float], metric: str) -> str:
    color, parts = f"s{mark.arm % COLORS}", []
    for category, change in mark.categories.items():
        said = escape(f"{category}: {_said(change)}")
        parts.append(
            f'<circle class="{color} one" cx="{across(change):.1f}" cy="{y:.1f}" r="3"><title>{said}</title></circle>'
        )
    if mark.interval is not None:
        low, high = (across(end) for end in mark.interval)
        parts.append(f'<path class="{color} interval" d="M{low:.1f} {y:.1f}H{high:.1f}"/>')
    said = f"{metric} {mark.value:.1f}: {_said(mark.change, mark.interval)}"
    parts.append(_shape(mark.arm, "mean", across(mark.change), y, 5, said))
    parts.append(
        f'<text class="strong" x="{WIDTH - 62}" y="{y + 4:.1f}" text-anchor="end">{signed(mark.change)}</text>'
    )
    parts.append(f'<text x="{WIDTH - 4}" y="{y + 4:.1f}" text-anchor="end">{mark.value:.1f}</text>')
    return "".join(parts)


def _shape(place: int, kind: str, x: float, y: float, r: float, said: str = "") -> str:
    """A disc, diamond, square or triangle in turn, so that marks differ in more than their colour."""
    a, b, title = r * 0.89, r * 1.25, f"<title>{escape(said)}</title>" if said else ""
    outline = [
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x:.1f} {y - b:.1f}L{x + b:.1f} {y:.1f}L{x:.1f} {y + b:.1f}L{x - b:.1f} {y:.1f}z",
        f"M{x - a:.1f} {y - a:.1f}h{2 * a:.1f}v{2 * a:.1f}h{-2 * a:.1f}z",
        f"M{x:.1f} {y - 1.2 * r:.1f}L{x + 1.15 * r:.1f} {y + 0.9 * r:.1f}H{x - 1.15 * r:.1f}z",
        f"M{x:.1f} {y + 1.2 * r:.1f}L{x + 1.15 * r:.1f} {y - 0.9 * r:.1f}H{x - 1.15 * r:.1f}z",
    ][place % 5]
    return f'<path class="s{place % COLORS} {kind}" d="{outline}">{title}</path>'


def _arm_keys(arms: Sequence[str], label: str) -> list[tuple[str, str]]:
    keys = [(f"arm {place}", name) for place, name in enumerate(arms)] if len(arms) > 1 else []
    return [("", f"{label}:"), *keys] if keys and label else keys


def _legend(keys: Sequence[tuple[str, str]], y: float) -> tuple[str, float]:
    """(the keys, wrapped into lines; y of their lower end)."""
    parts, x = [], 12.0
    for kind, text in keys:
        start = 26 if kind else 4
        width = start + _LETTER * len(text) + 12
        if x > 12 and x + width > WIDTH:
            x, y = 12.0, y + 20
        if kind.startswith("arm "):
            parts.append(_shape(int(kind[4:]), "mean", x + 11, y - 4, 5))
        elif kind.endswith("one"):
            parts.append(f'<circle class="{kind}" cx="{x + 11:.1f}" cy="{y - 4:.1f}" r="3"/>')
        elif kind:
            parts.append(f'<path class="{kind}" d="M{x + 1:.1f} {y - 4:.1f}h20"/>')
        parts.append(f'<text x="{x + start:.1f}" y="{y:.1f}">{escape(text)}</text>')
        x += width
    return "".join(parts), y + 12 if keys else y - 6


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """A range that contains all values and zero, with some room."""
    low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
    room = 0.05 * (high - low) or 1.0
    step = nice_step(high - low + 2 * room, 5)
    return min(low - room, -0.25 * step), max(high + room, 0.25 * step)


def _apart(wanted: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Heights close to the wanted ones, in the same order, at least `gap` apart."""
    order = np.argsort(wanted, kind="stable")
    places = np.asarray(wanted, float)[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    if len(places) and places[-1] > bottom:
        places[-1] = bottom
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    result = np.empty_like(places)
    result[order] = np.maximum(places, top)
    return result.tolist()


def signed(points: float) -> str:
    """One decimal with its sign, a real minus; no sign for what rounds to zero."""
    rounded = round(points, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def _said(change: float, interval: tuple[float, float] | None = None) -> str:
    between = f" ({signed(interval[0])} to {signed(interval[1])})" if interval is not None else ""
    return f"{signed(change)} points{between}"


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
