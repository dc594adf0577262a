"""Runs the stages of a method: the sharded loop of a `Train` stage, the one pass of a `Fit` stage, both resumable at
any batch.
"""

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array
from tqdm import tqdm

from jaxad import features, sharding, stopping
from jaxad.checkpoint import Checkpoints, Progress, Restored, after
from jaxad.data.batches import (
    DeviceBatches,
    PreparedImages,
    check_batches,
    normalise,
    rows_per_batch,
    training_iterator,
)
from jaxad.errors import NotFiniteError, UserError
from jaxad.log import MetricLog
from jaxad.method import WITH_MASKS, Fit, Images, Method, Train, Variables
from jaxad.optimizers import learning_rates
from jaxad.trees import merge, split_by_path, with_leaves

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What the stages of one model share.

    Attributes:
      splits: name of a stage's `data` -> its images.
      workdir: the model's folder.
      batch_size: images in a batch of a pass or of predictions.
      evaluate: variables -> metrics of the test images, called every `evaluate_every` epochs; 0 for never.
      feature_bytes: budget of cached features, in memory and on disk.
      threads: how many read images ahead; 0 for as many as there are cores.
    """

    method: Method
    mesh: Mesh
    seed: int
    splits: Mapping[str, Images]
    checkpoints: Checkpoints
    log: MetricLog
    workdir: Path
    batch_size: int
    checkpoint_every: int
    log_every: int
    feature_bytes: tuple[float, float]
    evaluate: Callable[[Variables], dict[str, float]] | None = None
    evaluate_every: int = 0
    threads: int = 0

    def key(self, stage: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.seed), stage)

    def images(self, data: str, stage: str) -> Images:
        """The images that a stage asks for.

        Raises:
          UserError: there are none; the message says which config field brings them.
        """
        images = self.splits.get(data)
        if images is None or not len(images):
            remedy = {
                "auxiliary": "name a data set in config.auxiliary.name",
                "validation": "set config.threshold.holdout (zero-shot: config.auxiliary.holdout) above 0",
            }.get(data, "look at config.dataset.train_split and config.dataset.where")
            raise UserError(f"stage {stage!r} needs {data!r} images and there are none: {remedy}")
        return images

    def batches(self, images: Images, **more: Any) -> DeviceBatches:
        """The images in order, on the devices."""
        rows = rows_per_batch(self.batch_size, self.mesh)
        return DeviceBatches(images, rows, self.mesh, self.method.normalization, threads=self.threads, **more)


def run_stages(run: Run, restored: Restored | None) -> tuple[Variables, Progress]:
    """Runs all stages from a restored checkpoint, or from the beginning; returns the final variables and the progress.

    Raises:
      UserError: a checkpoint does not fit the method, the loss is not finite, or the disk is full.
    """
    if restored is None:
        restored = Restored(run.method.init(jax.random.key(run.seed)), [], Progress())
    else:
        progress, folder = restored.progress, run.checkpoints.directory
        logger.info("Resuming stage %d after batch %d from %s", progress.stage + 1, progress.step, folder)
        run.log.rewind(progress.total)
    variables, leaves, progress = restored
    variables, stages = place(run, variables), programs(run.method).stages
    for index in range(progress.stage, len(stages)):
        stage, started = stages[index], time.perf_counter()
        if isinstance(stage, Train):
            variables, progress = train(run, stage, variables, leaves, progress)
        else:
            variables, progress = fit(run, stage, variables, leaves, progress)
        leaves, progress = [], after(progress, stage=index + 1, step=0, iterator=None)
        run.checkpoints.save(variables, {}, progress)
        stopping.stop_if_requested(f"after stage {stage.name}")
        logger.info("Stage %s took %.1f s", stage.name, time.perf_counter() - started)
    return variables, progress


def stop_now(run: Run) -> bool:
    """Whether any process of the mesh was asked to stop; all of them ask after the same step."""
    return sharding.in_any_process(run.mesh, stopping.requested())


class Programs:
    """The jitted programs of a method's stages; models of the same method share them, whatever their images are.

    Attributes:
      stages: of the method.
    """

    def __init__(self, method: Method):
        self.method, self.stages = method, tuple(method.stages())
        self._kept: dict[Any, Callable[..., Any]] = {}

    def features(self, index: int, features: Callable[..., Any]) -> Callable[..., Any]:
        """`features` of the `Train` stage number `index`."""
        return self._kept.setdefault(("features", index), jax.jit(features))

    def step(self, index: int, stage: Train, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
        """`training_step` of the stage number `index`; the state before the step is donated.

        Args:
          optimizer: of the stage, for any number of steps: what depends on this number is in the optimizer's state.
        """
        step = functools.partial(training_step, stage, optimizer, self.method.normalization)
        return self._kept.setdefault(("step", index), jax.jit(step, donate_argnums=0))

    def batch_of_pass(self, index: int, stage: Fit, where: Any) -> Callable[..., Any]:
        """`update` of the stage number `index`; the carry is donated, and the new one lives where `where` says."""
        key = ("pass", index, tuple(jax.tree.leaves(where)), jax.tree.structure(where))
        return self._kept.setdefault(key, jax.jit(stage.update, donate_argnums=1, out_shardings=where))


@functools.lru_cache(maxsize=16)
def programs(method: Method) -> Programs:
    """The programs of a method, the same for equal methods."""
    return Programs(method)


def place(run: Run, variables: Variables) -> Variables:
    return sharding.put(variables, sharding.shardings(run.mesh, variables, run.method.partition))


class State(NamedTuple):
    """What a step of a `Train` stage changes."""

    trained: Any  # parameters, the nested dict that the optimizer sees
    rest: Variables  # the other collections
    optimizer: Any

    def variables(self, frozen: Any) -> Variables:
        return {**self.rest, "params": merge(frozen, self.trained)}


def train(run: Run, stage: Train, variables: Variables, leaves: list, progress: Progress) -> tuple[Variables, Progress]:
    """Runs a stage driven by gradients, from `progress` to its end."""
    images = run.images(stage.data, stage.name)
    check_batches(stage, len(images))
    iterated = stage
    if stage.features is not None:
        every = run.batches(images, progress=f"{stage.name}: features")
        compute = programs(run.method).features(progress.stage, stage.features)
        cached = features.cached(stage, compute, variables, every, run.feature_bytes, run.workdir / "features")
        if stage.prepare is not None:
            prepare = features.with_plain(stage.prepare) if cached is None else cached.prepared(stage.prepare)
            iterated = replace(stage, prepare=prepare)
        images = images if cached is None else cached
    batches = training_iterator(iterated, images, run.seed + progress.stage, run.mesh, run.threads)
    per_epoch, total = stage.steps_per_epoch(len(images)), stage.total_steps(len(images))
    optimizer = stage.optimizer(total)
    state, frozen, best = begin(run, stage, optimizer, variables, leaves, progress)
    if progress.iterator is not None:
        batches.set_state(progress.iterator)
    update = programs(run.method).step(progress.stage, stage, optimizer)
    key, watch, before = run.key(progress.stage), LossWatch(stage, images, run), progress.total - progress.step
    bar = tqdm(total=total, initial=progress.step, desc=stage.name, unit="batch", disable=jax.process_index() > 0)
    with stopping.deferred():
        for step in range(progress.step, total):
            batch = dict(next(batches))
            placed = sharding.put_batch(run.mesh, batch, whole=bool(batch.pop("replicated", False)))
            state, metrics = update(state, frozen, placed, jax.random.fold_in(key, step))
            progress = replace(progress, step=step + 1, total=before + step + 1)
            watch.add(progress, batch["index"], metrics)
            bar.update()
            epoch, inside = divmod(step + 1, per_epoch)
            measured = len(progress.metrics)
            if not inside:
                watch.settle()
                progress, best = end_epoch(run, stage, state, frozen, best, progress, epoch, last=step + 1 == total)
                if stage.patience is not None and epoch - progress.best_epoch >= stage.patience:
                    break
            stop = stop_now(run)
            due = progress.total % run.checkpoint_every == 0 or len(progress.metrics) > measured
            if stop or (due and step + 1 < total):
                watch.settle()
                now = replace(progress, iterator=batches.get_state())
                run.checkpoints.save(state.variables(frozen), {"optimizer": state.optimizer, "best": best}, now)
            if stop:
                raise stopping.Stopped(f"after step {step + 1} of stage {stage.name}")
    watch.settle()
    bar.close()
    if best is not None:
        state = State(*best, optimizer=None)
    return state.variables(frozen), replace(progress, best=None, best_epoch=0)


def begin(
    run: Run,
    stage: Train,
    optimizer: optax.GradientTransformation,
    variables: Variables,
    leaves: list,
    progress: Progress,
) -> tuple[State, Any, Any]:
    """State before the first step (or as a checkpoint has it), frozen parameters, (trained, rest) of the best epoch."""
    trained, frozen = split_by_path(variables["params"], stage.trainable)
    if not trained:
        known = ", ".join(list(variables["params"])[:5])
        raise ValueError(f"stage {stage.name!r} trains no parameter: its `trainable` accepts none below {known}")
    rest = {name: value for name, value in variables.items() if name != "params"}
    moments = jax.jit(optimizer.init)(trained)
    best = None if progress.best is None else (trained, rest)
    if leaves:
        saved = with_leaves({"optimizer": moments, "best": best}, leaves, stage.name)
        moments, best = saved["optimizer"], saved["best"]
        if best is not None:
            best = sharding.put(best, jax.tree.map(lambda leaf: leaf.sharding, (trained, rest)))
    moments = sharding.put(moments, sharding.beside_parameters(moments, trained, run.mesh))
    return State(trained, rest, moments), frozen, best


def end_epoch(
    run: Run, stage: Train, state: State, frozen: Any, best: Any, progress: Progress, epoch: int, last: bool
) -> tuple[Progress, Any]:
    """Measures what the run and the stage ask for; returns progress and (trained, rest) of the best epoch."""
    variables = state.variables(frozen)
    if run.evaluate is not None and run.evaluate_every and epoch % run.evaluate_every == 0 and not last:
        measured = run.evaluate(variables)
        progress = replace(progress, metrics=(*progress.metrics, {"total": progress.total, "epoch": epoch, **measured}))
        run.log.write(progress.total, {f"test/{name}": value for name, value in measured.items()})
        logger.info("Epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
    if stage.monitor is not None:
        held_out = run.images("validation", stage.name)
        if stage.prepare is not None:
            held_out = PreparedImages(held_out, stage.prepare, run.seed)
        value = float(stage.monitor(variables, run.batches(held_out, masks=True)))
        run.log.write(progress.total, {f"{stage.name}/monitor": value})
        if progress.best is None or value > progress.best:
            progress = replace(progress, best=value, best_epoch=epoch)
            best = jax.tree.map(jnp.copy, (state.trained, state.rest))  # the next step donates the state's buffers
    return progress, best


def training_step(
    stage: Train, optimizer: optax.GradientTransformation, normalization, state: State, frozen, batch, key
) -> tuple[State, dict[str, Array]]:
    """One batch: one optimizer step, or several where the stage cuts its batches."""
    batch = normalise(batch, normalization)
    batch = features.with_features(stage, state.variables(frozen), batch)

    def step(state: State, batch_and_key) -> tuple[State, dict[str, Array]]:
        small, key = batch_and_key

        def loss(trained):
            return stage.loss({**state.rest, "params": merge(frozen, trained)}, small, key)

        (value, (updates, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(state.trained)
        changes, moments = optimizer.update(gradients, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, changes)
        logged = {"loss": value, "gradient_norm": optax.global_norm(gradients), **learning_rates(moments), **metrics}
        return State(trained, merge(state.rest, updates), moments), logged

    if stage.minibatches is None:
        return step(state, (batch, key))
    cut, draw = jax.random.split(key)
    small = stage.minibatches(batch, cut)
    count = jax.tree.leaves(small)[0].shape[0]
    state, metrics = jax.lax.scan(step, state, (small, jax.random.split(draw, count)))
    return state, jax.tree.map(lambda values: jnp.mean(values, 0), metrics)


def fit(run: Run, stage: Fit, variables: Variables, leaves: list, progress: Progress) -> tuple[Variables, Progress]:
    """Runs a stage that is one pass over the data in a fixed order, from `progress` to its end."""
    images = run.images(stage.data, stage.name)
    batches = run.batches(images, masks=stage.data in WITH_MASKS, start=progress.step, progress=stage.name)
    carry = stage.start(variables, len(images), batches.rows)
    if leaves:
        carry = with_leaves(carry, leaves, stage.name)
    where = sharding.shardings(run.mesh, carry, run.method.partition, prefix="carry")
    carry = sharding.put(carry, where)
    update = programs(run.method).batch_of_pass(progress.stage, stage, where)
    before = progress.total - progress.step
    with stopping.deferred():
        for step, batch in enumerate(batches, progress.step):
            carry = update(variables, carry, batch, np.int32(step))
            progress = replace(progress, step=step + 1, total=before + step + 1)
            stop = stop_now(run)
            if stop or progress.total % run.checkpoint_every == 0:
                run.checkpoints.save(variables, carry, progress)
            if stop:
                raise stopping.Stopped(f"after step {step + 1} of stage {stage.name}")
    try:
        variables = stage.finish(variables, carry, len(images), run.key(progress.stage))
    except NotFiniteError as error:
        raise UserError(
            f"stage {stage.name!r}: {error} ({', '.join(images.ids[i] for i in error.images[:5])})"
        ) from error
    return place(run, variables), progress


class LossWatch:
    """Looks at each batch's loss one batch later, so that the device never waits, and stops the run when it is not
    finite.
    """

    def __init__(self, stage: Train, images: Images, run: Run):
        self.stage, self.images, self.run = stage, images, run
        self.waiting: tuple[Progress, np.ndarray, dict] | None = None
        self.clock = time.perf_counter()

    def add(self, progress: Progress, index: np.ndarray, metrics: dict[str, jax.Array]) -> None:
        self.settle()
        self.waiting = (progress, np.asarray(index), metrics)

    def settle(self) -> None:
        """Reads what is still waiting.

        Raises:
          UserError: the loss is not finite; the message has the step and the batch's images.
        """
        if self.waiting is None:
            return
        (progress, index, metrics), self.waiting = self.waiting, None
        values = {name: float(value) for name, value in metrics.items()}
        if not math.isfinite(values["loss"]):
            ids = ", ".join(str(self.images.ids[i]) for i in index)
            raise UserError(
                f"stage {self.stage.name!r}: the loss is {values['loss']} at step {progress.step}, images {ids}: "
                "lower the learning rate or look at these images; the last checkpoint is kept"
            )
        if progress.total % self.run.log_every == 0 or progress.step == 1:
            now = time.perf_counter()
            speed = len(index) * self.run.log_every / max(now - self.clock, 1e-9)
            self.clock = now
            if progress.step > 1:
                values["images_per_second"] = speed
            self.run.log.write(progress.total, {f"{self.stage.name}/{name}": value for name, value in values.items()})
