"""The files of a report: results.json for programs, results.md and report.html for people."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxad.errors import UserError
from jaxad.files import write_text
from jaxad.metrics import Curves
from jaxad.report.category import CategoryResult
from jaxad.report.page import page
from jaxad.report.published import Published
from jaxad.report.table import format_table, left_out_notes, markdown, markdown_table, mean_metrics


class Stored(NamedTuple):
    """The contents of results.json; the results have no cases."""

    results: list[CategoryResult]
    run: dict[str, Any]
    published: Published | None


def write(
    directory: Path | str, results: Sequence[CategoryResult], run: Mapping[str, Any], published: Published | None = None
) -> None:
    """Writes results.json, results.md and report.html, each whole or not at all.

    Args:
      run: facts about the run, of JSON's types: "method", "dataset", "metrics" (the mode), "seed", "device", "date",
        "command", "versions" (a dict), "config" (a dict). All are optional; any others are shown too.
      published: results to show beside the measured ones.

    Raises:
      UserError: a file cannot be written.
    """
    directory = Path(directory)
    means, left_out = mean_metrics(results)
    if left_out and len(results) > 1:
        named = " ".join(left_out_notes(left_out))
        warnings.warn(f"metrics that not every category has: {named}", RuntimeWarning, stacklevel=2)
    stored = {
        "run": dict(run),
        "mean": means,
        "published": asdict(published) if published else None,
        "categories": [_fields(result) for result in results],
    }
    write_text(directory / "results.json", _pretty(_encode(stored)) + "\n")
    write_text(directory / "results.md", _markdown_report(results, run, published))
    write_text(directory / "report.html", page(results, run, published))


def read(directory: Path | str) -> Stored:
    """Reads results.json back; tuples in `run` come back as lists.

    Raises:
      UserError: the file is missing or was not written by `write`.
    """
    path = Path(directory) / "results.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        results = [_decode(entry) for entry in stored["categories"]]
        published = Published(**stored["published"]) if stored["published"] else None
        return Stored(results, stored["run"], published)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {error}, expected results that jaxad wrote; evaluate the run again") from error


def _fields(result: CategoryResult) -> dict[str, Any]:
    values = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "cases"}
    values["curves"] = {kind: asdict(curves) for kind, curves in result.curves.items()}
    return values


def _decode(entry: dict[str, Any]) -> CategoryResult:
    curves = {kind: _curves(values) for kind, values in entry["curves"].items()}
    changed = {
        "metrics": {name: float(_floats([value])[0]) for name, value in entry["metrics"].items()},
        "scores": _floats(entry["scores"]),
        "labels": np.asarray(entry["labels"], bool),
        "threshold": None if entry["threshold"] is None else float(entry["threshold"]),
        "curves": curves,
    }
    return CategoryResult(**(entry | changed))


def _curves(stored: Mapping[str, Any]) -> Curves:
    fpr, tpr, recall, precision = (_floats(stored[name]) for name in ("fpr", "tpr", "recall", "precision"))
    pro_fpr, pro = (None if stored[name] is None else _floats(stored[name]) for name in ("pro_fpr", "pro"))
    return Curves(fpr, tpr, recall, precision, pro_fpr, pro)


def _floats(values: Sequence[float | str | None]) -> Float[np.ndarray, " n"]:
    return np.asarray([math.nan if value is None else float(value) for value in values], np.float64)


def _encode(value: Any) -> Any:
    """The value in JSON's types: NaN as null, infinity as "inf" and "-inf", arrays as lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _pretty(value: Any, indent: str = "") -> str:
    """JSON with one line per field, and arrays of plain values on one line."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{deeper}{json.dumps(key)}: {_pretty(entry, deeper)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return "[\n" + ",\n".join(deeper + _pretty(entry, deeper) for entry in value) + f"\n{indent}]"
    return json.dumps(value)


def _markdown_report(results: Sequence[CategoryResult], run: Mapping[str, Any], published: Published | None) -> str:
    title = f"# {markdown(str(run.get('method', 'Results')))} on {markdown(str(run.get('dataset', 'images')))}"
    table = format_table(results, published, run.get("metrics", "exact"))
    return "\n".join([title, "", table, "", *_decisions(results), *_facts(results, run)]) + "\n"


def _decisions(results: Sequence[CategoryResult]) -> list[str]:
    """The section on thresholds: a table of the categories that have one, and a line for each of the others."""
    header = ["category", "threshold", "calibrated on", "false alarms", "missed"]
    body, without = [], []
    for result in results:
        name, anomalous = markdown(result.category), int(np.sum(result.labels))
        if result.threshold is None:
            reason = f": {markdown(result.no_threshold)}" if result.no_threshold else ""
            without.append(f" - {name} has no threshold{reason}")
            continue
        share = "" if result.false_alarm_rate is None else f" for {100 * result.false_alarm_rate:g}%"
        body.append(
            [
                name,
                f"{result.threshold:.5g}",
                f"{result.calibration_images} images{share}",
                f"{result.false_alarms} of {len(result.labels) - anomalous}",
                f"{result.missed} of {anomalous}",
            ]
        )
    lines = [*markdown_table(header, body), ""] if body else []
    lines += [*without, ""] if without else []
    return ["## Decisions", "", *lines] if lines else []


def _facts(results: Sequence[CategoryResult], run: Mapping[str, Any]) -> list[str]:
    """The section on the run: its settings, how long it took, and the command."""
    lines = ["## Run", ""]
    for name, value in run.items():
        if name not in ("config", "command"):
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
            lines.append(f" - {markdown(name)}: {markdown(shown)}")
    for result in results:
        if result.seconds:
            times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
            lines.append(f" - time, {markdown(result.category)}: {markdown(times)}")
    if "command" in run:
        lines += ["", *(f"    {line}" for line in str(run["command"]).splitlines())]
    return lines
