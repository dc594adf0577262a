"""Checkpoints: written whole or not at all, verified when read, kept by age and by merit (Orbax).

A checkpoint holds the variables, the state of the running stage (optimizer state, or the carry of a pass) and the
progress: which stage, how many batches of it, the data iterator's state, the metrics so far. From it the same command
continues in the middle of a stage. Only arrays and JSON are stored: reading a checkpoint runs no code from its files.
"""

import dataclasses
import functools
import logging
import shutil
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxad.errors import UserError
from jaxad.sharding import path_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
      stage: index of the running stage; the number of stages once all are done.
      step: batches done in this stage.
      total: the checkpoint's number: batches done in all stages, plus one for every `after`.
      best, best_epoch: largest value of the stage's monitor, and its epoch; `best` is None before the first value.
      iterator: state of the stage's data iterator, as Grain gives it.
      finished: all stages are done and the threshold is set.
      metrics: results of the evaluations during training, oldest first.
      notes: what predictions need besides the variables, whatever the method (calibration, scale of the maps).
    """

    stage: int = 0
    step: int = 0
    total: int = 0
    best: float | None = None
    best_epoch: int = 0
    iterator: dict[str, Any] | None = None
    finished: bool = False
    metrics: tuple[dict[str, Any], ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


class Restored(NamedTuple):
    """What a checkpoint holds."""

    variables: dict[str, Any]
    leaves: list[np.ndarray]  # of the running stage's state
    progress: Progress


def after(progress: Progress, **changes: Any) -> Progress:
    """The progress with some fields changed and the next number, so that no checkpoint replaces another."""
    return replace(progress, total=progress.total + 1, **changes)


class Checkpoints:
    """The checkpoints of one model in `directory`.

    Args:
      keep_last: how many of the newest are kept.
      keep_best: name of a metric (as in `Progress.metrics`) whose best checkpoint is kept as well; "" for none.
      read_only: nothing is created, written or cleaned up.
    """

    def __init__(self, directory: Path, keep_last: int = 2, keep_best: str = "", read_only: bool = False):
        self.directory = Path(directory).absolute()
        self.keep_best = keep_best
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(n=max(keep_last, 1))]
        if keep_best:
            best = ocp.checkpoint_managers.BestN
            merit = functools.partial(merit_of, keep_best)
            policies.append(best(get_metric_fn=merit, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=False,
            step_prefix="step",
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        handlers = {"state": ocp.PyTreeCheckpointHandler(), "progress": ocp.JsonCheckpointHandler()}
        try:
            self.manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        except OSError as error:
            raise UserError(f"cannot use {self.directory} for checkpoints: {error.strerror or error}") from error

    def save(self, variables: Any, stage_state: Any, progress: Progress) -> None:
        """Writes a checkpoint under the number `progress.total`; a kill at any moment leaves the earlier ones intact.

        Raises:
          UserError: it cannot be written (a full or read-only disk); earlier checkpoints are kept.
        """
        leaves = jax.tree.leaves(stage_state)
        state = {"variables": variables, "stage": {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}}
        record = dataclasses.asdict(progress) | {"checksums": checksums(state)}
        metrics = next((m for m in progress.metrics[-1:] if m.get("total") == progress.total), None)
        self._check_space(state, progress.total)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), progress=ocp.args.JsonSave(record))
        try:
            if progress.total in self.manager.all_steps():
                self.manager.delete(progress.total)
            self.manager.save(progress.total, args=items, metrics=metrics, force=True)
            self.manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise many kinds for a full or read-only disk
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"cannot write checkpoint {progress.total} in {self.directory}: {reason}; earlier ones are kept: "
                "make room or choose another --workdir, then run the same command again"
            ) from error

    def _check_space(self, state: Any, number: int) -> None:
        """Refuses a full disk before writing: TensorStore's threads would print errors of their own."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"cannot write checkpoint {number} in {self.directory}: it may need {needed / 2**20:.0f} MiB, the "
                f"disk has {free / 2**20:.0f} MiB left; earlier ones are kept: make room, then run it again"
            )

    def steps(self) -> list[int]:
        """Numbers of the existing checkpoints, oldest first."""
        return sorted(self.manager.all_steps())

    def restore(self, step: int | None = None) -> Restored | None:
        """The newest intact checkpoint (or number `step`), as arrays on the host.

        A damaged checkpoint is reported and the one before it is used; None where there is none at all.

        Raises:
          UserError: there are checkpoints, and every one is damaged.
        """
        steps = [step] if step is not None else self.steps()[::-1]
        for number in steps:
            try:
                return self._read(number)
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                logger.error(
                    "Checkpoint %s/step_%d is damaged (%s); trying the one before it", self.directory, number, reason
                )
        if steps:
            raise UserError(
                f"all checkpoints in {self.directory} are damaged (steps {', '.join(map(str, steps))}): "
                "remove the folder to train again"
            )
        return None

    def _read(self, step: int) -> Restored:
        record = self.manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))["progress"]
        tree = self.manager.item_metadata(step)["state"].tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = self.manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(restore_args=as_numpy))
        )["state"]
        expected = record.pop("checksums")
        actual = checksums(state)
        wrong = sorted(path for path in expected if expected[path] != actual.get(path))
        if wrong:
            raise ValueError(f"{len(wrong)} arrays do not match their checksums; the first is {wrong[0]}")
        leaves = [leaf for _, leaf in sorted((state.get("stage") or {}).items())]
        record["metrics"] = tuple(record["metrics"])
        return Restored(state["variables"], leaves, Progress(**record))

    def close(self) -> None:
        self.manager.close()


def merit_of(name: str, metrics: dict[str, float]) -> float:
    return metrics.get(name, float("-inf"))


def checksums(state: Any) -> dict[str, int]:
    """CRC-32 of every array that this process holds entirely, by its path."""
    sums = {}
    for path, leaf in zip(jax.tree.leaves(path_names(state)), jax.tree.leaves(state), strict=True):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                continue
            leaf = leaf.addressable_data(0)
        array = np.ascontiguousarray(np.asarray(leaf))
        sums[path] = zlib.crc32(
            array.reshape(-1).view(np.uint8).data, zlib.crc32(repr((array.shape, str(array.dtype))).encode())
        )
    return sums
