"""The table of results in Markdown, with published numbers beside the measured ones."""

import math
from collections.abc import Sequence

from jaxad.metrics import IMAGE_METRICS, PIXEL_METRICS
from jaxad.report.category import CategoryResult
from jaxad.report.published import Published

METRICS = (*IMAGE_METRICS, *PIXEL_METRICS)
_MODES = {
    "exact": "exact: every distinct score is a threshold, all pixels count, AUPRO up to a false positive rate of 0.3",
    "ader": "ader: approximations of ADer's benchmark evaluator (50 strips), the ones behind MIRAD's tables",
    "ader_steps": "ader_steps: ADer's evaluator without ADEval (exact P-AUROC and P-AP, AUPRO in 100 steps)",
}


def metric_names(results: Sequence[CategoryResult]) -> list[str]:
    """The metrics that any category has, in their usual order."""
    found = {metric: None for result in results for metric in result.metrics}
    return [m for m in METRICS if m in found] + [m for m in found if m not in METRICS]


def mean_metrics(results: Sequence[CategoryResult]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """(metric -> mean over the categories that have it, NaN where none has; metric -> categories left out)."""
    means, left_out = {}, {}
    for metric in metric_names(results):
        values = {result.category: result.metrics.get(metric, math.nan) for result in results}
        known = [value for value in values.values() if not math.isnan(value)]
        means[metric] = math.fsum(known) / len(known) if known else math.nan
        if len(known) < len(values):
            left_out[metric] = [category for category, value in values.items() if math.isnan(value)]
    return means, left_out


def rows(
    results: Sequence[CategoryResult], published: Published | None = None
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(category, [(measured, published) for every metric]) in percent, the mean last; "" where nothing was published.

    The mean row is left out for a single category, unless the paper gives only a mean to set beside it.
    """
    names = metric_names(results)
    means, _ = mean_metrics(results)
    table = [
        (result.category, result.metrics, published.of(result.category) if published else {}) for result in results
    ]
    if len(results) > 1 or (published and not published.categories):
        table.append(("mean", means, published.mean if published and _same_categories(results, published) else {}))
    return [
        (
            category,
            [
                (percent(measured.get(name, math.nan)), percent(printed[name]) if name in printed else "")
                for name in names
            ],
        )
        for category, measured, printed in table
    ]


def footnotes(results: Sequence[CategoryResult], published: Published | None = None, mode: str = "exact") -> list[str]:
    """What the table's reader must know, one sentence per line."""
    notes = [f"Metrics: {_MODES.get(mode, mode)}."]
    if published:
        notes.append(f"Published: {published.source}.")
        if not _same_categories(results, published):
            notes.append("The published mean is over other categories, so it is not set beside the mean measured here.")
    _, left_out = mean_metrics(results)
    if left_out:
        notes.append("n/a: the metric needs both normal and anomalous images or pixels, and pixel metrics need masks.")
    return notes + (left_out_notes(left_out) if len(results) > 1 else [])


def left_out_notes(left_out: dict[str, list[str]]) -> list[str]:
    """The second value of `mean_metrics` in words; metrics that lack the same categories share a sentence."""
    by_categories: dict[tuple[str, ...], list[str]] = {}
    for metric, categories in left_out.items():
        by_categories.setdefault(tuple(categories), []).append(metric)
    return [f"Mean of {', '.join(m)} without {', '.join(categories)}." for categories, m in by_categories.items()]


def format_table(results: Sequence[CategoryResult], published: Published | None = None, mode: str = "exact") -> str:
    """A Markdown table, also readable on a console: one row per category and the mean, with footnotes below.

    Args:
      published: shown in brackets behind the measured values.
      mode: of `jaxad.metrics.compute`, named in the footnotes.
    """
    header = ["category", *metric_names(results)]
    unit = "In percent; in brackets the published value." if published else "In percent."
    body = [
        [markdown(category), *(f"{measured} ({printed})" if printed else measured for measured, printed in cells)]
        for category, cells in rows(results, published)
    ]
    return "\n".join(
        [
            *markdown_table(header, body),
            "",
            *(markdown(note) + "  " for note in (unit, *footnotes(results, published, mode))),
        ]
    )


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, padded; all columns but the first are aligned to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *body, strict=True)]
    lines = [[header[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(header[1:], widths[1:], strict=True))]]
    lines.append(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines += [[r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:], widths[1:], strict=True))] for r in body]
    return [f"| {' | '.join(line)} |" for line in lines]


def markdown(text: str) -> str:
    """The text on one line, with characters escaped that would start a cell or an HTML tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _same_categories(results: Sequence[CategoryResult], published: Published) -> bool:
    ours = [result.category for result in results]
    return not published.categories or (
        all(published.of(category) for category in ours) and len(ours) == len(published.categories)
    )


def percent(value: float) -> str:
    """A fraction in percent with one decimal; n/a for NaN."""
    return "n/a" if math.isnan(value) else f"{100 * value:.1f}"
