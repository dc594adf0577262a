"""Puts one run together: data set, method, mesh and checkpoints; then stages, predictions, metrics and the report."""

import dataclasses
import functools
import importlib
import logging
import os
import pkgutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

import jaxad.methods
from jaxad import metrics, report, sharding, training
from jaxad.calibration import calibrate, check_rate, threshold_of
from jaxad.checkpoint import Checkpoints, Progress, after
from jaxad.config import Config
from jaxad.data import corruptions, geometry, preparation
from jaxad.data.split import Split, holdout, load_split
from jaxad.errors import UserError, did_you_mean
from jaxad.evaluation import Evaluation, category_result, evaluate_category, mean_metrics
from jaxad.log import MetricLog
from jaxad.method import Images, Method, Variables
from jaxad.metrics.resampling import overlap_profile
from jaxad.models import PROTOCOLS, Model, models_of
from jaxad.prediction import Predictor
from jaxad.report.overlaps import save_overlaps
from jaxad.report.run import finished_result, published_results, save_result, write_report
from jaxad.settings import Dtype, choice, number
from jaxad.workdir import check_config, evaluation_folder, folder_name, open_workdir

logger = logging.getLogger(__name__)

PRECISIONS = ("highest", "high", "default")
ZERO_SHOT = "a zero-shot model has seen no normal image of these parts"
NO_HOLDOUT = "no normal image was held out of training (config.threshold.holdout)"


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
    report.html.

    Args:
      mode: "train_and_evaluate", "train", or "evaluate" (from the checkpoints in `workdir`).

    Returns:
      The results of every category, in order; none with mode "train".

    Raises:
      UserError: anything the user can mend: config, data, disk, a checkpoint of another config.
    """
    workdir = open_workdir(workdir)
    check_settings(config)
    sharding.set_precision(config.precision)
    runs = model_runs(config, workdir, training=mode != "evaluate")
    target = evaluation_folder(workdir, config)
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


def model_runs(config: Config, workdir: Path, training: bool = True) -> list["ModelRun"]:
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


@dataclass(frozen=True)
class ModelRun:
    """One model of a run, from its images to its results."""

    config: Config
    method: Method
    model: Model

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh(self.config.mesh.model)

    def split(self, name: str, **which: Any) -> Split:
        return load_split(self.config.dataset, self.config.input, name, list(self.model.categories), **which)

    @functools.cached_property
    def test_images(self) -> Split:
        """The images of `config.evaluation`: split, selection and corruptions."""
        settings = self.config.evaluation
        changes = corruptions.parse(settings.corruptions)

        def change(image, mask, name):
            return corruptions.apply(changes, image, mask, name, self.config.seed)

        return self.split(
            settings.split, where=settings.where, field="config.evaluation.where", change=change if changes else None
        )

    @functools.cached_property
    def training_images(self) -> dict[str, Split]:
        """The images that stages ask for by name; only those that there are."""
        settings, images = self.config.dataset, {}
        if self.config.protocol != "zero_shot":
            whole = self.split(f"{settings.train_split}+validation", where=settings.where)
            rest, held_out = holdout(whole, self.config.threshold.holdout, self.config.seed, "config.threshold.holdout")
            images = {"train": rest.subset(np.flatnonzero(rest.labels == 0)), "train+masks": rest}
            images["validation"] = held_out
        if self.config.auxiliary.name:
            settings = self.config.auxiliary
            whole = load_split(settings, self.config.input, settings.split, field="config.auxiliary")
            names = [*self.model.categories, *whole.category_names]
            whole = dataclasses.replace(whole, category_names=list(dict.fromkeys(names)))
            rest, held_out = holdout(whole, settings.holdout, self.config.seed, "config.auxiliary.holdout")
            images["auxiliary"] = rest
            images.setdefault("validation", held_out)
        return images

    def checkpoints(self, read_only: bool = False) -> Checkpoints:
        settings = self.config.checkpoint
        return Checkpoints(self.model.folder / "checkpoints", settings.keep_last, settings.keep_best, read_only)

    def train(self) -> Progress:
        """Runs all stages, then sets the threshold; returns at once where the checkpoint says that this is done."""
        folder, settings, gib = self.model.folder, self.config, 2**30
        check_config(folder, settings, self.model.categories)
        checkpoints = self.checkpoints()
        restored = checkpoints.restore()
        if restored is not None and restored.progress.finished:
            logger.info("%s is trained already", folder)
            return restored.progress
        images: dict[str, Images] = dict(self.training_images)
        log = MetricLog(folder, active=jax.process_index() == 0)
        stages = training.Run(
            method=self.method,
            mesh=self.mesh,
            seed=settings.seed,
            splits=images,
            checkpoints=checkpoints,
            log=log,
            workdir=folder,
            batch_size=settings.evaluation.batch_size,
            checkpoint_every=settings.checkpoint.every_steps,
            log_every=settings.log.every_steps,
            feature_bytes=(settings.features.memory_gib * gib, settings.features.disk_gib * gib),
            evaluate=self.measure,
            evaluate_every=settings.evaluation.every_epochs,
        )
        started = time.perf_counter()
        variables, progress = training.run_stages(stages, restored)
        notes = self.calibrate(variables) | {"training_seconds": time.perf_counter() - started}
        progress = after(progress, finished=True, notes=notes)
        checkpoints.save(variables, {}, progress)
        log.close()
        checkpoints.close()
        return progress

    def calibrate(self, variables: Variables) -> dict[str, Any]:
        """The notes behind the model's thresholds; see `jaxad.calibration`."""
        rate = self.config.threshold.false_alarm_rate
        if self.method.no_threshold or self.config.protocol == "zero_shot":
            return calibrate({}, rate, self.method.no_threshold or ZERO_SHOT)
        held_out = self.training_images["validation"]
        normal = held_out.subset(np.flatnonzero(held_out.labels == 0))
        predictor, title = self.predictor(variables), "threshold"
        return calibrate({name: predictor.all(one, title) for name, one in normal.by_category()}, rate, NO_HOLDOUT)

    def predictor(self, variables: Variables) -> Predictor:
        return Predictor(self.method, variables, self.config.evaluation.batch_size, self.mesh)

    def measure(self, variables: Variables) -> dict[str, float]:
        """The metrics of the test images, averaged over the categories: for the log during training."""
        predictor, mode = self.predictor(variables), self.config.evaluation.metrics
        return mean_metrics(evaluate_category(predictor, *one, mode) for one in self.test_images.by_category())

    def results(self, target: Path, train: bool) -> list[report.CategoryResult]:
        """The results of all categories of the model; those that are there already are kept.

        Args:
          target: their folders are below it.
          train: whether the model is trained first, where it has to be; and whether finished results are kept.

        Raises:
          UserError: there is no finished checkpoint, or a category has no test image.
        """
        folders = {name: target / folder_name(name) for name in self.model.categories}
        check_config(self.model.folder, self.config, self.model.categories)
        kept = {name: finished_result(folder, self.config) for name, folder in folders.items()} if train else {}
        missing = [name for name in self.model.categories if kept.get(name) is None]
        if not missing:
            logger.info("%s is finished: its results are kept", self.model.name)
        elif train:
            self.train()
        variables, progress = self.restore() if missing else ({}, Progress())
        predictor = self.predictor(variables)
        images = dict(self.test_images.by_category()) if missing else {}
        found: list[report.CategoryResult] = []
        for name, folder in folders.items():
            result = kept.get(name)
            if result is None:
                result = self.evaluate(predictor, name, images.get(name), folder, progress)
            found.append(result)
        sharding.wait_for_all("evaluation")
        return found

    def evaluate(
        self, predictor: Predictor, category: str, images: Split | None, folder: Path, progress: Progress
    ) -> report.CategoryResult:
        """Predicts the test images of one category; the result goes into `folder`."""
        settings = self.config
        if images is None:
            raise UserError(
                f"there is no test image in {category}: expected at least one in the split "
                f"{settings.evaluation.split!r} that config.evaluation.where selects"
            )
        started = time.perf_counter()
        title = f"{category}: test images" if len(self.model.categories) > 1 else "test images"
        evaluation = evaluate_category(predictor, category, images, settings.evaluation.metrics, title)
        seconds = {"training": progress.notes["training_seconds"], "prediction": time.perf_counter() - started}
        threshold = threshold_of(progress.notes, category, settings.threshold.false_alarm_rate)
        result = category_result(evaluation, threshold, seconds)
        if jax.process_index() == 0:
            self.save_overlaps(evaluation, folder)
            save_result(folder, result, settings)
        return result

    def save_overlaps(self, evaluation: Evaluation, folder: Path) -> None:
        """Keeps what intervals of AUPRO need, for named evaluations: these are made to be compared with others."""
        if self.config.evaluation.name and evaluation.truth.masks is not None:
            save_overlaps(folder, {evaluation.category: overlap_profile(evaluation.maps, evaluation.truth)})

    def restore(self) -> tuple[Variables, Progress]:
        """The variables, on the devices, and the progress of the finished checkpoint.

        Raises:
          UserError: there is none.
        """
        folder = self.model.folder / "checkpoints"
        if not folder.is_dir():
            raise UserError(f"there is no checkpoint in {folder}: train first, with the same --config and --workdir")
        restored = self.checkpoints(read_only=True).restore()
        if restored is None or not restored.progress.finished:
            raise UserError(
                f"the training in {self.model.folder} is not finished: start it again with --mode=train, it goes on"
            )
        where = sharding.shardings(self.mesh, restored.variables, self.method.partition)
        return sharding.put(restored.variables, where), restored.progress


def check_settings(config: Config) -> None:
    """Checks the fields that no method reads, before anything is computed.

    Raises:
      UserError: a value that is not allowed; the message names the field.
    """
    if "benchmark" in config:
        raise UserError("the config is a benchmark's: run it with jaxad.benchmark.run, or python -m jaxad.main")
    choice(config, "protocol", PROTOCOLS)
    choice(config, "precision", PRECISIONS)
    choice(config, "dtype", get_args(Dtype))
    choice(config, "evaluation.metrics", get_args(metrics.Mode))
    for field in ("evaluation.batch_size", "checkpoint.every_steps", "checkpoint.keep_last", "log.every_steps"):
        number(config, field, 1, whole=True)
    number(config, "evaluation.every_epochs", 0, whole=True)
    check_rate(config.threshold.false_alarm_rate)
    corruptions.parse(config.evaluation.corruptions)
    if shared := set(config.auxiliary.name.split("+")) & set(config.dataset.name.split("+")):
        raise UserError(
            f"config.auxiliary.name and config.dataset.name both have {min(shared)!r}: images that are tested on must "
            "not be trained on; name another auxiliary data set"
        )
    published_results(config)
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
