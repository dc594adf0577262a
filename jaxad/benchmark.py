"""Tables of runs: a config with `benchmark` describes many cells, each of them that config with some fields changed.

A cell is a dict: `name`; `labels`, its places on the axes of the figures; `set`, config field -> value; `figure`, the
figure it is drawn in; `against`, the cell that its changes are measured from. Cells that agree in everything that
training depends on share one model, WORKDIR/models/MODEL, and are evaluated into MODEL/evaluations/CELL. Finished work
is kept, so the same command continues after a stop.
"""

import copy
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxad import experiment, sharding
from jaxad.config import FREE_FIELDS, Config, check_field, fields, plain, replace_field
from jaxad.errors import UserError, did_you_mean, shown
from jaxad.report import sensitivity
from jaxad.report.overlaps import read_overlaps
from jaxad.run_lock import held
from jaxad.settings import Text, checked, setting
from jaxad.workdir import check_config, evaluation_folder, folder_name, open_workdir

logger = logging.getLogger(__name__)

_KEYS = ("name", "labels", "set", "figure", "against")


@dataclass(frozen=True)
class Cell:
    """One entry of the table; `config` is complete and has no `benchmark`."""

    name: str
    labels: Mapping[str, Any]
    figure: str
    against: str
    config: Config


def run(config: Config, workdir: str | os.PathLike, mode: str = "train_and_evaluate") -> list[sensitivity.CellResult]:
    """Trains each model once, evaluates every cell, writes benchmark.{json,csv,md}, report.html and sensitivity.svg.

    Args:
      config: a method's config with `benchmark`: `cells`, `figures` (see `jaxad.report.sensitivity.write`), `title`,
        and `only`, the names of the figures whose cells are wanted.
      mode: "train_and_evaluate", "train", or "evaluate".

    Raises:
      UserError: anything the user can correct; an error in a cell's fields or data names the cell, before anything is
        trained.
    """
    check_table(config)
    workdir = open_workdir(workdir)
    with held(workdir):
        return run_cells(config, workdir, mode)


def run_cells(config: Config, workdir: Path, mode: str) -> list[sensitivity.CellResult]:
    """`run` in a folder that is held."""
    chosen, figures = cells_of(config), figures_of(config)
    folders = model_folders(chosen, config)
    for cell in chosen:
        try:
            check(cell, workdir / "models" / folders[cell.name])
        except UserError as error:
            raise UserError(f"cell {cell.name!r} of the benchmark: {error}") from error
    models = list(dict.fromkeys(folders.values()))
    logger.info("%d cells, %d models", len(chosen), len(models))
    results = {}
    for place, model in enumerate(models, 1):
        folder = workdir / "models" / model
        members = [cell for cell in chosen if folders[cell.name] == model]
        for number, cell in enumerate(members[:1] if mode == "train" else members, 1):
            logger.info(
                "%s, %d of %d models; cell %s, %d of %d", model, place, len(models), cell.name, number, len(members)
            )
            categories = experiment.run(cell.config, folder, mode)
            target = evaluation_folder(folder, cell.config)
            results[cell.name] = sensitivity.CellResult(
                name=cell.name,
                labels=cell.labels,
                figure=cell.figure,
                against=cell.against,
                trained_on=trained_on(cell.config),
                tested_on=tested_on(cell.config),
                categories=categories,
                report=str((target / "report.html").relative_to(workdir)),
                overlaps=read_overlaps(target),
            )
    if mode == "train":
        return []
    table = [results[cell.name] for cell in chosen]
    if jax.process_index() == 0:
        print(f"\n{sensitivity.write(workdir, table, figures, facts(config))}")
        print(f"\nReport: {workdir / 'report.html'}", flush=True)
    sharding.wait_for_all("benchmark")
    return table


def check_table(config: Config) -> None:
    """Checks that `config.benchmark` has its fields, and that its figures are named.

    Raises:
      UserError: a field is missing or of another type; the message names it.
    """
    for field in ("benchmark.title", "benchmark.only"):
        checked(config, field, Text)
    for field in ("benchmark.cells", "benchmark.figures"):
        rows = setting(config, field)
        if not isinstance(rows, tuple) or not all(isinstance(row, Mapping) for row in rows):
            raise UserError(f"config.{field} is {shown(rows)}; expected a tuple of dicts")
    for figure in config.benchmark.figures:
        if not figure.get("name"):
            raise UserError(f"config.benchmark.figures has {shown(figure)}; expected a dict with a name")


