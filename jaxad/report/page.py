"""report.html: a single file that can be read without scripts and without a network."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from jaxad.report.category import CategoryResult
from jaxad.report.charts import Line, histogram, line_chart
from jaxad.report.gallery import cases_per_group, gallery
from jaxad.report.published import Published
from jaxad.report.style import STYLE
from jaxad.report.table import footnotes, metric_names, percent, rows

_PRO_LIMIT = 0.3
_SETTINGS = {
    "method": "Method",
    "dataset": "Data set",
    "metrics": "Metrics",
    "seed": "Seed",
    "device": "Device",
    "date": "Date",
}
# nothing is loaded and nothing runs, whatever the names of files and categories hold
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(results: Sequence[CategoryResult], run: Mapping[str, Any], published: Published | None = None) -> str:
    """The whole page; the arguments are those of `jaxad.report.write`."""
    title = escape(f"{run.get('method', 'Results')} on {run.get('dataset', 'images')}")
    about = escape(" · ".join(str(run[name]) for name in ("device", "date") if run.get(name)))
    per_group = cases_per_group(len(results))
    sections = "".join(_category(index, result, per_group) for index, result in enumerate(results))
    header = f'<p class="muted">{about}</p>\n{_links(results)}'
    main = f"{_results_table(results, run, published)}{sections}{_run(results, run)}"
    return document(title, header, main, "The numbers are in results.json, the table in results.md.")


def document(title: str, header: str, main: str, footer: str, style: str = STYLE) -> str:
    """A page that needs no other file; all arguments but `style` are HTML, `header` goes below the title."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{header}</header>
<main>
{main}</main>
<footer class="muted">Written by jaxad. {footer}</footer>
</body>
</html>
"""


def _links(results: Sequence[CategoryResult]) -> str:
    if len(results) < 2:
        return ""
    links = [f'<li><a href="#category-{index}">{escape(r.category)}</a></li>' for index, r in enumerate(results)]
    return f'<nav aria-label="Sections"><ul>{"".join(links)}<li><a href="#run">The run</a></li></ul></nav>\n'


def _results_table(results: Sequence[CategoryResult], run: Mapping[str, Any], published: Published | None) -> str:
    table, body = rows(results, published), []
    with_published = [
        any(printed for _, printed in column) for column in zip(*(cells for _, cells in table), strict=True)
    ]
    for index, (category, cells) in enumerate(table):
        values = (
            f"{measured} <small>{f'({printed})' if printed else ''}</small>" if beside else measured
            for (measured, printed), beside in zip(cells, with_published, strict=True)
        )
        body.append(html_row(category, values, "mean" if index == len(results) else ""))
    notes = "".join(f"<li>{escape(note)}</li>" for note in footnotes(results, published, run.get("metrics", "exact")))
    caption = "Measured values in percent, published ones in brackets" if published else "Measured values in percent"
    shown = html_table(caption, ["Category", *metric_names(results)], body)
    return f'<section>\n<h2>Results</h2>\n{shown}<ul class="notes">{notes}</ul>\n</section>\n'


def html_table(caption: str, header: Iterable[str], body: Iterable[str], kind: str = "numbers") -> str:
    """`caption` and `header` are plain text, `body` are rows of HTML; `kind` is the style class."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    # a wide table scrolls on its own; keyboard users can reach it only if it takes the focus and has a name
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table class="{kind}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>\n"
    )


def html_row(name: str, cells: Iterable[str], kind: str = "") -> str:
    """A row of a table; `name` is plain text, `cells` are HTML, `kind` is the style class."""
    values = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{values}</tr>'


def _category(index: int, result: CategoryResult, per_group: int) -> str:
    return (
        f'<section aria-labelledby="category-{index}">\n<h2 id="category-{index}">{escape(result.category)}</h2>\n'
        f"{_facts(result)}{_charts(result)}{_defect_types(result)}{gallery(result, per_group)}</section>\n"
    )


def _facts(result: CategoryResult) -> str:
    anomalous = int(np.sum(result.labels))
    normal = len(result.labels) - anomalous
    facts = [("Test images", str(len(result.labels)), f"{normal} normal, {anomalous} anomalous")]
    if result.threshold is None:
        facts.append(("Threshold", "none", escape(result.no_threshold or "no image was called normal or anomalous")))
    else:
        share = "" if result.false_alarm_rate is None else f" for {100 * result.false_alarm_rate:g}% false alarms"
        calibrated = f"calibrated on {result.calibration_images} held-out normal images{share}"
        facts.append(("Threshold", f"{result.threshold:.5g}", calibrated))
        facts.append(("False alarms", str(result.false_alarms), _of(result.false_alarms, normal, "normal")))
        facts.append(("Missed defects", str(result.missed), _of(result.missed, anomalous, "anomalous")))
    entries = (f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, value, note in facts)
    return f'<dl class="facts">{"".join(entries)}</dl>\n'


def _of(count: int, total: int, kind: str) -> str:
    return f"of {total} {kind}" + (f", {100 * count / total:.1f}%" if total else "")


