import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.nn.norm import BatchNorm, LayerNorm

X = np.array([[1.0, 10.0], [2.0, -5.0], [4.0, 3.0]], np.float32)
VARIABLES = {
    "params": {"scale": np.float32([2, 0.5]), "bias": np.float32([1, -1])},
    "batch_stats": {"mean": np.zeros(2, np.float32), "var": np.ones(2, np.float32)},
}


def test_batch_norm_equals_torch_in_training_and_afterwards():
    norm = BatchNorm(momentum=0.3)
    y, updated = norm.apply(VARIABLES, X, train=True, mutable=["batch_stats"])
    want = [-1.1380829, -0.40167898, 0.46547937, -1.6255174, 3.6726038, -0.9728036]
    np.testing.assert_allclose(y.ravel(), want, rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.7, 0.8], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [1.4, 17.6], rtol=1e-6)
    y = norm.apply({**VARIABLES, **updated}, X, train=False)
    want = [1.5070907, 0.096481666, 3.1973932, -1.6912601, 6.5779977, -0.73779786]
    np.testing.assert_allclose(y.ravel(), want, rtol=2e-6)


def test_batch_norm_keeps_its_digits_far_from_zero():
    x = np.random.default_rng(0).normal(1000, 0.01, (64, 1)).astype(np.float32)
    variables = {
        "params": {"scale": np.ones(1), "bias": np.zeros(1)},
        "batch_stats": {"mean": np.zeros(1), "var": np.ones(1)},
    }
    y, _ = BatchNorm(epsilon=0.0).apply(variables, x, train=True, mutable=["batch_stats"])
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean()) / wide.std(), atol=0.02)


def test_batch_norm_starts_from_unit_statistics_whatever_the_first_batch():
    variables = BatchNorm().init(jax.random.key(0), jnp.asarray(X), train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0, 0])
    np.testing.assert_array_equal(variables["batch_stats"]["var"], [1, 1])


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_returns_the_type_it_was_given_and_keeps_float32_statistics(train):
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (500, 2)), jnp.bfloat16)
    assert float32_leaves(BatchNorm().init(jax.random.key(0), x, train=train))
    (y, updated), (want, want_updated) = (
        BatchNorm().apply(VARIABLES, values, train=train, mutable=["batch_stats"])
        for values in (x, x.astype(jnp.float32))
    )
    assert (y.dtype, want.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(y, want.astype(jnp.bfloat16))
    assert float32_leaves(updated)
    jax.tree.map(np.testing.assert_array_equal, updated, want_updated)


def float32_leaves(tree) -> bool:
    return {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxad.nn.norm import BatchNorm
assert jax.device_count() == 8
x = np.random.default_rng(0).normal(2, 3, (16, 4, 4, 3)).astype(np.float32) * np.arange(1, 17).reshape(-1, 1, 1, 1)
norm = BatchNorm()
variables = norm.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False)
apply = jax.jit(lambda v, x: norm.apply(v, x, train=True, mutable=["batch_stats"]))
sharded = jax.device_put(x, NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data")))
y, updated = apply(variables, sharded)
rows = x.astype(np.float64).reshape(-1, 3)
np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * rows.mean(0), rtol=1e-5)
np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
np.testing.assert_allclose(np.asarray(y).reshape(-1, 3), (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5), atol=1e-5)
"""


def test_batch_norm_takes_the_statistics_of_the_whole_sharded_batch():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_layer_norm_equals_torch():
    x = np.float32([1, 2, 4, 8]) * np.float32(1e-2)
    norm = LayerNorm()
    y = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, [-1.0186932, -0.64825934, 0.092608385, 1.5743439], rtol=1e-5)


def test_layer_norm_scales_and_shifts_and_keeps_its_digits_far_from_zero():
    x = np.random.default_rng(0).normal(1000, 0.01, (3, 64)).astype(np.float32)
    params = {"scale": np.linspace(0.5, 2, 64, dtype=np.float32), "bias": np.linspace(-1, 1, 64, dtype=np.float32)}
    y = LayerNorm(epsilon=1e-12).apply({"params": params}, x)
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(y, normal * params["scale"] + params["bias"], atol=0.02)


def test_layer_norm_returns_the_type_it_was_given_or_told():
    x = jax.random.normal(jax.random.key(0), (4, 6, 32), jnp.bfloat16)
    norm = LayerNorm()
    variables = norm.init(jax.random.key(1), x)
    assert float32_leaves(variables)
    y, want = norm.apply(variables, x), norm.apply(variables, x.astype(jnp.float32))
    assert (y.dtype, want.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(y, want.astype(jnp.bfloat16))
    np.testing.assert_array_equal(LayerNorm(dtype="float32").apply(variables, x), want)
    assert LayerNorm(dtype="bfloat16").apply(variables, want).dtype == jnp.bfloat16
