"""report.html: one file with everything inside, readable without scripts and without a network."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from jaxad.report.category import FALSE_ALARM, HIGHEST, LOWEST, MISSED, Case, CategoryResult
from jaxad.report.charts import Line, histogram, line_chart
from jaxad.report.overlay import PALETTE, heat, map_scale, outline, overlay
from jaxad.report.published import Published
from jaxad.report.table import footnotes, metric_names, rows

THUMBNAIL = 256  # pixels of the longer side
_CASES_IN_ALL = 240  # cards of the whole page: some 20 KB each
_CASES_PER_GROUP = 8
_PADDING_GREY = 128
_PRO_LIMIT = 0.3

_GROUPS = (
    (FALSE_ALARM, "False alarms", "Normal images above the threshold, the highest score first."),
    (MISSED, "Missed defects", "Anomalous images at or below the threshold, the lowest score first."),
    (HIGHEST, "Highest scores", "What looked most anomalous, whatever it is."),
    (LOWEST, "Lowest scores", "What looked most normal, whatever it is."),
)
_TITLES = {"method": "Method", "preset": "Preset", "dataset": "Data set", "metrics": "Metrics", "seed": "Seed", "device": "Device",
           "date": "Date"}  # fmt: skip

_STYLE = """
:root { color-scheme: light dark;
  --page: #fafaf8; --surface: #ffffff; --text: #1d2126; --muted: #59616b; --line: #dddfdd; --grid: #e9eae7;
  --normal: #0072b2; --anomalous: #c04a00; --strong: #1d2126; --wrong-text: #8a2b00; --wrong-back: #fdebe0;
  --right-text: #0b5345; --right-back: #e3f3ee; }
@media (prefers-color-scheme: dark) { :root {
  --page: #15181b; --surface: #1d2125; --text: #e7e9ea; --muted: #a5adb5; --line: #363c42; --grid: #2b3035;
  --normal: #56b4e9; --anomalous: #f2934a; --strong: #f3f4f4; --wrong-text: #ffc29b; --wrong-back: #47280f;
  --right-text: #9fe0cb; --right-back: #14372e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; font-weight: 650; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; margin: 56px 0 12px; font-weight: 650; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 32px 0 4px; font-weight: 650; }
p { margin: 4px 0 12px; max-width: 75ch; }
.muted, figcaption, caption, .notes { color: var(--muted); font-size: 0.875rem; }
.notes { margin: 10px 0 0; padding-left: 18px; }
a { color: inherit; text-underline-offset: 3px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 14px 0 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 8px; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--normal); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 12px 16px 4px; }
th, td { padding: 7px 16px; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); }
thead th { border-top: 0; font-size: 0.8125rem; color: var(--muted); font-weight: 600; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9em; font-weight: 500; }
tr.mean th, tr.mean td { border-top: 2px solid var(--line); font-weight: 650; }
td small { color: var(--muted); font-weight: 400; font-size: 0.85em; margin-left: 0.3em; }
.left td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 40px; margin: 0 0 18px; }
.facts div { min-width: 90px; }
.facts dt { color: var(--muted); font-size: 0.8125rem; }
.facts dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.facts dd small { font-size: 0.8125rem; color: var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(270px, 100%), 1fr)); gap: 16px; }
figure { margin: 0; }
.chart, .card { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: 12px; }
.chart h3 { margin: 0 0 8px; font-size: 0.9375rem; }
.chart svg { display: block; width: 100%; height: auto; max-width: 460px; margin: 0 auto; }
svg text { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
svg text.strong { fill: var(--strong); font-weight: 600; }
svg path { fill: none; }
.grid { stroke: var(--grid); } .axis { stroke: var(--muted); stroke-width: 1; }
.chance { stroke: var(--muted); stroke-dasharray: 1 4; stroke-linecap: round; }
.curve { stroke-width: 2; stroke-linejoin: round; }
.curve.image { stroke: var(--normal); } .curve.pixel { stroke: var(--anomalous); stroke-dasharray: 6 3; }
svg .bar.normal { fill: var(--normal); } svg .bar.anomalous { fill: var(--anomalous); }
.threshold { stroke: var(--strong); stroke-width: 1.5; stroke-dasharray: 5 3; }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 14px; }
.key svg { width: 26px; height: 10px; flex: none; margin: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(370px, 100%), 1fr)); gap: 16px; }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 4px; }
.card figcaption { margin-top: 8px; display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; }
.card .name { color: var(--text); flex-basis: 100%; overflow-wrap: anywhere; font-weight: 500; }
.card .score { font-variant-numeric: tabular-nums; }
.verdict { border-radius: 4px; padding: 0 7px; font-weight: 600; }
.verdict.wrong { color: var(--wrong-text); background: var(--wrong-back); } .verdict.right { color: var(--right-text); background: var(--right-back); }
.scale { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 10px; margin: 8px 0 0; font-variant-numeric: tabular-nums; }
.ramp { display: inline-block; width: 160px; height: 12px; border-radius: 3px; border: 1px solid var(--line); }
.outline-key { display: inline-block; width: 18px; height: 12px; border: 2px solid #00e5ff; border-radius: 2px; box-shadow: 0 0 0 1px #1d2126; background: #8a8f94; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; padding: 12px 16px; font: 0.8125rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
details { margin-top: 16px; } summary { cursor: pointer; font-weight: 600; width: fit-content; }
details .scroll { margin-top: 8px; }
footer { padding-top: 40px; padding-bottom: 48px; }
@media (max-width: 560px) { main, header, footer { padding-left: 14px; padding-right: 14px; } header { padding-top: 24px; }
  th, td { padding: 6px 10px; } h1 { font-size: 1.5rem; } .facts { gap: 6px 24px; } }
"""


def page(results: Sequence[CategoryResult], run: Mapping[str, Any], published: Published | None = None) -> str:
    """The whole page; arguments as in `jaxad.report.results.write`."""
    title = f"{run.get('method', 'Results')} on {run.get('dataset', 'images')}"
    per_group = max(1, min(_CASES_PER_GROUP, _CASES_IN_ALL // (len(_GROUPS) * max(1, len(results)))))
    about = [str(run[name]) for name in ("preset", "device", "date") if run.get(name)]
    links = [f'<li><a href="#category-{i}">{escape(result.category)}</a></li>' for i, result in enumerate(results)]
    return "".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        # nothing is loaded and nothing runs, whatever the names of files and categories hold
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n",
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="muted">{escape(" · ".join(about))}</p>\n',
        f'<nav aria-label="Categories"><ul>{"".join(links)}<li><a href="#run">The run</a></li></ul></nav>\n' if len(results) > 1 else "",
        "</header>\n<main>\n",
        _results_table(results, run, published),
        *(_category(i, result, per_group) for i, result in enumerate(results)),
        _run(results, run),
        "</main>\n<footer class=\"muted\">Written by jaxad. The numbers are in results.json, the table in results.md.</footer>\n</body>\n</html>\n",
    ])  # fmt: skip


def _results_table(results: Sequence[CategoryResult], run: Mapping[str, Any], published: Published | None) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("Category", *metric_names(results)))
    body = []
    table = rows(results, published)
    for i, (category, cells) in enumerate(table):
        mean = ' class="mean"' if i == len(results) else ""
        values = "".join(
            f"<td>{measured}{f' <small>({printed})</small>' if printed else ''}</td>" for measured, printed in cells
        )
        body.append(f'<tr{mean}><th scope="row">{escape(category)}</th>{values}</tr>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in footnotes(results, published, run.get("metrics", "exact")))
    caption = "Measured, in brackets published, in percent" if published else "Measured, in percent"
    return (
        '<section aria-labelledby="results">\n<h2 id="results">Results</h2>\n'
        f'{_table(caption, header, body)}<ul class="notes">{notes}</ul>\n</section>\n'
    )


def _table(caption: str, header: str, body: Iterable[str], kind: str = "") -> str:
    # a wide table scrolls by itself; to be reached with the keyboard it needs the focus and a name
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table{f" class={kind}" if kind else ""}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{header}</tr></thead><tbody>{''.join(body)}</tbody></table></div>\n"
    )


def _category(index: int, result: CategoryResult, per_group: int) -> str:
    return (
        f'<section aria-labelledby="category-{index}">\n<h2 id="category-{index}">{escape(result.category)}</h2>\n'
        f"{_facts(result)}{_charts(result)}{_defect_types(result)}{_gallery(result, per_group)}</section>\n"
    )


def _facts(result: CategoryResult) -> str:
    anomalous = int(np.sum(result.labels))
    normal = len(result.labels) - anomalous
    facts = [("Test images", f"{len(result.labels)} <small>{normal} normal, {anomalous} anomalous</small>")]
    if result.threshold is None:
        facts.append(("Threshold", "none <small>no held-out normal images to set it on</small>"))
    else:
        share = "" if result.false_alarm_rate is None else f" at {100 * result.false_alarm_rate:g}% false alarms"
        facts.append(
            (
                "Threshold",
                f"{result.threshold:.5g} <small>set on {result.calibration_images} normal images{share}</small>",
            )
        )
        facts.append(
            (
                "False alarms",
                f"{result.false_alarms} <small>of {normal} normal{_share(result.false_alarms, normal)}</small>",
            )
        )
        facts.append(
            (
                "Missed defects",
                f"{result.missed} <small>of {anomalous} anomalous{_share(result.missed, anomalous)}</small>",
            )
        )
    return f'<dl class="facts">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)}</dl>\n'


def _share(count: int, total: int) -> str:
    return f", {100 * count / total:.1f}%" if total else ""


def _charts(result: CategoryResult) -> str:
    image, pixel = result.curves.get("image"), result.curves.get("pixel")
    both = [
        (kind, curves)
        for kind, curves in (("image", image), ("pixel", pixel))
        if curves is not None and curves.fpr.size
    ]
    charts = [
        (
            "Image scores",
            histogram(
                f"Histogram of the image scores of {result.category}, normal upward, anomalous downward",
                result.scores,
                result.labels,
                result.threshold,
            ),
            [("normal", "normal, upward"), ("anomalous", "anomalous, downward")],
        )
    ]
    if both:
        charts.append((
            "ROC",
            line_chart(f"ROC curves of {result.category}", [Line(kind, c.fpr, c.tpr) for kind, c in both], "false positive rate", "true positive rate", diagonal=True),
            [(kind, _area(result, kind, "AUROC")) for kind, _ in both],
        ))  # fmt: skip
        charts.append((
            "Precision and recall",
            line_chart(f"Precision-recall curves of {result.category}", [Line(kind, c.recall, c.precision, steps=True) for kind, c in both], "recall", "precision"),
            [(kind, _area(result, kind, "AP")) for kind, _ in both],
        ))  # fmt: skip
    if pixel is not None and pixel.pro is not None and pixel.pro_fpr is not None and pixel.pro.size:
        charts.append((
            "Per-region overlap",
            line_chart(f"PRO curve of {result.category}", [Line("pixel", pixel.pro_fpr, pixel.pro)], "false positive rate", "per-region overlap", x_limit=_PRO_LIMIT),
            [("pixel", f"AUPRO {_percent(result.metrics.get('AUPRO'))}")],
        ))  # fmt: skip
    figures = "".join(
        f'<figure class="chart"><h3>{title}</h3>{chart}<figcaption>{"".join(_key(*key) for key in keys)}</figcaption></figure>'
        for title, chart, keys in charts
    )
    return f'<div class="charts">{figures}</div>\n'


def _key(kind: str, text: str) -> str:
    shape = (
        '<path class="bar {0}" d="M1 1h24v8H1z"/>'
        if kind in ("normal", "anomalous")
        else '<path class="curve {0}" d="M0 5H26"/>'
    )
    return (
        f'<span class="key"><svg viewBox="0 0 26 10" aria-hidden="true">{shape.format(kind)}</svg>{escape(text)}</span>'
    )


def _area(result: CategoryResult, kind: str, name: str) -> str:
    return f"{kind}s, {name} {_percent(result.metrics.get(f'{kind[0].upper()}-{name}'))}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None or np.isnan(value) else f"{100 * value:.1f}"


def _defect_types(result: CategoryResult) -> str:
    """How many of each kind of defect were found; nothing where the data set does not tell them apart."""
    labels, scores = np.asarray(result.labels, bool), np.asarray(result.scores)
    types = sorted({name for name, label in zip(result.defect_types, labels, strict=True) if label and name})
    if len(types) < 2:
        return ""
    threshold = result.threshold
    body = []
    for name in types:
        of_type = scores[[label and kind == name for kind, label in zip(result.defect_types, labels, strict=True)]]
        cells = [str(len(of_type)), f"{np.median(of_type):.4g}"]
        if threshold is not None:
            found = int(np.sum(of_type > threshold))
            cells += [f"{found}", f"{100 * found / len(of_type):.1f}"]
        body.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    names = ["Defect type", "Images", "Median score"] + (
        ["Found", "Found, in percent"] if threshold is not None else []
    )
    header = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<h3>Defect types</h3>\n{_table(f'Anomalous test images of {result.category} by type of defect', header, body)}"


def _gallery(result: CategoryResult, per_group: int) -> str:
    if not result.cases:
        return ""
    valid = [np.ones(case.map.shape, bool) if case.valid is None else case.valid for case in result.cases]
    low, high = map_scale([case.map for case in result.cases], [bool(case.label) for case in result.cases], valid)
    ramp = ", ".join(f"rgb({r} {g} {b})" for r, g, b in PALETTE[:: 255 // 15])
    parts = [
        "<h3>Images</h3>\n<p>Each card: the photograph, its anomaly map, and the map over the photograph.</p>\n"
        f'<p class="scale muted"><span>{low:.4g}</span><span class="ramp" role="img" aria-label="Colours of the map from dark to bright" '
        f'style="background: linear-gradient(to right, {ramp})"></span><span>{high:.4g}</span>'
        "<span>one scale for the category, from the median of normal images to the 99.9th percentile of the images below</span></p>\n"
    ]
    if any(case.mask is not None and case.mask.any() for case in result.cases):
        parts.append(
            '<p class="scale muted"><span class="outline-key"></span><span>border of the ground-truth mask</span></p>\n'
        )
    for reason, title, explanation in _GROUPS:
        if result.threshold is None and reason in (FALSE_ALARM, MISSED):
            continue
        cases = [case for case in result.cases if reason in case.reasons]
        cases.sort(key=lambda case: case.score if reason in (LOWEST, MISSED) else -case.score)
        cards = "".join(_card(case, low, high) for case in cases[:per_group])
        shown = f'<div class="cards">{cards}</div>' if cards else "<p>None.</p>"
        parts.append(f'<h3>{title}</h3>\n<p class="muted">{explanation}</p>\n{shown}\n')
    return "".join(parts)


def _card(case: Case, low: float, high: float) -> str:
    height, width = case.image.shape[:2]
    shrink = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    image = np.asarray(
        Image.fromarray(case.image).resize(size, Image.Resampling.BOX if shrink < 1 else Image.Resampling.NEAREST)
    )
    anomaly_map = np.asarray(Image.fromarray(np.asarray(case.map, np.float32)).resize(size, Image.Resampling.BILINEAR))
    valid = None if case.valid is None else _resize_mask(case.valid, size)
    map_picture = heat(anomaly_map, low, high)
    if valid is not None:
        map_picture[~valid] = _PADDING_GREY
    over = overlay(image, anomaly_map, low, high, valid)
    outlined = case.mask is not None and case.mask.any()
    if case.mask is not None:
        over = outline(over, _resize_mask(case.mask, size))
    kind = "anomalous" if case.label else "normal"
    pictures = "".join(
        f'<img src="{_data_uri(picture)}" width="{size[0]}" height="{size[1]}" alt="{escape(f"{name} of {case.id}")}">'
        for picture, name in (
            (image, "Photograph"),
            (map_picture, "Anomaly map"),
            (
                over,
                "Anomaly map over the photograph, with the border of the mask,"
                if outlined
                else "Anomaly map over the photograph",
            ),
        )
    )
    truth = case.defect_type if case.label and case.defect_type else kind
    verdict = ""
    if case.decision is not None:
        wrong = case.decision != bool(case.label)
        text = (FALSE_ALARM if case.decision else MISSED) if wrong else ("found" if case.decision else "passed")
        verdict = f'<span class="verdict {"wrong" if wrong else "right"}">{text}</span>'
    return (
        f'<figure class="card"><div class="pictures">{pictures}</div><figcaption><span class="name">{escape(case.id)}</span>'
        f'<span class="score">score {case.score:.4g}</span><span>{escape(truth)}</span>{verdict}</figcaption></figure>'
    )


def _resize_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "p q"]:
    # any part of a pixel counts: a thin defect must not vanish
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0


def _data_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    file = io.BytesIO()
    # full colour resolution keeps the thin outline cyan
    Image.fromarray(picture).save(file, format="jpeg", quality=85, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _run(results: Sequence[CategoryResult], run: Mapping[str, Any]) -> str:
    entries = [(title, str(run[name])) for name, title in _TITLES.items() if run.get(name) not in (None, "")]
    entries += [
        (str(name), str(value))
        for name, value in run.items()
        if name not in (*_TITLES, "command", "config", "versions")
    ]
    entries += [("Versions", ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()))]
    body = [f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in entries if value]
    parts = [
        '<section aria-labelledby="run">\n<h2 id="run">The run</h2>\n',
        _table("What was run, and on what", '<th scope="col">Setting</th><th scope="col">Value</th>', body, "left"),
    ]
    stages = list(dict.fromkeys(name for result in results for name in result.seconds))
    if stages:
        header = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("Category", *stages))
        times = [
            f'<tr><th scope="row">{escape(r.category)}</th>'
            + "".join(f"<td>{r.seconds[name]:.1f}</td>" if name in r.seconds else "<td></td>" for name in stages)
            + "</tr>"
            for r in results
        ]
        parts.append(f"<h3>Time</h3>\n{_table('Seconds of wall-clock time', header, times)}")
    if run.get("command"):
        parts.append(f'<h3>Command</h3>\n<div class="scroll"><pre>{escape(str(run["command"]))}</pre></div>\n')
    if run.get("config"):
        config = json.dumps(run["config"], indent=2, default=str)
        parts.append(
            f'<details><summary>Config</summary><div class="scroll"><pre>{escape(config)}</pre></div></details>\n'
        )
    return "".join(parts) + "</section>\n"