def _charts(result: CategoryResult) -> str:
    name, metrics = result.category, result.metrics
    scores = histogram(f"Histogram of the image scores of {name}", result.scores, result.labels, result.threshold)
    figures = [_figure("Image scores", scores, [("normal", "normal, upward"), ("anomalous", "anomalous, downward")])]

    drawn = {kind: result.curves[kind] for kind in ("image", "pixel") if kind in result.curves}
    drawn = {kind: curves for kind, curves in drawn.items() if curves.fpr.size}
    if drawn:
        lines = [Line(kind, curves.fpr, curves.tpr) for kind, curves in drawn.items()]
        chart = line_chart(f"ROC curves of {name}", lines, "false positive rate", "true positive rate", diagonal=True)
        figures.append(_figure("ROC", chart, [(kind, _area(metrics, kind, "AUROC")) for kind in drawn]))
        lines = [Line(kind, curves.recall, curves.precision, steps=True) for kind, curves in drawn.items()]
        chart = line_chart(f"Precision-recall curves of {name}", lines, "recall", "precision")
        figures.append(_figure("Precision and recall", chart, [(kind, _area(metrics, kind, "AP")) for kind in drawn]))
    pixel = drawn.get("pixel")
    if pixel is not None and pixel.pro_fpr is not None and pixel.pro is not None:
        lines = [Line("pixel", pixel.pro_fpr, pixel.pro)]
        chart = line_chart(f"PRO curve of {name}", lines, "false positive rate", "per-region overlap", _PRO_LIMIT)
        key = f"regions, AUPRO {percent(metrics.get('AUPRO', math.nan))}"
        figures.append(_figure("Per-region overlap", chart, [("pixel", key)]))
    return f'<div class="charts">{"".join(figures)}</div>\n'


def _figure(title: str, chart: str, keys: Iterable[tuple[str, str]]) -> str:
    return (
        f'<figure class="chart"><h3>{title}</h3>{chart}'
        f"<figcaption>{''.join(_key(kind, text) for kind, text in keys)}</figcaption></figure>"
    )


def _key(kind: str, text: str) -> str:
    bar = f'<path class="bar {kind}" d="M1 1h24v8H1z"/>'
    shape = bar if kind in ("normal", "anomalous") else f'<path class="curve {kind}" d="M0 5H26"/>'
    return f'<span class="key"><svg viewBox="0 0 26 10" aria-hidden="true">{shape}</svg>{escape(text)}</span>'


def _area(metrics: Mapping[str, float], kind: str, name: str) -> str:
    return f"{kind}s, {name} {percent(metrics.get(f'{kind[0].upper()}-{name}', math.nan))}"


def _defect_types(result: CategoryResult) -> str:
    """How many defects of each type were found; "" where the data set does not distinguish types."""
    scores: dict[str, list[float]] = {}
    for name, score, label in zip(result.defect_types, result.scores, result.labels, strict=True):
        if label and name:
            scores.setdefault(name, []).append(float(score))
    if len(scores) < 2:
        return ""
    header, body = ["Defect type", "Images", "Median score"], []
    if result.threshold is not None:
        header += ["Found", "Found (%)"]
    for name, of_type in sorted(scores.items()):
        cells = [str(len(of_type)), f"{np.median(of_type):.3f}"]
        if result.threshold is not None:
            found = sum(score > result.threshold for score in of_type)
            cells += [str(found), f"{100 * found / len(of_type):.1f}"]
        body.append(html_row(name, cells))
    return f"<h3>Defect types</h3>\n{html_table('Anomalous test images by type of defect', header, body)}"


def _run(results: Sequence[CategoryResult], run: Mapping[str, Any]) -> str:
    settings = [(title, str(run[name])) for name, title in _SETTINGS.items() if run.get(name) not in (None, "")]
    shown_elsewhere = (*_SETTINGS, "command", "config", "versions")
    settings += [(name, str(value)) for name, value in run.items() if name not in shown_elsewhere]
    if run.get("versions"):
        settings.append(("Versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())))
    body = (html_row(name, [escape(value)]) for name, value in settings)
    parts = [html_table("Settings and device of the run", ["Setting", "Value"], body, "words")]
    stages = list(dict.fromkeys(stage for result in results for stage in result.seconds))
    if stages:
        times = (
            html_row(r.category, [f"{r.seconds[s]:.1f}" if s in r.seconds else "" for s in stages]) for r in results
        )
        parts.append(f"<h3>Time</h3>\n{html_table('Wall-clock time in seconds', ['Category', *stages], times)}")
    if run.get("command"):
        parts.append(f'<h3>Command</h3>\n<div class="scroll"><pre>{escape(str(run["command"]))}</pre></div>\n')
    if run.get("config"):
        config = escape(json.dumps(run["config"], indent=2, default=str))
        parts.append(f'<details><summary>Config</summary><div class="scroll"><pre>{config}</pre></div></details>\n')
    return f'<section aria-labelledby="run">\n<h2 id="run">The run</h2>\n{"".join(parts)}</section>\n'
