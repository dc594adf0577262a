"""Puts one run together: data set, method, mesh and checkpoints; then stages, predictions, metrics and the report."""

import datetime
import importlib
import json
import logging
import math
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

import jaxad.methods
from jaxad import metrics, prediction, report, sharding, training
from jaxad.checkpoint import Checkpoints, Progress
from jaxad.config import Config, differences, fields, plain
from jaxad.data import files, geometry, pipeline, preparation
from jaxad.errors import UserError, did_you_mean
from jaxad.log import MetricLog
from jaxad.method import Method, Variables

logger = logging.getLogger(__name__)

CASES = "cases.npz"
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
    method = create_method(config)
    categories = list(prepare(config))
    models = {"multi_class": categories} if config.protocol == "multi_class" else {name: [name] for name in categories}
    results = []
    for number, (name, members) in enumerate(models.items(), 1):
        folder = workdir / folder_name(name)
        found = None if mode == "train" else finished_results(folder, config)
        if found is not None:
            logger.info("%s is finished: its results are kept (%d of %d)", name, number, len(models))
        else:
            logger.info("Model %d of %d: %s", number, len(models), name)
            model = Model(config, method, folder, members)
            if mode != "evaluate":
                model.train()
            if mode != "train":
                found = model.evaluate()
        results += found or []
        if results and jax.process_index() == 0:
            write_report(workdir, results, config)
    sharding.wait_for_all("results")
    if results and jax.process_index() == 0:
        print(report.format_table(results, published_results(config), config.evaluation.metrics))
        print(f"\nReport: {workdir / 'report.html'}", flush=True)
    return results


@dataclass(frozen=True)
class Measured:
    """What an evaluation found: metrics as fractions, curves of the images and, with masks, of the pixels."""

    values: dict[str, float]
    curves: dict[str, metrics.Curves]


