"""One model of a run, from its images to its results."""

import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxad import report, sharding, training
from jaxad.calibration import calibrate, threshold_of
from jaxad.checkpoint import Checkpoints, Progress, after
from jaxad.config import Config
from jaxad.data.assignment import Assignment
from jaxad.data.split import Split
from jaxad.errors import UserError
from jaxad.evaluation import Evaluation, category_result, evaluate_category, mean_metrics
from jaxad.log import MetricLog
from jaxad.method import Images, Method, Variables
from jaxad.metrics import overlap_profile
from jaxad.models import Model
from jaxad.prediction import Predictor
from jaxad.report.overlaps import save_overlaps
from jaxad.report.run import finished_result, save_result
from jaxad.workdir import check_config, folder_name

logger = logging.getLogger(__name__)

ZERO_SHOT = "a zero-shot model has seen no normal image of these parts"
NO_HOLDOUT = "no normal image was held out of training (config.threshold.holdout)"


@dataclass(frozen=True)
class ModelRun:
    """One model of a run, from its images to its results."""

    config: Config
    method: Method
    model: Model

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh(self.config.mesh.model)

    @functools.cached_property
    def images(self) -> Assignment:
        return Assignment(self.config, self.model.categories)

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
        images: dict[str, Images] = dict(self.images.training)
        log = MetricLog(folder, active=sharding.part_of(self.mesh)[0] == 0)
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
            threads=settings.input.threads,
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
        predictor, by_category = self.predictor(variables), self.images.held_out_normal.by_category()
        return calibrate({name: predictor.all(one, "threshold") for name, one in by_category}, rate, NO_HOLDOUT)

    def predictor(self, variables: Variables) -> Predictor:
        settings = self.config
        return Predictor(self.method, variables, settings.evaluation.batch_size, self.mesh, settings.input.threads)

    def measure(self, variables: Variables) -> dict[str, float]:
        """The metrics of the test images, averaged over the categories: for the log during training."""
        predictor, mode = self.predictor(variables), self.config.evaluation.metrics
        rows = []
        for category, images in self.images.test.by_category():
            evaluation = evaluate_category(predictor, category, images, mode)
            rows.append(sharding.from_first(evaluation and evaluation.metrics, f"metrics of {category}", self.mesh))
        return mean_metrics(rows)

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
        images = dict(self.images.test.by_category()) if missing else {}
        results: list[report.CategoryResult] = []
        for name, folder in folders.items():
            result = kept.get(name)
            if result is None:
                result = self.evaluate(predictor, name, images.get(name), folder, progress)
            results.append(result)
        return results

    def evaluate(
        self, predictor: Predictor, category: str, images: Split | None, folder: Path, progress: Progress
    ) -> report.CategoryResult:
        """Predicts the test images of one category; the result goes into `folder`, where all processes find it."""
        settings = self.config
        if images is None:
            raise UserError(
                f"there is no test image in {category}: expected at least one in the split "
                f"{settings.evaluation.split!r} that config.evaluation.where selects"
            )
        started = time.perf_counter()
        title = f"{category}: test images" if len(self.model.categories) > 1 else "test images"
        evaluation = evaluate_category(predictor, category, images, settings.evaluation.metrics, title)
        result = None
        if evaluation is not None:
            seconds = {"training": progress.notes["training_seconds"], "prediction": time.perf_counter() - started}
            threshold = threshold_of(progress.notes, category, settings.threshold.false_alarm_rate)
            result = category_result(evaluation, threshold, seconds)
            self.save_overlaps(evaluation, folder)
            save_result(folder, result, settings)
        sharding.wait_for_all(f"result in {folder}", self.mesh)
        result = result or finished_result(folder, settings)
        if result is None:
            raise UserError(f"{folder} has no result: expected a --workdir that all processes of the run share")
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
