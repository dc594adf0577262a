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
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from tqdm import tqdm

from jaxad import sharding
from jaxad.checkpoint import Checkpoints, Progress, Restored, after
from jaxad.data.pipeline import evaluation_batches, training_iterator
from jaxad.errors import NotFiniteError, UserError
from jaxad.log import MetricLog
from jaxad.method import Fit, Method, Train, Variables
from jaxad.prediction import Batches, normalise, rows_a_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What the stages of one model share.

    Attributes:
      splits: name of a stage's `data` -> its images.
      evaluate: variables -> metrics of the test images, called every `evaluate_every` epochs; 0 for never.
      feature_bytes: budget of cached features (in memory, on disk).
    """

    method: Method
    mesh: Mesh
    seed: int
    splits: Mapping[str, Any]
    checkpoints: Checkpoints
    log: MetricLog
    workdir: Path
    batch_size: int
    checkpoint_every: int
    log_every: int
    feature_bytes: tuple[float, float]
    evaluate: Callable[[Variables], dict[str, float]] | None = None
    evaluate_every: int = 0

    def key(self, stage: int) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.seed), stage)

    def split(self, stage: Train | Fit) -> Any:
        if stage.data not in self.splits:
            raise UserError(
                f"stage {stage.name!r} needs {stage.data!r} images: name a data set for them in config.{stage.data}"
            )
        split = self.splits[stage.data]
        if not len(split):
            raise UserError(f"stage {stage.name!r}: there is no image in {stage.data!r}")
        return split


def run_stages(run: Run, restored: Restored | None) -> tuple[Variables, Progress]:
    """All stages from a restored checkpoint (or the beginning) on; returns the final variables and the progress.

    Raises:
      UserError: a checkpoint does not fit the method, the loss is not finite, or the disk is full.
    """
    if restored is None:
        variables, leaves, progress = run.method.init(jax.random.key(run.seed)), [], Progress()
    else:
        variables, leaves, progress = restored
        logger.info(
            "Resuming stage %d after batch %d from %s", progress.stage + 1, progress.step, run.checkpoints.directory
        )
        run.log.rewind(progress.total)
    variables = place(run, variables)
    stages = run.method.stages(len(run.splits["train"]))
    for index in range(progress.stage, len(stages)):
        stage, started = stages[index], time.perf_counter()
        if isinstance(stage, Train):
            variables, progress = train(run, stage, variables, leaves, progress)
        else:
            variables, progress = fit(run, stage, variables, leaves, progress)
        leaves, progress = [], after(progress, stage=index + 1, step=0, iterator=None)
        run.checkpoints.save(variables, {}, progress)
        logger.info("Stage %s took %.1f s", stage.name, time.perf_counter() - started)
    return variables, progress


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
    """A stage driven by gradients, from `progress` to its end."""
    source = run.split(stage)
    per_epoch, total = stage.steps_per_epoch(len(source)), stage.total_steps(len(source))
    if not per_epoch:
        raise UserError(
            f"stage {stage.name!r}: {len(source)} training images make no whole batch of {stage.batch_size}: "
            "set --config.train.batch_size lower"
        )
    if stage.features is not None:
        source = cache_features(run, stage, variables, source)
    state, frozen, best = begin(run, stage, variables, leaves, progress)
    batches = training_iterator(
        source,
        batch_size=stage.batch_size,
        seed=run.seed + progress.stage,
        steps=total,
        drop_last=stage.drop_last,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        parts=run.mesh.shape["data"],
    )
    if progress.iterator is not None:
        batches.set_state(progress.iterator)
    update = jax.jit(functools.partial(training_step, stage, run.method.normalization), donate_argnums=0)
    key, watch, before = run.key(progress.stage), LossWatch(stage, source, run), progress.total - progress.step
    bar = tqdm(total=total, initial=progress.step, desc=stage.name, unit="batch", disable=jax.process_index() > 0)
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
        if (progress.total % run.checkpoint_every == 0 or len(progress.metrics) > measured) and step + 1 < total:
            watch.settle()
            now = replace(progress, iterator=batches.get_state())
            run.checkpoints.save(state.variables(frozen), {"optimizer": state.optimizer, "best": best}, now)
    watch.settle()
    bar.close()
    if best is not None:
        state = State(*best, optimizer=None)
    return state.variables(frozen), replace(progress, best=None, best_epoch=0)


def begin(run: Run, stage: Train, variables: Variables, leaves: list, progress: Progress) -> tuple[State, Any, Any]:
    """State before the first step (or as a checkpoint has it), frozen parameters, (trained, rest) of the best epoch."""
    trained, frozen = select(variables["params"], stage.trainable)
    rest = {name: value for name, value in variables.items() if name != "params"}
    optimizer = jax.jit(stage.optimizer.init)(trained)
    best = None if progress.best is None else (trained, rest)
    if leaves:
        saved = refill({"optimizer": optimizer, "best": best}, leaves, stage.name)
        optimizer, best = saved["optimizer"], saved["best"]
        if best is not None:
            best = sharding.put(best, jax.tree.map(lambda leaf: leaf.sharding, (trained, rest)))
    optimizer = sharding.put(optimizer, like(optimizer, trained, run.mesh))
    return State(trained, rest, optimizer), frozen, best


def end_epoch(
    run: Run, stage: Train, state: State, frozen: Any, best: Any, progress: Progress, epoch: int, last: bool
) -> tuple[Progress, Any]:
    """Measures what the run and the stage ask for; returns progress and (trained, rest) of the best epoch."""
    variables = state.variables(frozen)
    if run.evaluate is not None and run.evaluate_every and epoch % run.evaluate_every == 0 and not last:
        found = run.evaluate(variables)
        progress = replace(progress, metrics=(*progress.metrics, {"total": progress.total, "epoch": epoch, **found}))
        run.log.write(progress.total, {f"test/{name}": value for name, value in found.items()})
        logger.info("Epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    if stage.monitor is not None:
        held_out = run.splits["validation"]
        rows = rows_a_batch(run.batch_size, run.mesh)
        value = float(stage.monitor(variables, Batches(held_out, rows, run.mesh, run.method.normalization)))
        run.log.write(progress.total, {f"{stage.name}/monitor": value})
        if progress.best is None or value > progress.best:
            progress = replace(progress, best=value, best_epoch=epoch)
            best = jax.tree.map(jnp.copy, (state.trained, state.rest))  # the next step gives up the state's memory
    return progress, best


def training_step(stage: Train, normalization, state: State, frozen, batch, key) -> tuple[State, dict[str, Array]]:
    """One batch: one optimizer step, or several where the stage cuts its batches."""
    batch = normalise(batch, normalization)

    def step(state: State, batch_and_key) -> tuple[State, dict[str, Array]]:
        small, key = batch_and_key

        def loss(trained):
            return stage.loss({**state.rest, "params": merge(frozen, trained)}, small, key)

        (value, (updates, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(state.trained)
        changes, optimizer = stage.optimizer.update(gradients, state.optimizer, state.trained)
        trained = optax.apply_updates(state.trained, changes)
        return State(trained, merge(state.rest, updates), optimizer), {"loss": value, **metrics}

    if stage.minibatches is None:
        return step(state, (batch, key))
    cut, draw = jax.random.split(key)
    small = stage.minibatches(batch, cut)
    count = jax.tree.leaves(small)[0].shape[0]
    state, metrics = jax.lax.scan(step, state, (small, jax.random.split(draw, count)))
    return state, jax.tree.map(lambda values: jnp.mean(values, 0), metrics)


def fit(run: Run, stage: Fit, variables: Variables, leaves: list, progress: Progress) -> tuple[Variables, Progress]:
    """A stage that is one pass over the data in a fixed order, from `progress` to its end."""
    source = run.split(stage)
    rows = rows_a_batch(run.batch_size, run.mesh)
    steps = math.ceil(len(source) / rows)
    carry = stage.start(variables, len(source), rows)
    if leaves:
        carry = refill(carry, leaves, stage.name)
    where = sharding.shardings(run.mesh, carry, run.method.partition, prefix="carry")
    carry = sharding.put(carry, where)

    def step_of(variables, carry, batch, step):
        return stage.update(variables, carry, normalise(batch, run.method.normalization), step)

    update = jax.jit(step_of, donate_argnums=1, out_shardings=where)
    batches = evaluation_batches(
        source, rows, process_index=jax.process_index(), process_count=jax.process_count(), start=progress.step
    )
    begin = progress.total - progress.step
    with tqdm(
        total=steps, initial=progress.step, desc=stage.name, unit="batch", disable=jax.process_index() > 0
    ) as bar:
        for step, batch in enumerate(batches, progress.step):
            carry = update(variables, carry, sharding.put_batch(run.mesh, batch), np.int32(step))
            progress = replace(progress, step=step + 1, total=begin + step + 1)
            bar.update()
            if progress.total % run.checkpoint_every == 0:
                run.checkpoints.save(variables, carry, progress)
    try:
        variables = stage.finish(variables, carry, len(source), run.key(progress.stage))
    except NotFiniteError as error:
        raise UserError(
            f"stage {stage.name!r}: {error} ({', '.join(source.ids[i] for i in error.images[:5])})"
        ) from error
    return place(run, variables), progress


def select(params: Any, trainable: Callable[[str], bool]) -> tuple[Any, Any]:
    """The parameters cut in two nested dicts: those whose path is trained, and the rest."""
    flat = traverse_util.flatten_dict(params, sep="/")
    trained = {path: leaf for path, leaf in flat.items() if trainable(path)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    if not trained:
        raise ValueError(
            "no parameter is trained by this stage: its `trainable` accepts none of " + ", ".join(list(flat)[:5])
        )
    nest = functools.partial(traverse_util.unflatten_dict, sep="/")
    return nest(trained), nest(frozen)


def merge(base: Any, changes: Any) -> Any:
    """A nested dict with the leaves of `changes` in place of, or beside, those of `base`."""
    if not isinstance(changes, Mapping) or not isinstance(base, Mapping):
        return changes
    return {**base, **{key: merge(base[key], value) if key in base else value for key, value in changes.items()}}


def refill(tree: Any, leaves: list, stage: str) -> Any:
    """`tree` with a checkpoint's arrays in place of its own."""
    own = jax.tree.leaves(tree)
    shapes = [(np.shape(leaf), np.shape(saved)) for leaf, saved in zip(own, leaves, strict=False)]
    if len(own) != len(leaves) or any(a != b for a, b in shapes):
        raise UserError(
            f"the checkpoint's state of stage {stage!r} does not fit this config: start in another --workdir"
        )
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def like(optimizer_state: Any, trained: Any, mesh: Mesh) -> Any:
    """Where the optimizer's state lives: moments beside the parameter they belong to, counts everywhere."""
    places: dict[tuple, Any] = dict(traverse_util.flatten_dict(trained))

    def place(path, leaf):
        keys = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        for length in range(len(keys), 0, -1):
            owner = places.get(keys[-length:])
            if owner is not None and owner.shape == np.shape(leaf):
                return owner.sharding
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, optimizer_state)