@dataclass(frozen=True)
class Model:
    """One model of a run: its categories, its folder."""

    config: Config
    method: Method
    folder: Path
    categories: Sequence[str]

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh(self.config.mesh.model)

    def split(self, name: str) -> pipeline.Split:
        return pipeline.load_split(self.config.dataset, self.config.input, name, list(self.categories))

    def checkpoints(self, read_only: bool = False) -> Checkpoints:
        settings = self.config.checkpoint
        return Checkpoints(self.folder / "checkpoints", settings.keep_last, settings.keep_best, read_only)

    def train(self) -> Progress:
        """All stages, then the threshold; returns at once where the checkpoint says that this is done."""
        check_config(self.folder, self.config)
        checkpoints = self.checkpoints()
        if (restored := checkpoints.restore()) is not None and restored[2].finished:
            logger.info("%s is trained already", self.folder)
            return restored[2]
        images, everything = self.training_images()
        held_out = images["validation"]
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
        variables, progress = training.run_stages(run)
        seconds = time.perf_counter() - started
        notes = self.calibrate(variables, held_out) | {"training_seconds": seconds, "training_images": len(everything)}
        progress = replace(progress, finished=True, threshold=notes["thresholds"].get("all"), notes=notes)
        checkpoints.save(variables, {}, progress)
        log.close()
        checkpoints.close()
        return progress

    def training_images(self) -> tuple[dict[str, pipeline.Split], pipeline.Split]:
        """The splits that stages ask for by name, and the training split as a whole."""
        whole = self.split("train")
        if self.config.protocol == "zero_shot":
            return {"train": whole.subset([]), "validation": whole.subset([])}, whole
        train, held_out = pipeline.holdout(whole, self.config.threshold.holdout, self.config.seed)
        normal = np.flatnonzero(np.asarray(train.labels) == 0)
        return {"train": train.subset(normal), "train+masks": train, "validation": held_out}, whole

    def calibrate(self, variables: Variables, held_out: pipeline.Split) -> dict[str, Any]:
        """Thresholds at the config's false-alarm rate from normal images that no stage has seen, and the scale of the
        pictures.

        The threshold is the ceil((n + 1) (1 - rate))-th smallest of the n held-out scores, so that a new normal image
        exceeds it with a probability of at most `rate` (split conformal prediction); with fewer than 1/rate - 1 images
        it is the largest score.
        """
        rate = self.config.threshold.false_alarm_rate
        notes: dict[str, Any] = {"thresholds": {}, "false_alarm_rate": rate, "calibration_images": len(held_out)}
        if not 0 < rate < 1:
            raise UserError(f"config.threshold.false_alarm_rate = {rate}: expected a number between 0 and 1")
        if not len(held_out):
            logger.warning("No threshold: config.threshold.holdout keeps no image out of training")
            return notes
        found = self.predict(variables, held_out, "threshold")
        for name in ("all", *self.categories):
            chosen = found.scores if name == "all" else found.scores[np.asarray(held_out.categories) == name]
            if len(chosen):
                notes["thresholds"][name] = conformal_threshold(chosen, rate)
        if len(held_out) < 1 / rate - 1:
            logger.warning(
                "%d held-out images cannot show a false-alarm rate of %g: the threshold is their largest score",
                len(held_out),
                rate,
            )
        middle, top = float(np.median(found.maps)), float(found.maps.max())
        return notes | {"map_scale": [middle, middle + 2 * max(top - middle, 1e-6)]}

    def predict(self, variables: Variables, split: Any, title: str) -> prediction.Predictions:
        return prediction.predict_split(
            self.method, variables, split, self.config.evaluation.batch_size, self.mesh, title
        )

    def measure(self, variables: Variables) -> dict[str, float]:
        """The metrics of the test images, averaged over the categories: for the log during training."""
        split = self.split("test")
        found = self.predict(variables, split, "")
        rows = [self.metrics_of(found, split, members).values for _, members in by_category(split)]
        names = rows[0].keys()
        return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}

    def metrics_of(self, found: prediction.Predictions, split: pipeline.Split, members: np.ndarray) -> Measured:
        """Metrics and curves of some images of the split."""
        truth = ground_truth(split, members)
        maps, scores = found.maps[members], found.scores[members]
        known: dict[str, Any] = {"valid": truth.valid, "has_mask": truth.has_mask}
        curves = {"image": metrics.curves(metrics.rank_images(scores, truth.labels))}
        ranking = None
        if truth.masks is not None:
            ranking = metrics.rank_pixels(metrics.split_pixels(maps, truth.masks, **known))
            curves["pixel"] = metrics.curves(ranking)
        mode, name = self.config.evaluation.metrics, split.categories[int(members[0])]
        exact = ranking if mode == "exact" else None
        values = metrics.evaluate(
            maps, truth.masks, scores, truth.labels, mode=mode, name=name, pixel_ranking=exact, **known
        )
        return Measured(values, curves)

    def evaluate(self) -> list[report.CategoryResult]:
        """Predicts the test images with the finished checkpoint and writes the results of each category into the
        model's folder.
        """
        check_config(self.folder, self.config)
        variables, progress = self.restore()
        split = self.split("test")
        if not len(split):
            raise UserError(f"there is no test image in {', '.join(self.categories)}: expected at least one in test/")
        started = time.perf_counter()
        found = self.predict(variables, split, "test images")
        seconds = {
            "training": progress.notes.get("training_seconds", math.nan),
            "prediction": time.perf_counter() - started,
        }
        seconds["images_per_second"] = len(split) / seconds["prediction"]
        results = []
        for category, members in by_category(split):
            thresholds = progress.notes.get("thresholds", {})
            results.append(self.result(category, members, found, split, thresholds.get(category), progress, seconds))
        if jax.process_index() == 0:
            save_results(self.folder, results, self.config)
        sharding.wait_for_all("evaluation")
        return results

    def result(self, category, members, found, split, threshold, progress, seconds) -> report.CategoryResult:
        truth, measured = ground_truth(split, members), self.metrics_of(found, split, members)
        maps, scores = found.maps[members], found.scores[members]
        ids, kinds = [split.ids[i] for i in members], [split.defect_types[i] for i in members]
        cases = []
        for i, reasons in report.choose_cases(scores, truth.labels, threshold).items():
            item = split[int(members[i])]
            cases.append(
                report.Case(
                    id=ids[i],
                    image=np.asarray(item["image"]),
                    map=maps[i],
                    mask=np.asarray(item["mask"]) if item["has_mask"] else None,
                    valid=np.asarray(item["valid"]),
                    score=float(scores[i]),
                    label=int(truth.labels[i]),
                    defect_type=kinds[i],
                    decision=None if threshold is None else bool(scores[i] > threshold),
                    reasons=tuple(reasons),
                )
            )
        return report.CategoryResult(
            category=category,
            metrics=measured.values,
            ids=ids,
            scores=scores,
            labels=truth.labels,
            defect_types=kinds,
            threshold=threshold,
            false_alarm_rate=progress.notes.get("false_alarm_rate"),
            calibration_images=progress.notes.get("calibration_images", 0),
            curves=measured.curves,
            seconds=seconds,
            cases=cases,
        )

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


