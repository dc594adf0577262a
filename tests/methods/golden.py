"""What the golden tests of several methods share."""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from jaxad.method import Fit, Train, Variables
from tests.golden.load import Case


def nhwc(images: np.ndarray) -> jax.Array:
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def check_all(case: Case, outputs: Mapping[str, Any]) -> None:
    """Every output of the fixture, all failures in one message."""
    failures = []
    for key in case.expected:
        if case.needs_float64(key):
            continue
        try:
            case.check(key, outputs[key])
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


def split(params: Any, trainable: Callable[[str], bool]) -> tuple[dict, dict]:
    """The parameters that a stage trains, and all others, as flat dicts by path."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return {k: v for k, v in flat.items() if trainable(k)}, {k: v for k, v in flat.items() if not trainable(k)}


def run_steps(stage: Train, variables: Variables, batches: list[dict], keys: list[Any]) -> tuple[Variables, list[dict]]:
    """The plain loop of a stage: final variables, and per step the loss, its metrics, the gradients by path and
    the new statistics.

    `keys` are whatever the stage's loss takes for a key: the golden tests put stored draws there.
    """
    trained, frozen = split(variables["params"], stage.trainable)
    nest = lambda flat: flax.traverse_util.unflatten_dict(flat, sep="/")  # noqa: E731
    state = stage.optimizer.init(nest(trained))

    @jax.jit
    def step(trained, frozen, statistics, state, batch, key):
        def loss(trained):
            return stage.loss({"params": nest({**frozen, **trained}), "batch_stats": statistics}, batch, key)

        (value, (updates, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        changes, state = stage.optimizer.update(nest(gradients), state, nest(trained))
        changes = flax.traverse_util.flatten_dict(changes, sep="/")
        trained = {path: value + changes[path] for path, value in trained.items()}
        return (
            trained,
            {**statistics, **updates.get("batch_stats", {})},
            state,
            {"loss": value, "gradients": gradients, "statistics": updates.get("batch_stats", {}), **metrics},
        )

    statistics, log = variables["batch_stats"], []
    for batch, key in zip(batches, keys, strict=True):
        trained, statistics, state, entry = step(trained, frozen, statistics, state, batch, key)
        log.append(jax.device_get(entry))
    return {"params": nest({**frozen, **trained}), "batch_stats": statistics}, log


def run_fit(stage: Fit, variables: Variables, batches: list[dict], examples: int, key: Any) -> Variables:
    """The plain loop of a `Fit` stage."""
    carry = stage.start(variables, examples, len(batches[0]["image"]))
    update = jax.jit(stage.update)
    for step, batch in enumerate(batches):
        carry = update(variables, carry, batch, jnp.int32(step))
    return stage.finish(variables, carry, examples, key)
