"""The report of a benchmark: the table with changes and their intervals, the figures, and a page with both."""

import csv
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, Int

from jaxad.files import write_text
from jaxad.metrics import resampling
from jaxad.report.category import CategoryResult
from jaxad.report.page import document, html_row, html_table
from jaxad.report.sensitivity_charts import CHART_STYLE, Line, Mark, row_chart, severity_chart, sheet, signed
from jaxad.report.style import STYLE
from jaxad.report.table import markdown, markdown_table, mean_metrics, percent

METRICS = ("I-AUROC", "AUPRO")
RESAMPLES = 1000
_TOLERANCE = {"I-AUROC": 1e-6, "AUPRO": 5e-3}  # a profile has a limited number of thresholds
_STYLE = (
    STYLE
    + CHART_STYLE
    + """
.charts.broad { grid-template-columns: repeat(auto-fit, minmax(min(520px, 100%), 1fr)); }
.broad .chart { overflow-x: auto; }
.broad .chart svg { max-width: 700px; min-width: 440px; }
.cells th:first-child { white-space: nowrap; }
.cells :is(td, th):is(:nth-child(2), :nth-child(3)) { text-align: left; }
"""
)


@dataclass(frozen=True)
class CellResult:
    """One measured cell of a benchmark.

    Attributes:
      labels: its place in the figure, by the names of the figure's axes.
      against: name of the cell that its changes are measured from; its own name if it is that cell.
      trained_on: data set, split and selection, in words.
      tested_on: split, selection and corruptions, in words.
      report: its own page, relative to the benchmark's folder.
      overlaps: overlap profiles by category, for the intervals of AUPRO.
    """

    name: str
    labels: Mapping[str, str | float]
    figure: str
    against: str
    trained_on: str
    tested_on: str
    categories: Sequence[CategoryResult]
    report: str
    overlaps: Mapping[str, resampling.OverlapProfile] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Number of test images, over all categories."""
        return sum(len(result.labels) for result in self.categories)


@dataclass(frozen=True)
class Change:
    """How far a metric of a cell is from that of the cell it is compared with, in fractions.

    Attributes:
      mean: over the categories for which both cells have the metric.
      interval: 95 % interval of the mean; None where there is none (see `changes`).
      categories: the change of each category.
    """

    mean: float
    interval: tuple[float, float] | None
    categories: Mapping[str, float]


Changes = Mapping[str, Mapping[str, Change]]  # cell -> metric -> change
Figure = Mapping[str, str]  # the keys are those of `write`


def changes(cells: Sequence[CellResult], seed: int) -> dict[str, dict[str, Change]]:
    """The changes of all cells: cell -> metric -> change; a metric that no category has in both cells is left out.

    The intervals are those of a paired bootstrap: the same test images are drawn for both cells, normal and anomalous
    ones separately. This needs test sets that agree in length and labels, and scores and overlap profiles that
    reproduce the metric; ADer's approximations have no interval where they differ from the exact metric.
    """
    by_name = {cell.name: cell for cell in cells}
    return {
        cell.name: {
            metric: change
            for metric in METRICS
            if (change := _change(cell, by_name[cell.against], metric, seed)) is not None
        }
        for cell in cells
    }


def _change(cell: CellResult, reference: CellResult, metric: str, seed: int) -> Change | None:
    before, after = _known(reference, metric), _known(cell, metric)
    differences = {category: value - before[category] for category, value in after.items() if category in before}
    if not differences:
        return None
    mean, interval = float(np.mean(list(differences.values()))), None
    if cell.name != reference.name:
        pairs = [_resampled(cell, reference, category, metric, seed) for category in differences]
        if all(pair is not None for pair in pairs):
            interval = resampling.interval(np.mean([pair for pair in pairs if pair is not None], axis=0))
    return Change(mean, interval, differences)


def _known(cell: CellResult, metric: str) -> dict[str, float]:
    """The metric by category, without categories where it is undefined."""
    values = {result.category: result.metrics.get(metric, math.nan) for result in cell.categories}
    return {category: value for category, value in values.items() if not math.isnan(value)}


def _resampled(
    cell: CellResult, reference: CellResult, category: str, metric: str, seed: int
) -> Float[np.ndarray, " r"] | None:
    """Resampled changes of one category's metric; None where the test sets differ or the metric is not reproduced."""
    labels = np.asarray(_of(cell, category).labels, bool)
    if not np.array_equal(labels, _of(reference, category).labels):
        return None
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, zlib.crc32(category.encode())], np.uint64)))
    # the first row is the test set itself
    counts = np.vstack([np.ones(len(labels), np.int64), resampling.resample(labels, RESAMPLES, rng)])
    after, before = (_values(side, category, metric, counts) for side in (cell, reference))
    return None if after is None or before is None else after[1:] - before[1:]