@dataclass(frozen=True)
class GroundTruth:
    """Of some images: masks None where no defective image has one."""

    masks: np.ndarray | None
    valid: np.ndarray
    labels: np.ndarray
    has_mask: np.ndarray


def ground_truth(split: pipeline.Split, members: Iterable[int]) -> GroundTruth:
    items = [split[int(i)] for i in members]
    labels, has_mask = (np.array([item[name] for item in items], bool) for name in ("label", "has_mask"))
    masks = np.stack([item["mask"] for item in items]) if (labels & has_mask).any() or not labels.any() else None
    return GroundTruth(masks, np.stack([item["valid"] for item in items]), labels, has_mask)


def by_category(split: pipeline.Split) -> Iterator[tuple[str, np.ndarray]]:
    """Each category with the places of its images, in order of appearance."""
    names = np.asarray(split.categories)
    for name in dict.fromkeys(split.categories):
        yield name, np.flatnonzero(names == name)


def conformal_threshold(scores: np.ndarray, rate: float) -> float:
    """The ceil((n + 1) (1 - rate))-th smallest score, the largest where that is beyond n."""
    rank = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def create_method(config: Config) -> Method:
    """The config's method.

    Raises:
      UserError: there is no such method or protocol, or the method refuses a field.
    """
    known = [module.name for module in pkgutil.iter_modules(jaxad.methods.__path__)]
    create = None
    if config.method in known:
        create = getattr(importlib.import_module(f"jaxad.methods.{config.method}"), "create", None)
    if create is None:
        known = [name for name in known if hasattr(importlib.import_module(f"jaxad.methods.{name}"), "create")]
        near = did_you_mean(config.method, known)
        raise UserError(f"config.method is {config.method!r}; expected one of {', '.join(known)}.{near}")
    if config.protocol not in PROTOCOLS:
        near = did_you_mean(config.protocol, PROTOCOLS)
        raise UserError(f"config.protocol is {config.protocol!r}; expected one of {', '.join(PROTOCOLS)}.{near}")
    return create(config)


def prepare(config: Config) -> Mapping[str, Any]:
    """The builders of the run's categories, prepared where they are not; other processes wait for the first."""
    where = config.dataset
    return preparation.prepare(
        where.name, where.category, data_dir=where.data_dir, manual_dir=where.manual_dir, path=where.path
    )


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
    """Notes the config in a new folder; in an old one it must be the same, but for the fields that change no result.

    Raises:
      UserError: the folder belongs to another config.
    """
    path = folder / "config.json"
    if path.exists():
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
        report.write_text(
            path, json.dumps({name: plain(value) for name, value in fields(config).items()}, indent=1, default=str)
        )
    sharding.wait_for_all("config")


def published_results(config: Config) -> Any:
    return report.lookup(config.evaluation.published) if config.evaluation.published else None


def save_results(folder: Path, results: Sequence[report.CategoryResult], config: Config) -> None:
    """The report of one model, and what a later report over all models needs of it; the cases, written last, say it is
    complete.
    """
    write_report(folder, results, config)
    report.save_cases(folder / CASES, results)


def finished_results(folder: Path, config: Config) -> list[report.CategoryResult] | None:
    """The results of a model that was evaluated before in the same way; None where there are none."""
    if not (folder / CASES).exists():
        return None
    check_config(folder, config)
    stored = report.read(folder)
    if any(stored.run.get(name) != value for name, value in evaluation_settings(config).items()):
        return None
    return report.with_cases(stored.results, folder / CASES)


def evaluation_settings(config: Config) -> dict[str, Any]:
    return {"metrics": config.evaluation.metrics, "false_alarm_rate": config.threshold.false_alarm_rate}


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


