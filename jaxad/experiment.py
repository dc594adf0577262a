"""Puts one run together: data set, method, mesh and checkpoints; then stages, predictions, metrics and the report."""

import importlib
import logging
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jax

import jaxad.methods
from jaxad import metrics, report, sharding
from jaxad.calibration import check_rate
from jaxad.common_settings import check_common
from jaxad.config import Config
from jaxad.data import corruptions, geometry, preparation
from jaxad.errors import UserError, did_you_mean
from jaxad.method import Method
from jaxad.model_run import ModelRun
from jaxad.models import PROTOCOLS, models_of
from jaxad.report.run import published_results, write_report
from jaxad.run_lock import held
from jaxad.settings import choice
from jaxad.workdir import evaluation_folder, open_workdir

logger = logging.getLogger(__name__)


def describe_devices() -> None:
    """Logs what the run has to work with."""
    logger.info(
        "Process %d of %d, %d of %d devices: %s",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        jax.devices()[0].device_kind,
    )


def run(config: Config, workdir: str | os.PathLike, mode: str = "train_and_evaluate") -> list[report.CategoryResult]:
    """Trains and evaluates what the config says; a run that was stopped goes on where it was.

    Each model has its folder below `workdir` (`jaxad.models`), and so have the results of each category. What is
    finished is kept. The results of all categories are written to `workdir` as results.json, results.md and
    report.html. One run at a time may write there; what is evaluated under a name of its own writes to its own folder,
    and may do so beside a training.

    Args:
      mode: "train_and_evaluate", "train", or "evaluate" (from the checkpoints in `workdir`).

    Returns:
      The results of every category, in order; none with mode "train".

    Raises:
      UserError: anything the user can mend: config, data, disk, a checkpoint of another config, another run at work in
        the folder.
    """
    workdir = open_workdir(workdir)
    check_settings(config)
    sharding.set_precision(config.precision)
    target = evaluation_folder(workdir, config)
    written = [workdir] * (mode != "evaluate") + [target] * (mode != "train")
    with held(*written):
        return run_models(config, workdir, target, mode)


def run_models(config: Config, workdir: Path, target: Path, mode: str) -> list[report.CategoryResult]:
    """`run` in a folder that is held; results go to `target`."""
    runs = model_runs(config, workdir, training=mode != "evaluate")
    results: list[report.CategoryResult] = []
    for place, model_run in enumerate(runs, 1):
        logger.info("Model %d of %d: %s", place, len(runs), model_run.model.name)
        if mode == "train":
            model_run.train()
        else:
            results += model_run.results(target, train=mode == "train_and_evaluate")
            if jax.process_index() == 0:
                write_report(target, results, config)
    sharding.wait_for_all("results")
    if results and jax.process_index() == 0:
        print(report.format_table(results, published_results(config), config.evaluation.metrics))
        print(f"\nReport: {target / 'report.html'}", flush=True)
    return results


def model_runs(config: Config, workdir: Path, training: bool = True) -> list[ModelRun]:
    """Every model of the run with its method; the data sets are prepared where they are not.

    Args:
      training: whether the data that models are trained on besides (`config.auxiliary`) is needed.

    Raises:
      UserError: the data cannot be prepared, or the method refuses a field.
    """
    categories = preparation.prepare(**places(config.dataset))
    others = preparation.prepare(**places(config.auxiliary)) if training and config.auxiliary.name else {}
    return [
        ModelRun(config, create_method(config, (*model.categories, *others)), model)
        for model in models_of(config, list(categories), workdir)
    ]


def places(settings: Any) -> dict[str, str]:
    """Where the data of `config.dataset` or `config.auxiliary` is: the arguments of `prepare`."""
    return {name: settings[name] for name in ("name", "category", "data_dir", "manual_dir", "path")}


def check_settings(config: Config) -> None:
    """Checks the fields that no method reads, before anything is computed.

    Raises:
      UserError: a value that is not allowed; the message names the field.
    """
    if "benchmark" in config:
        raise UserError("the config is a benchmark's: run it with jaxad.benchmark.run, or python -m jaxad.main")
    check_common(config)
    choice(config, "protocol", PROTOCOLS)
    choice(config, "evaluation.metrics", get_args(metrics.Mode))
    choice(config, "checkpoint.keep_best", ("", *metrics.IMAGE_METRICS, *metrics.PIXEL_METRICS))
    check_rate(config.threshold.false_alarm_rate)
    corruptions.parse(config.evaluation.corruptions)
    if shared := set(config.auxiliary.name.split("+")) & set(config.dataset.name.split("+")):
        raise UserError(
            f"config.auxiliary.name and config.dataset.name both have {min(shared)!r}: images that are tested on must "
            "not be trained on; name another auxiliary data set"
        )
    published_results(config)
    create_method(config, ())
    geometry.from_config(config.input)
    sharding.make_mesh(config.mesh.model)
    if config.checkpoint.keep_best and not config.evaluation.every_epochs:
        raise UserError("config.checkpoint.keep_best needs metrics during training: set config.evaluation.every_epochs")


def create_method(config: Config, categories: Sequence[str]) -> Method:
    """The config's method, for a model of these categories.

    Raises:
      UserError: there is no such method, or it refuses a field.
    """
    known = [module.name for module in pkgutil.iter_modules(jaxad.methods.__path__)]
    create = None
    if config.method in known:
        create = getattr(importlib.import_module(f"jaxad.methods.{config.method}"), "create", None)
    if create is None:
        known = [name for name in known if hasattr(importlib.import_module(f"jaxad.methods.{name}"), "create")]
        near = did_you_mean(config.method, known)
        raise UserError(f"config.method is {config.method!r}; expected one of {', '.join(known)}.{near}")
    return create(config, tuple(categories))