def cells_of(config: Config) -> list[Cell]:
    """The cells that `config.benchmark` asks for, each with its complete config.

    Raises:
      UserError: a cell is not as described above, or sets a field that the config does not have.
    """
    names = [cell.get("name") for cell in config.benchmark.cells]
    figures = {figure["name"] for figure in config.benchmark.figures}
    wanted = {figure["name"] for figure in figures_of(config)}
    cells = []
    for place, cell in enumerate(config.benchmark.cells):
        name = cell.get("name") or f"number {place}"
        if set(cell) != set(_KEYS) or not cell["name"]:
            raise UserError(
                f"cell {name!r} of the benchmark: expected a name and {', '.join(_KEYS[1:])}; found {list(cell)}"
            )
        if names.count(name) > 1 or folder_name(name) != name:
            raise UserError(f"cell {name!r} of the benchmark: expected a unique name that can be a folder's")
        if cell["figure"] not in figures:
            raise UserError(f"cell {name!r} of the benchmark: there is no figure {cell['figure']!r}")
        if cell["against"] not in names:
            near = did_you_mean(cell["against"], names)
            raise UserError(
                f"cell {name!r} of the benchmark: there is no cell {cell['against']!r} to compare with.{near}"
            )
        if cell["figure"] in wanted:
            own = cell_config(config, cell["set"], name)
            cells.append(Cell(name, cell["labels"], cell["figure"], cell["against"], own))
    kept = {cell.name for cell in cells}
    for cell in cells:
        if cell.against not in kept:
            raise UserError(f"cell {cell.name!r} of the benchmark: {cell.against!r} is in a figure that is left out")
    return cells


def figures_of(config: Config) -> list[Mapping[str, Any]]:
    """The figures that `config.benchmark.only` names; all if it is empty."""
    figures = {figure["name"]: figure for figure in config.benchmark.figures}
    wanted = [name.strip() for name in config.benchmark.only.split(",") if name.strip()] or list(figures)
    for name in wanted:
        if name not in figures:
            near = did_you_mean(name, figures)
            raise UserError(f"config.benchmark.only: no figure {name!r}; expected some of {', '.join(figures)}.{near}")
    return [figures[name] for name in wanted]


def cell_config(config: Config, settings: Mapping[str, Any], name: str) -> Config:
    """The benchmark's config with a cell's fields set; its results have the cell's name."""
    own = copy.deepcopy(config)
    with own.unlocked():
        del own["benchmark"]
    for field, value in {**settings, "evaluation.name": name}.items():
        try:
            check_field(own, field)
            replace_field(own, field, value)
        except UserError as error:
            raise UserError(f"cell {name!r} of the benchmark: {error}") from error
    return own


def model_folders(cells: Sequence[Cell], config: Config) -> dict[str, str]:
    """The folder of each cell's model, named after the training settings that differ from the benchmark's config."""
    base, folders = fields(config), {}
    for cell in cells:
        own = {name: value for name, value in fields(cell.config).items() if _trained_on(name)}
        differing = {name: value for name, value in own.items() if plain(value) != plain(base[name])}
        text = ",".join(f"{name}={value}" for name, value in differing.items()) or "base"
        readable = re.sub(r"[^\w.=,-]+", "_", text)
        # different settings can give the same readable name
        folders[cell.name] = readable if readable == text else f"{readable[:80]}-{_digest(text)}"
    return folders


def _trained_on(field: str) -> bool:
    """Whether training depends on a config field; the categories of a run decide which models it has."""
    return field == "dataset.category" or not FREE_FIELDS.match(field)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def check(cell: Cell, folder: Path) -> None:
    """Prepares the cell's data set and checks that it has images.

    Raises:
      UserError: a value that the run would refuse, a folder of another config, no image to train on or to test on.
    """
    experiment.check_settings(cell.config)
    for model_run in experiment.model_runs(cell.config, folder):
        check_config(model_run.model.folder, cell.config, model_run.model.categories)
        images = {"test": model_run.images.test, **model_run.images.training}
        for kind, known in images.items():
            if kind != "validation" and not len(known):
                wanted = "test" if kind == "test" else "train"
                raise UserError(f"there is no image to {wanted} on in {', '.join(model_run.model.categories)}")


def trained_on(config: Config) -> str:
    if config.protocol == "zero_shot":
        return "nothing"
    settings = config.dataset
    return ", ".join(part for part in (f"{settings.name} {settings.train_split}", settings.where) if part)


def tested_on(config: Config) -> str:
    settings = config.evaluation
    return ", ".join(part for part in (settings.split, settings.where, settings.corruptions) if part)


def facts(config: Config) -> dict[str, Any]:
    """What the report says about the benchmark as a whole."""
    return {
        "title": config.benchmark.title,
        "seed": config.seed,
        "metrics": config.evaluation.metrics,
        "config": json.loads(config.to_json_best_effort()),
    }
