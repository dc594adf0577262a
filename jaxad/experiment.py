"""Puts one run together: data set, method, mesh and checkpoints; then stages, predictions, metrics and the report."""

import functools
import importlib
import logging
import os
import pkgutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np

import jaxad.methods
from jaxad import metrics, prediction, report, sharding, training
from jaxad.calibration import calibrate, check_rate, threshold_of
from jaxad.checkpoint import Checkpoints, Progress, after
from jaxad.config import Config
from jaxad.data import corruptions, geometry, pipeline, preparation
from jaxad.errors import UserError, did_you_mean
from jaxad.evaluation import choose_cases, evaluate, mean_metrics
from jaxad.log import MetricLog
from jaxad.method import Method, Variables
from jaxad.metrics.resampling import overlap_profile
from jaxad.report.overlaps import save_overlaps
from jaxad.settings import choice, number
from jaxad.workdir import (
    check_config,
    evaluation_folder,
    finished_results,
    folder_name,
    open_workdir,
    published_results,
    save_results,
    write_report,
)

logger = logging.getLogger(__name__)

PROTOCOLS = ("one_class", "multi_class", "zero_shot")


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

    Each model has its folder below `workdir`: one a category, or "multi_class". Finished ones are skipped. The results
    of all categories are written to `workdir` as results.json, results.md and report.html.

    Args:
      mode: "train_and_evaluate", "train", or "evaluate" (from the checkpoints in `workdir`).

    Returns:
      The results of every category, in order; none with mode "train".

    Raises:
      UserError: anything the user can mend: config, data, disk, a checkpoint of another config.
    """
    workdir = open_workdir(workdir)
    check_settings(config)
    method = create_method(config)
    categories = list(prepare(config))
    models = {"multi_class": categories} if config.protocol == "multi_class" else {name: [name] for name in categories}
    results, target = [], evaluation_folder(workdir, config)
    for place, (name, members) in enumerate(models.items(), 1):
        folder = workdir / folder_name(name)
        model = Model(config, method, folder, members, target / folder_name(name))
        found = finished_results(model.results_folder, folder, config) if mode == "train_and_evaluate" else None
        if found is not None:
            logger.info("%s is finished: its results are kept (%d of %d)", name, place, len(models))
        else:
            logger.info("Model %d of %d: %s", place, len(models), name)
            if mode != "evaluate":
                model.train()
            if mode != "train":
                found = model.evaluate()
        results += found or []
        if results and jax.process_index() == 0:
            write_report(target, results, config)
    sharding.wait_for_all("results")
    if results and jax.process_index() == 0:
        print(report.format_table(results, published_results(config), config.evaluation.metrics))
        print(f"\nReport: {target / 'report.html'}", flush=True)
    return results


@dataclass(frozen=True)
class Model:
    """One model of a run: its categories, its folder, the folder of its results (by default the same)."""

    config: Config
    method: Method
    folder: Path
    categories: Sequence[str]
    results: Path | None = None

    @property
    def results_folder(self) -> Path:
        return self.results or self.folder

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh(self.config.mesh.model)

    def split(self, name: str, **which) -> pipeline.Split:
        return pipeline.load_split(self.config.dataset, self.config.input, name, list(self.categories), **which)

    @functools.cached_property
    def test_images(self) -> pipeline.Split:
        """Those of `config.evaluation`: split, selection and corruptions."""
        settings = self.config.evaluation
        changes = corruptions.parse(settings.corruptions)

        def change(image, mask, name):
            return corruptions.apply(changes, image, mask, name, self.config.seed)

        return self.split(
            settings.split, where=settings.where, field="config.evaluation.where", change=change if changes else None
        )

    def checkpoints(self, read_only: bool = False) -> Checkpoints:
        settings = self.config.checkpoint
        return Checkpoints(self.folder / "checkpoints", settings.keep_last, settings.keep_best, read_only)

    def train(self) -> Progress:
        """All stages, then the threshold; returns at once where the checkpoint says that this is done."""
        check_config(self.folder, self.config)
        checkpoints = self.checkpoints()
        restored = checkpoints.restore()
        if restored is not None and restored[2].finished:
            logger.info("%s is trained already", self.folder)
            return restored[2]
        images, everything = self.training_images()
        held_out = images["validation"].subset(np.flatnonzero(images["validation"].labels == 0))
        log = MetricLog(self.folder, active=jax.process_index() == 0)
        gib, settings = 2**30, self.config
        run = training.Run(
            method=self.method,
            mesh=self.mesh,
            seed=settings.seed,
            splits=images,
            checkpoints=checkpoints,
            log=log,
            workdir=self.folder,
            batch_size=settings.evaluation.batch_size,
            checkpoint_every=settings.checkpoint.every_steps,
            log_every=settings.log.every_steps,
            feature_bytes=(settings.features.memory_gib * gib, settings.features.disk_gib * gib),
            evaluate=self.measure,
            evaluate_every=settings.evaluation.every_epochs,
        )
        started = time.perf_counter()
        variables, progress = training.run_stages(run, restored)
        seconds = time.perf_counter() - started
        found = self.predict(variables, held_out, "threshold") if len(held_out) else None
        if found is None:
            logger.info("No threshold: there is no normal image held out of training (config.threshold.holdout)")
        notes = calibrate(found, held_out.categories, settings.threshold.false_alarm_rate)
        notes |= {"training_seconds": seconds, "training_images": len(everything)}
        progress = after(progress, finished=True, threshold=notes["thresholds"].get("all"), notes=notes)
        checkpoints.save(variables, {}, progress)
        log.close()
        checkpoints.close()
        return progress

    def training_images(self) -> tuple[dict[str, pipeline.Split], pipeline.Split]:
        """The splits that stages ask for by name, and the training split as a whole."""
        settings, auxiliary = self.config.dataset, self.auxiliary_images()
        if self.config.protocol == "zero_shot":
            nothing = self.split(self.config.evaluation.split).subset([])
            return {"train": nothing, "validation": nothing, **auxiliary}, nothing
        whole = self.split(f"{settings.train_split}+validation", where=settings.where)
        train, held_out = pipeline.holdout(whole, self.config.threshold.holdout, self.config.seed)
        normal = np.flatnonzero(np.asarray(train.labels) == 0)
        return {"train": train.subset(normal), "train+masks": train, "validation": held_out, **auxiliary}, whole

    def auxiliary_images(self) -> dict[str, pipeline.Split]:
        """{"auxiliary": images of `config.auxiliary`}, {} where it names no data set."""
        settings = self.config.auxiliary
        if not settings.name:
            return {}
        return {"auxiliary": pipeline.load_split(settings, self.config.input, settings.split, field="config.auxiliary")}

    def predict(self, variables: Variables, split: Any, title: str) -> prediction.Predictions:
        return prediction.predict_split(
            self.method, variables, split, self.config.evaluation.batch_size, self.mesh, title
        )

    def measure(self, variables: Variables) -> dict[str, float]:
        """The metrics of the test images, averaged over the categories: for the log during training."""
        found = self.predict(variables, self.test_images, "")
        return mean_metrics(evaluate(found, self.test_images, self.config.evaluation.metrics))

    def evaluate(self) -> list[report.CategoryResult]:
        """Predicts the test images with the finished checkpoint; results go into the model's folder.

        Raises:
          UserError: there is no finished checkpoint, or no test image.
        """
        check_config(self.folder, self.config)
        variables, progress = self.restore()
        split, settings, notes = self.test_images, self.config, progress.notes
        if not len(split):
            raise UserError(
                f"there is no test image in {', '.join(self.categories)}: expected at least one in the split "
                f"{settings.evaluation.split!r} that config.evaluation.where selects"
            )
        started = time.perf_counter()
        found = self.predict(variables, split, "test images")
        seconds = time.perf_counter() - started
        results, profiles = [], {}
        for evaluation in evaluate(found, split, settings.evaluation.metrics):
            truth = evaluation.truth
            if settings.evaluation.name and truth.masks is not None:  # made to be compared with others
                profiles[evaluation.category] = overlap_profile(
                    evaluation.maps, truth.masks, truth.valid, truth.has_mask
                )
            rate = settings.threshold.false_alarm_rate
            threshold, images = threshold_of(notes, evaluation.category, rate)
            results.append(
                report.CategoryResult(
                    category=evaluation.category,
                    metrics=evaluation.metrics,
                    ids=[split.ids[i] for i in evaluation.members],
                    scores=evaluation.scores,
                    labels=evaluation.truth.labels,
                    defect_types=[split.defect_types[i] for i in evaluation.members],
                    threshold=threshold,
                    false_alarm_rate=rate,
                    calibration_images=images,
                    curves=evaluation.curves,
                    seconds={"training": notes["training_seconds"], "prediction": seconds},
                    cases=choose_cases(evaluation, split, threshold),
                )
            )
        if jax.process_index() == 0:
            if profiles:
                save_overlaps(self.results_folder, profiles)
            save_results(self.results_folder, results, settings)
        sharding.wait_for_all("evaluation")
        return results

    def restore(self) -> tuple[Variables, Progress]:
        """Variables on the devices, and the progress, of the finished checkpoint.

        Raises:
          UserError: there is none.
        """
        folder = self.folder / "checkpoints"
        if not folder.is_dir():
            raise UserError(f"there is no checkpoint in {folder}: train first, with the same --config and --workdir")
        restored = self.checkpoints(read_only=True).restore()
        if restored is None or not restored[2].finished:
            raise UserError(
                f"the training in {self.folder} is not finished: start it again with --mode=train, it goes on"
            )
        variables, _, progress = restored
        return sharding.put(variables, sharding.shardings(self.mesh, variables, self.method.partition)), progress


def check_settings(config: Config) -> None:
    """Looks at the fields that no method reads, before anything is computed.

    Raises:
      UserError: a value that is not allowed; the message names the field.
    """
    if "benchmark" in config:
        raise UserError("the config is a benchmark's: run it with jaxad.benchmark.run, or python -m jaxad.main")
    choice(config, "protocol", PROTOCOLS)
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


def create_method(config: Config) -> Method:
    """The config's method.

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
    return create(config)


def prepare(config: Config) -> Mapping[str, Any]:
    """The builders of the run's categories, prepared where they are not; other processes wait for the first."""
    where = config.dataset
    return preparation.prepare(
        where.name, where.category, data_dir=where.data_dir, manual_dir=where.manual_dir, path=where.path
    )
