"""The folder of a run: tried before anything is computed, held to one config, with the results of finished models."""

import datetime
import importlib
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxad import report, sharding
from jaxad.config import Config, differences, fields, plain
from jaxad.errors import UserError

CASES = "cases.npz"


def open_workdir(workdir: str | os.PathLike) -> Path:
    """The folder of a run, made and tried.

    Raises:
      UserError: nothing can be written there.
    """
    path = Path(workdir).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write in the workdir {path}: {error.strerror}; name another folder with --workdir"
        ) from error
    return path


def folder_name(category: str) -> str:
    """A category's name as a folder: no separators."""
    return category.replace(os.sep, "_").replace("..", "_") or "_"


def check_config(folder: Path, config: Config) -> None:
    """Notes the config in a folder without results; elsewhere it must be the same, but for fields that change none.

    Raises:
      UserError: the folder belongs to another config.
    """
    path = folder / "config.json"
    if path.exists() and any((folder / "checkpoints").glob("step_*")):
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): remove {folder} or name another --workdir") from error
        if changed := differences(saved, config):
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise UserError(
                f"{folder} holds a run of another config: {changed[0]}{more}; "
                "name another --workdir, or remove the folder"
            )
    elif jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        facts = {name: plain(value) for name, value in fields(config).items()}
        report.write_text(path, json.dumps(facts, indent=1, default=str))
    sharding.wait_for_all("config")


def published_results(config: Config) -> Any:
    """The table of `config.evaluation.published`; None where there is none, or the test images are not those of it."""
    settings = config.evaluation
    as_published = settings.split == "test" and not settings.where and not settings.corruptions
    return report.lookup(settings.published) if settings.published and as_published else None


def evaluation_settings(config: Config) -> dict[str, Any]:
    """What a result depends on besides the model."""
    names = ("metrics", "split", "where", "corruptions")
    return {name: config.evaluation[name] for name in names} | {"false_alarm_rate": config.threshold.false_alarm_rate}


def evaluation_folder(workdir: Path, config: Config) -> Path:
    """Where results go: WORKDIR for the plain test split, WORKDIR/evaluations/NAME for a named evaluation and for any
    other; without a name it is called by what is special about it, so that no result takes another's place.
    """
    settings = config.evaluation
    special = [settings.split] * (settings.split != "test") + [s for s in (settings.where, settings.corruptions) if s]
    name = settings.name or re.sub(r"[^\w.=!<>|+-]+", "_", "_".join(special))
    return workdir / "evaluations" / folder_name(name) if name else workdir


def write_report(workdir: Path, results: Sequence[report.CategoryResult], config: Config) -> None:
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
    report.write(workdir, list(results), facts, published_results(config))


def save_results(folder: Path, results: Sequence[report.CategoryResult], config: Config) -> None:
    """The report of one model, and what a later report over all models needs of it; the cases, written last, say it is
    complete.
    """
    write_report(folder, results, config)
    report.save_cases(folder / CASES, results)


def finished_results(folder: Path, model_folder: Path, config: Config) -> list[report.CategoryResult] | None:
    """The results in `folder` of a model that was evaluated before in the same way; None where there are none."""
    if not (folder / CASES).exists():
        return None
    check_config(model_folder, config)
    stored = report.read(folder)
    if any(stored.run.get(name) != value for name, value in evaluation_settings(config).items()):
        return None
    return report.with_cases(stored.results, folder / CASES)