@dataclass(frozen=True)
class ImagePrediction:
    """What a trained model says of one photograph.

    Attributes:
      path: as given; the place in the list for images given as arrays.
      map: anomaly map at the photograph's own size, larger = more anomalous; NaN outside a crop.
      score: image score, larger = more anomalous.
      decision: whether the score is above the threshold; None where none was calibrated.
    """

    path: str
    image: UInt8[np.ndarray, "h w 3"]
    map: Float[np.ndarray, "h w"]
    score: float
    threshold: float | None

    @property
    def decision(self) -> bool | None:
        return None if self.threshold is None else self.score > self.threshold


def predict(
    config: Config, workdir: str | os.PathLike, images: str | os.PathLike | Sequence[np.ndarray]
) -> Iterator[ImagePrediction]:
    """Predicts photographs with a trained model, one after the other.

    Args:
      images: an image file, a folder that is searched for images, or uint8 arrays (h, w, 3).

    Raises:
      UserError: there is no image, no trained model, or several models and the config names none of them.
    """
    model = trained_model(config, workdir)
    yield from predictions_of(model, *model.restore(), images)


def predictions_of(model: "Model", variables: Variables, progress: Progress, images: Any) -> Iterator[ImagePrediction]:
    """The predictions of `predict`; files that cannot be read are named in the log and left out."""
    form = geometry.from_config(model.config.input)
    if isinstance(images, str | os.PathLike):
        source = files.FileSplit(files.image_files(Path(images)), form)
    else:
        source = files.ArraySplit(images, form)
    threshold = progress.notes.get("thresholds", {}).get(model.categories[0] if len(model.categories) == 1 else "all")
    settings = model.config.evaluation.batch_size
    for i, anomaly_map, score in prediction.predict_each(
        model.method, variables, source, settings, model.mesh, "images"
    ):
        if i in source.errors:
            logger.error("%s", source.errors[i])
            continue
        image = source.original(i)
        yield ImagePrediction(source.ids[i], image, form.restore(anomaly_map, image.shape[:2]), score, threshold)
    if source.errors:
        logger.error("%d of %d images could not be read and have no prediction", len(source.errors), len(source))


def predict_files(
    config: Config,
    workdir: str | os.PathLike,
    images: str,
    output: str | None = None,
    map_format: report.MapFormat = "png16",
) -> Path:
    """Predicts photographs and writes anomaly maps, overlays and predictions.csv to `output` (by default
    WORKDIR/predictions).

    Args:
      images: an image file, or a folder that is searched for images.
      map_format: "png16" or "npy" (exact).

    Returns:
      The path of predictions.csv.

    Raises:
      UserError: as `predict`, or nothing can be written.
    """
    model = trained_model(config, workdir)
    variables, progress = model.restore()
    directory = Path(output) if output else Path(workdir) / "predictions"
    root = Path(images) if Path(images).is_dir() else Path(images).parent
    low, high = progress.notes.get("map_scale", (0.0, 1.0))
    with report.PredictionWriter(directory, progress.threshold, map_format, (low, high)) as writer:
        for found in predictions_of(model, variables, progress, images):
            writer.add(found.path, Path(found.path).relative_to(root), found.image, found.map, found.score)
    print(f"Predictions: {directory / 'predictions.csv'}", flush=True)
    return directory / "predictions.csv"


def trained_model(config: Config, workdir: str | os.PathLike) -> Model:
    """The model in `workdir` that the config means.

    Raises:
      UserError: there is none, or there are several and `config.dataset.category` names none of them.
    """
    root = Path(workdir).absolute()
    found = sorted(path.parent.name for path in root.glob("*/checkpoints")) if root.is_dir() else []
    if not found:
        raise UserError(f"there is no trained model in {root}: train first, with the same --config and --workdir")
    wanted = "multi_class" if config.protocol == "multi_class" else folder_name(config.dataset.category)
    if wanted == "all" and len(found) == 1:
        wanted = found[0]
    if wanted not in found:
        raise UserError(f"which model of {root}? set --config.dataset.category to one of {', '.join(found)}")
    folder = root / wanted
    check_config(folder, config)
    return Model(config, create_method(config), folder, [wanted])
