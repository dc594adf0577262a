import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.nn.linear import Dense

X = jax.random.normal(jax.random.key(0), (2, 5, 16))


@pytest.mark.parametrize("use_bias", [True, False])
def test_dense_has_the_parameters_and_the_float32_result_of_flax(use_bias):
    mine, flax = (layer(7, use_bias, bias_init=nn.initializers.normal()) for layer in (Dense, _flax))
    variables = mine.init(jax.random.key(1), X)
    jax.tree.map(np.testing.assert_array_equal, variables, flax.init(jax.random.key(1), X))
    assert set(variables["params"]) == ({"kernel", "bias"} if use_bias else {"kernel"})
    np.testing.assert_array_equal(mine.apply(variables, X), flax.apply(variables, X))


def _flax(features, use_bias, bias_init):
    return nn.Dense(features, use_bias, bias_init=bias_init)


def test_dense_computes_in_the_type_of_its_input_with_float32_parameters():
    layer = Dense(7, bias_init=nn.initializers.normal())
    variables = layer.init(jax.random.key(1), X.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y = layer.apply(variables, X.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype("float32"), layer.apply(variables, X), atol=0.03)