class LossWatch:
    """Looks at each batch's loss one batch later, so that the device never waits, and stops the run when it is not
    finite.
    """

    def __init__(self, stage: Train, source: Any, run: Run):
        self.stage, self.source, self.run = stage, source, run
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
            ids = ", ".join(str(self.source.ids[i]) for i in index)
            raise UserError(
                f"stage {self.stage.name!r}: the loss is {values['loss']} at step {progress.step}, images {ids}: "
                "lower the learning rate or look at these images; the last checkpoint is kept"
            )
        if progress.total % self.run.log_every == 0 or progress.step == 1:
            now = time.perf_counter()
            speed = len(index) * self.run.log_every / max(now - self.clock, 1e-9)
            self.clock = now
            extra = {} if progress.step == 1 else {"images_per_second": speed}
            self.run.log.write(
                progress.total, {f"{self.stage.name}/{name}": v for name, v in {**values, **extra}.items()}
            )


class FeatureSource:
    """The cached frozen features of a split's images, read as a split is."""

    def __init__(self, split: Any, features: Any):
        self.split, self.features, self.ids = split, features, split.ids

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {key: value for key, value in self.split[i].items() if key != "image"}
        return {**item, "features": jax.tree.map(lambda array: array[i], self.features)}


class FeaturesOnTheFly(FeatureSource):
    """The same where no budget holds the features: computed whenever an image is asked for."""

    def __init__(self, split: Any, compute: Callable[[dict], Any]):
        super().__init__(split, None)
        self.compute = compute

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = dict(self.split[i])
        features = self.compute({key: np.asarray(value)[None] for key, value in item.items()})
        item.pop("image")
        return {**item, "features": jax.tree.map(lambda array: array[0], features)}


