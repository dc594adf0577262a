"""Dropout, attention and positions; their numbers against PyTorch are in tests/methods/test_uniad.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.nn.transformer import (
    Dropout,
    EncoderLayer,
    LearnedPosition,
    MultiheadAttention,
    neighbour_mask,
    sine_position,
)


def test_dropout_zeroes_its_share_and_keeps_the_mean_at_odd_widths_too():
    x = jnp.ones((300, 101))
    dropped = Dropout(0.1).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.9)}
    np.testing.assert_allclose(np.mean(dropped == 0), 0.1, atol=0.01)
    np.testing.assert_array_equal(Dropout(0.1).apply({}, x, False), x)


def test_both_halves_of_a_random_number_decide_independently():
    dropped = np.asarray(Dropout(0.5).apply({}, jnp.ones((200, 100)), True, rngs={"dropout": jax.random.key(1)})) == 0
    assert abs(np.mean(dropped[:, :50] == dropped[:, 50:]) - 0.5) < 0.03


def test_a_query_of_batch_one_serves_the_batch_and_blocked_keys_do_not_count():
    attention = MultiheadAttention(2)
    query, memory = jax.random.normal(jax.random.key(0), (1, 3, 8)), jax.random.normal(jax.random.key(1), (4, 5, 8))
    blocked = np.zeros((3, 5), bool)
    blocked[1, 2:] = True
    variables = attention.init(jax.random.key(2), query, memory, memory, blocked)
    apply = jax.jit(lambda q, m: attention.apply(variables, q, m, m, blocked))
    together = apply(query, memory)
    np.testing.assert_allclose(together, apply(jnp.repeat(query, 4, 0), memory), atol=1e-6)
    change = np.asarray(apply(query, memory.at[:, 2:].add(1.0)) - together)
    np.testing.assert_allclose(change[:, 1], 0.0, atol=1e-6)
    assert np.abs(change[:, [0, 2]]).min(-1).max() > 1e-3


def test_dropout_keeps_the_type_and_drops_the_same_elements():
    x, rngs = jnp.ones((30, 41)), {"dropout": jax.random.key(0)}
    dropped = Dropout(0.5).apply({}, x.astype(jnp.bfloat16), True, rngs=rngs)
    assert dropped.dtype == jnp.bfloat16
    np.testing.assert_array_equal(dropped, Dropout(0.5).apply({}, x, True, rngs=rngs))


def test_logits_are_float32_whatever_the_input():
    """256 and 257 are the same number in bfloat16."""
    identity = np.eye(4, dtype=np.float32)
    params = {
        "in_proj_kernel": np.tile(identity, 3),
        "in_proj_bias": np.zeros(12, np.float32),
        "out_proj": {"kernel": identity, "bias": np.zeros(4, np.float32)},
    }
    query, key = jnp.array([[[32, 2, 0, 0]]]), jnp.array([[[16, 0, 0, 0], [16, 1, 0, 0]]])
    value = jnp.array([[[0, 0, 0, 0], [1, 1, 1, 1]]])
    parts = [part.astype(jnp.bfloat16) for part in (query, key, value)]
    y = MultiheadAttention(1).apply({"params": params}, *parts, np.zeros((1, 2), bool))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), 1 / (1 + np.exp(-1)), rtol=4e-3)


@pytest.mark.parametrize("position", [sine_position((3, 3), 16), jax.random.normal(jax.random.key(4), (9, 16))])
def test_an_encoder_layer_computes_in_the_type_of_its_input_with_float32_parameters(position):
    layer = EncoderLayer(heads=2, feedforward=32, dropout=0.1)
    x, blocked = jax.random.normal(jax.random.key(0), (2, 9, 16)), neighbour_mask((3, 3), (1, 1))
    variables = layer.init(jax.random.key(1), x.astype(jnp.bfloat16), position, blocked, False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    for train in (False, True):
        y, want = (
            layer.apply(variables, values, position, blocked, train, rngs={"dropout": jax.random.key(2)})
            for values in (x.astype(jnp.bfloat16), x)
        )
        assert (y.dtype, want.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.06)


def test_learned_positions_hold_the_column_first_and_then_the_row():
    module = LearnedPosition((3, 4), 16)
    variables = module.init(jax.random.key(0))
    position = module.apply(variables).reshape(3, 4, 16)
    params = variables["params"]
    np.testing.assert_array_equal(position[2, 1, :8], params["col_embed"]["embedding"][1])
    np.testing.assert_array_equal(position[2, 1, 8:], params["row_embed"]["embedding"][2])


def test_neighbourhood_reaches_half_its_size_along_each_axis():
    blocked = neighbour_mask((5, 7), (3, 4)).reshape(5, 7, 5, 7)
    expected = np.zeros((5, 7), bool)
    expected[1:4, 1:6] = True
    np.testing.assert_array_equal(blocked[2, 3], expected)


def test_sine_positions_tell_rows_in_one_half_and_columns_in_the_other():
    position = sine_position((3, 4), 16).reshape(3, 4, 16)
    assert (np.ptp(position[..., :8], axis=1) == 0).all() and (np.ptp(position[..., 8:], axis=0) == 0).all()
    assert len(np.unique(position.reshape(12, 16).round(4), axis=0)) == 12
