"""What a run leaves behind: the report of each category, that of all, and what a later run reads back of them."""

import datetime
import importlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxad.config import Config
from jaxad.report.cases import save_cases, with_cases
from jaxad.report.category import CategoryResult
from jaxad.report.published import Published, lookup
from jaxad.report.results import read, write

CASES = "cases.npz"


def published_results(config: Config) -> Published | None:
    """The row of `config.evaluation.published`; None where there is none, or where other images are tested on."""
    settings = config.evaluation
    as_published = settings.split == "test" and not settings.where and not settings.corruptions
    return lookup(settings.published) if settings.published and as_published else None


def evaluation_settings(config: Config) -> dict[str, Any]:
    """What a result depends on besides the model."""
    names = ("metrics", "split", "where", "corruptions")
    return {name: config.evaluation[name] for name in names} | {"false_alarm_rate": config.threshold.false_alarm_rate}


def write_report(folder: Path, results: Sequence[CategoryResult], config: Config) -> None:
    """Writes results.json, results.md and report.html of some categories."""
    device = jax.devices()[0]
    facts = {
        "config": json.loads(config.to_json_best_effort()),
        "command": " ".join(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": config.dataset.name,
        "method": config.method,
        "seed": config.seed,
        **evaluation_settings(config),
        "device": f"{jax.device_count()} x {device.device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {name: importlib.import_module(name).__version__ for name in ("jaxad", "jax", "flax", "numpy")},
    }
    write(folder, list(results), facts, published_results(config))


def save_result(folder: Path, result: CategoryResult, config: Config) -> None:
    """Writes the report of one category and its gallery; the gallery, written last, says that it is complete."""
    write_report(folder, [result], config)
    save_cases(folder / CASES, [result])


def finished_result(folder: Path, config: Config) -> CategoryResult | None:
    """The result in `folder`, if it was computed in the way that the config says; else None.

    Raises:
      UserError: its files are damaged.
    """
    if not (folder / CASES).exists():
        return None
    stored = read(folder)
    if any(stored.run.get(name) != value for name, value in evaluation_settings(config).items()):
        return None
    (result,) = with_cases(stored.results, folder / CASES)
    return result