def cache_features(run: Run, stage: Train, variables: Variables, split: Any) -> FeatureSource:
    """Runs the frozen part once an image; the result is kept in memory, else on disk, else computed when asked for.

    Raises:
      UserError: a feature is not finite; the message names the image.
    """

    frozen_part = stage.features
    assert frozen_part is not None

    @jax.jit
    def compute(variables, batch):
        return frozen_part(variables, normalise(batch, run.method.normalization))

    rows, where = rows_a_batch(run.batch_size, run.mesh), (jax.process_index(), jax.process_count())
    batches = evaluation_batches(split, rows, process_index=where[0], process_count=where[1])
    title, steps = f"{stage.name}: features", math.ceil(len(split) / rows)
    features, done = None, 0
    for batch in tqdm(batches, total=steps, desc=title, unit="batch", disable=where[0] > 0):
        found = sharding.to_host(compute(variables, sharding.put_batch(run.mesh, batch)))
        if features is None:
            size = sum(leaf.nbytes / rows for leaf in jax.tree.leaves(found)) * len(split)
            memory, disk = run.feature_bytes
            if size > memory + disk:
                logger.warning("Features of %.1f GiB are over the budget of config.features", size / 2**30)
                return on_the_fly(compute, variables, split)
            folder = None if size <= memory else run.workdir / "features"
            features = jax.tree.map(functools.partial(allocate, len(split), folder), found)
        take = min(rows, len(split) - done)
        check_finite(stage, split, found, done, take)
        for kept, new in zip(jax.tree.leaves(features), jax.tree.leaves(found), strict=True):
            kept[done : done + take] = new[:take]
        done += take
    return FeatureSource(split, features)


def check_finite(stage: Train, split: Any, features: Any, first: int, count: int) -> None:
    for leaf in jax.tree.leaves(features):
        bad = ~np.isfinite(leaf[:count]).reshape(count, -1).all(1)
        if bad.any():
            raise UserError(
                f"stage {stage.name!r}: the features of {split.ids[first + int(np.argmax(bad))]} are not finite: "
                "look at this image and at the weights of config.backbone"
            )


def on_the_fly(compute: Callable, variables: Variables, split: Any) -> FeaturesOnTheFly:
    """The source without a cache; training gives up the memory of the variables it changes, so it keeps a copy."""
    copy = jax.tree.map(jnp.copy, variables)
    return FeaturesOnTheFly(split, lambda batch: sharding.to_host(compute(copy, batch)))


def allocate(count: int, folder: Path | None, like: np.ndarray) -> np.ndarray:
    """Room for `count` rows of the form of `like`: in memory, or in an unnamed file of `folder`."""
    shape = (count, *like.shape[1:])
    if folder is None:
        return np.empty(shape, like.dtype)
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # the file goes with the last reference to it
        return np.memmap(file, like.dtype, "w+", shape=shape)
