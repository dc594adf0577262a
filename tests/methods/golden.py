"""What the tests of several methods share."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxad.experiment import create_method
from jaxad.method import Fit, Method, Train, Variables
from jaxad.trees import merge, split_by_path
from tests.golden.load import Case

M = TypeVar("M", bound=Method)


def make(config: ConfigDict, as_a: type[M], **changes: Any) -> M:
    """The config's method for one category, as an instance of `as_a` (a subclass that feeds stored draws, or its own
    class), with some of its settings replaced.
    """
    method: Any = create_method(config, ("parts",))
    settings = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return as_a(**{**settings, **changes})


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


def run_steps(
    stage: Train, variables: Variables, batches: list[dict], keys: list[Any], total: int = 1000, donate: bool = False
) -> tuple[Variables, list[dict]]:
    """The plain loop of a stage of `total` steps: final variables, and per step the loss, its metrics, the norms of the
    gradients by path and the new statistics; of the first step the gradients too.

    `keys` are whatever the stage's loss takes for a key: the golden tests put stored draws there. With `donate` the
    memory of `variables` is used up.
    """
    optimizer = stage.optimizer(total)
    trained, frozen = split_by_path(variables["params"], stage.trainable)
    trained = trained if donate else jax.tree.map(jnp.copy, trained)
    state = jax.jit(optimizer.init)(trained)

    @functools.partial(jax.jit, donate_argnums=(0, 3))
    def step(trained, frozen, statistics, state, batch, key):
        def loss(trained):
            return stage.loss({"params": merge(frozen, trained), "batch_stats": statistics}, batch, key)

        (value, (updates, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        changes, state = optimizer.update(gradients, state, trained)
        trained = jax.tree.map(jnp.add, trained, changes)
        new = updates.get("batch_stats", {})
        by_path = flax.traverse_util.flatten_dict(gradients, sep="/")
        norms = {path: jnp.linalg.norm(gradient) for path, gradient in by_path.items()}
        log = {"loss": value, "gradients": by_path, "gradient_norms": norms, "statistics": new, **metrics}
        return trained, merge(statistics, new), state, log

    statistics, log = variables["batch_stats"], []
    for batch, key in zip(batches, keys, strict=True):
        trained, statistics, state, entry = step(trained, frozen, statistics, state, batch, key)
        kept = entry if not log else {name: value for name, value in entry.items() if name != "gradients"}
        log.append(jax.device_get(kept))
    return {"params": merge(frozen, trained), "batch_stats": statistics}, log


def run_fit(stage: Fit, variables: Variables, batches: list[dict], examples: int, key: Any) -> Variables:
    """The plain loop of a `Fit` stage."""
    carry = stage.start(variables, examples, len(batches[0]["image"]))
    update = jax.jit(stage.update)
    for step, batch in enumerate(batches):
        carry = update(variables, carry, batch, jnp.int32(step))
    return stage.finish(variables, carry, examples, key)


def products(function: Callable, *arguments) -> set[str]:
    """The types of the matrix products and convolutions that a function computes: "f32", "bf16"."""
    written = str(jax.make_jaxpr(function)(*arguments))
    return set(re.findall(r":(\w+)\[[\d,]*\] = (?:dot_general|conv_general_dilated)\[", written))


def check_bfloat16(small: Callable[[str], Method], variables, image) -> None:
    """Raises AssertionError unless a method computes in its `dtype` and all that it keeps and returns is float32.

    Args:
      small: `dtype` -> the method, which has one stage, on features.
    """
    features, losses, maps = {}, {}, {}
    for dtype, short in (("float32", "f32"), ("bfloat16", "bf16")):
        method: Any = small(dtype)
        (stage,) = method.stages()
        features[dtype] = jax.jit(stage.features)(variables, {"image": image})
        batch, key = {"features": features["float32"]}, jax.random.key(2)
        after, (entry,) = run_steps(stage, variables, [batch], [key])
        prediction = jax.jit(method.predict)(after, {"image": image})
        types = products(stage.loss, variables, batch, key)
        assert short in types and types <= {short, "f32"}  # a last layer may be wide, so that scores do not tie
        assert {leaf.dtype for leaf in jax.tree.leaves((features, after, prediction))} == {jnp.dtype("float32")}
        assert jax.tree.structure(after) == jax.tree.structure(variables)
        losses[dtype] = [entry[name] for name in sorted(entry) if name.startswith("loss")]
        assert {loss.dtype for loss in losses[dtype]} == {np.dtype("float32")}
        maps[dtype] = prediction.map
    for half, single in zip(*(jax.tree.leaves(features[dtype]) for dtype in ("bfloat16", "float32")), strict=True):
        assert np.any(half != single)
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.01)
    np.testing.assert_allclose(maps["bfloat16"], maps["float32"], atol=0.02)