def _values(
    cell: CellResult, category: str, metric: str, counts: Int[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"] | None:
    """The metric of each resample; None where scores or overlap profile do not reproduce it."""
    result = _of(cell, category)
    if metric == "I-AUROC":
        values = resampling.resampled_auroc(result.scores, result.labels, counts)
    elif category in cell.overlaps and len(cell.overlaps[category].normal) == len(result.labels):
        values = resampling.resampled_aupro(cell.overlaps[category], counts)
    else:
        return None
    return values if abs(values[0] - result.metrics[metric]) < _TOLERANCE[metric] else None


def _of(cell: CellResult, category: str) -> CategoryResult:
    return next(result for result in cell.categories if result.category == category)


def write(directory: Path | str, cells: Sequence[CellResult], figures: Sequence[Figure], run: Mapping[str, Any]) -> str:
    """Writes benchmark.json, benchmark.csv, benchmark.md, sensitivity.svg and report.html, each whole or not at all.

    Args:
      figures: in order; each has `name`, `title`, optionally `note`, and either `rows` and `arms` or `lines` and `x`:
        the names of the cells' labels by which cells are placed.
      run: "title", "seed", "metrics" (the mode) and "config".

    Returns:
      The table in Markdown.

    Raises:
      UserError: a file cannot be written.
    """
    directory = Path(directory)
    changed = changes(cells, int(run["seed"]))
    drawn = {figure["name"]: _charts(figure, cells, changed) for figure in figures}
    shown = _markdown(cells, changed, figures, run)
    write_text(directory / "benchmark.json", json.dumps(_stored(cells, changed, run), indent=1, default=str) + "\n")
    write_text(directory / "benchmark.csv", _csv(cells, changed))
    write_text(directory / "benchmark.md", f"# {markdown(run['title'])}\n\n{shown}\n")
    sheets = [(figure["title"], list(drawn[figure["name"]].values())) for figure in figures]
    write_text(directory / "sensitivity.svg", sheet(run["title"], sheets, STYLE + CHART_STYLE))
    write_text(directory / "report.html", _page(cells, changed, figures, drawn, run))
    return shown


def _charts(figure: Figure, cells: Sequence[CellResult], changed: Changes) -> dict[str, str]:
    """Metric -> SVG; metrics that no cell of the figure has are left out."""
    members = [cell for cell in cells if cell.figure == figure["name"]]
    charts = {}
    for metric in METRICS:
        known = [cell for cell in members if metric in changed[cell.name]]
        if known:
            draw = _line_chart if "lines" in figure else _row_chart
            charts[metric] = draw(f"{figure['title']}: {metric}", metric, figure, known, changed)
    return charts


def _row_chart(title: str, metric: str, figure: Figure, cells: Sequence[CellResult], changed: Changes) -> str:
    arms = list(dict.fromkeys(str(cell.labels[figure["arms"]]) for cell in cells))
    rows: dict[str, list[Mark]] = {}
    for cell in cells:
        change = changed[cell.name][metric]
        mark = Mark(
            arm=arms.index(str(cell.labels[figure["arms"]])),
            change=100 * change.mean,
            interval=_points(change.interval),
            value=100 * mean_metrics(cell.categories)[0][metric],
            categories={name: 100 * value for name, value in change.categories.items()} if _several(cell) else {},
        )
        rows.setdefault(str(cell.labels[figure["rows"]]), []).append(mark)
    return row_chart(title, metric, rows, arms, figure["arms"])


def _line_chart(title: str, metric: str, figure: Figure, cells: Sequence[CellResult], changed: Changes) -> str:
    by_name = {cell.name: cell for cell in cells}
    lines: dict[str, list[tuple[float, float, tuple[float, float] | None]]] = {}
    for cell in cells:
        if cell.against == cell.name:
            continue
        start = float(by_name[cell.against].labels[figure["x"]])
        change = changed[cell.name][metric]
        point = (float(cell.labels[figure["x"]]), 100 * change.mean, _points(change.interval))
        lines.setdefault(str(cell.labels[figure["lines"]]), [(start, 0.0, None)]).append(point)
    return severity_chart(
        title, metric, [Line(name, *zip(*sorted(points), strict=True)) for name, points in lines.items()]
    )


def _several(cell: CellResult) -> bool:
    return len(cell.categories) > 1 and cell.against != cell.name


def _points(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _markdown(cells: Sequence[CellResult], changed: Changes, figures: Sequence[Figure], run: Mapping[str, Any]) -> str:
    """The table, one row per cell, with its footnotes."""
    names = _measured(cells)
    header = ["cell", "trained on", "tested on", "images"]
    header += [title for metric in names for title in (metric, "change", "95 %")]
    body = [[markdown(text) for text in _row(cell, changed[cell.name], names)] for cell in cells]
    return "\n".join(
        [*markdown_table(header, body), "", *(markdown(note) + "  " for note in _notes(cells, changed, figures, run))]
    )


def _row(cell: CellResult, change: Mapping[str, Change], names: Sequence[str]) -> list[str]:
    means, _ = mean_metrics(cell.categories)
    texts = [cell.name, cell.trained_on, cell.tested_on, str(cell.images)]
    for metric in names:
        moved = change.get(metric)
        texts += [percent(means.get(metric, math.nan)), _change_text(cell, moved), _interval_text(moved)]
    return texts


def _change_text(cell: CellResult, change: Change | None) -> str:
    if change is None or cell.against == cell.name:
        return ""
    return signed(100 * change.mean)


def _interval_text(change: Change | None) -> str:
    if change is None or change.interval is None:
        return ""
    return " to ".join(signed(100 * end) for end in change.interval)


def _measured(cells: Sequence[CellResult]) -> list[str]:
    return [metric for metric in METRICS if any(metric in r.metrics for cell in cells for r in cell.categories)]


def _notes(
    cells: Sequence[CellResult], changed: Changes, figures: Sequence[Figure], run: Mapping[str, Any]
) -> list[str]:
    several = max(len(cell.categories) for cell in cells)
    moved = [changed[cell.name] for cell in cells if cell.against != cell.name]
    bare = [m for m in METRICS if any(m in change and change[m].interval is None for change in moved)]
    over = f", means over {several} categories" if several > 1 else ""
    return [
        f"Metrics in percent{over}, mode {run['metrics']}; changes in percentage points.",
        *(f"{figure['title']}: {figure['note']}" for figure in figures if figure.get("note")),
        f"95 %: paired bootstrap over the test images, {RESAMPLES} resamples, seed {run['seed']}: how far other test "
        "images of the same kind might change the result; other trainings are not covered.",
        *(
            f"{metric}: some intervals are missing, because the files kept do not reproduce the metric."
            for metric in bare
        ),
    ]


def _stored(cells: Sequence[CellResult], changed: Changes, run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": dict(run),
        "resamples": RESAMPLES,
        "cells": [
            {
                "name": cell.name,
                "labels": dict(cell.labels),
                "figure": cell.figure,
                "against": cell.against,
                "trained_on": cell.trained_on,
                "tested_on": cell.tested_on,
                "images": cell.images,
                "report": cell.report,
                "mean": _finite(mean_metrics(cell.categories)[0]),
                "categories": {result.category: _finite(result.metrics) for result in cell.categories},
                "change": {
                    metric: {"mean": change.mean, "interval": change.interval, "categories": dict(change.categories)}
                    for metric, change in changed[cell.name].items()
                },
            }
            for cell in cells
        ],
    }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _csv(cells: Sequence[CellResult], changed: Changes) -> str:
    """One line per cell and category, in fractions; the category "mean" is the mean over a cell's categories."""
    labels = list(dict.fromkeys(name for cell in cells for name in cell.labels))
    names = _measured(cells)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    columns = [title for name in names for title in (name, f"{name} change", f"{name} low", f"{name} high")]
    about = ["cell", "figure", *labels, "against", "train", "test", "category", "images"]
    lines.writerow([*about, *columns])
    for cell in cells:
        about = [cell.name, cell.figure, *(cell.labels.get(name, "") for name in labels)]
        about += [cell.against, cell.trained_on, cell.tested_on]
        change = changed[cell.name]
        for result in cell.categories:
            values = []
            for name in names:
                own = change[name].categories.get(result.category, "") if name in change else ""
                values += [result.metrics.get(name, ""), own, "", ""]
            lines.writerow([*about, result.category, len(result.labels), *values])
        means, values = mean_metrics(cell.categories)[0], []
        for name in names:
            moved = change.get(name)
            ends = (moved.interval if moved is not None else None) or ("", "")
            values += [means.get(name, ""), "" if moved is None else moved.mean, *ends]
        lines.writerow([*about, "mean", cell.images, *values])
    return text.getvalue()


def _page(
    cells: Sequence[CellResult],
    changed: Changes,
    figures: Sequence[Figure],
    drawn: Mapping[str, Mapping[str, str]],
    run: Mapping[str, Any],
) -> str:
    title, names = escape(run["title"]), _measured(cells)
    sections = []
    for figure in figures:
        charts = drawn[figure["name"]]
        members = [cell for cell in cells if cell.figure == figure["name"]]
        shown = "".join(f'<figure class="chart">{chart}</figure>' for chart in charts.values())
        note = f'<p class="muted">{escape(figure["note"])}</p>\n' if figure.get("note") else ""
        details = _details(members, changed, charts)
        sections.append(
            f"<section>\n<h2>{escape(figure['title'])}</h2>\n{note}"
            f'<div class="charts broad">{shown}</div>\n{details}</section>\n'
        )
    columns = ["Cell", "Trained on", "Tested on", "Images"]
    for metric in names:
        columns += [metric, "Change", "95 %"]
    body = []
    for cell in cells:
        texts = _row(cell, changed[cell.name], names)
        link = f'<a href="{escape(quote(cell.report))}">{escape(texts[0])}</a>'
        body.append(_linked_row(link, [escape(text) for text in texts[1:]]))
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(cells, changed, figures, run))
    config = escape(json.dumps(run["config"], indent=2, default=str))
    about = f"{len(cells)} cells, metrics {run['metrics']}, seed {run['seed']}"
    header = f'<p class="muted">{escape(about)}</p>\n'
    table = html_table("One row per cell; the name links to the cell's own report", columns, body, "cells")
    main = f"""{"".join(sections)}<section>
<h2>All cells</h2>
{table}<ul class="notes">{notes}</ul>
<details><summary>Config</summary><div class="scroll"><pre>{config}</pre></div></details>
</section>
"""
    footer = "The numbers are in benchmark.json and benchmark.csv, the figures in sensitivity.svg."
    return document(title, header, main, footer, _STYLE)


def _details(cells: Sequence[CellResult], changed: Changes, charts: Mapping[str, str]) -> str:
    """The change of each category, folded away; "" for a single category."""
    categories = list(dict.fromkeys(result.category for cell in cells for result in cell.categories))
    if len(categories) < 2:
        return ""
    tables = []
    for metric in charts:
        body = []
        for cell in cells:
            own = {result.category: result.metrics.get(metric, math.nan) for result in cell.categories}
            change = changed[cell.name].get(metric)
            texts = []
            for category in categories:
                moved = (
                    ""
                    if change is None or cell.against == cell.name or category not in change.categories
                    else (f" <small>{signed(100 * change.categories[category])}</small>")
                )
                texts.append(percent(own.get(category, math.nan)) + moved)
            body.append(html_row(cell.name, texts))
        tables.append(
            html_table(f"{metric} in percent and its change in percentage points", ["Cell", *categories], body)
        )
    return f"<details><summary>Category by category</summary>{''.join(tables)}</details>\n"


def _linked_row(link: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{link}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
