"""Clipping as PyTorch's, by its formula."""

import jax.numpy as jnp
import numpy as np

from jaxad.nn.clipping import clip_by_global_norm


def clipped(gradients, max_norm):
    clip = clip_by_global_norm(max_norm)
    return clip.update(gradients, clip.init(gradients))[0]


def test_a_norm_above_the_limit_is_scaled_to_it_but_for_the_epsilon():
    gradients = {"a": jnp.array([3e-6]), "b": jnp.array([0.0, 4e-6])}
    found = clipped(gradients, 1e-6)
    np.testing.assert_allclose(found["a"], 3e-6 * 1e-6 / 6e-6, rtol=1e-5)
    np.testing.assert_allclose(found["b"][1], 4e-6 * 1e-6 / 6e-6, rtol=1e-5)


def test_gradients_below_the_limit_or_without_one_are_left():
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([0.0, 4.0])}
    for max_norm in (5.1, None):
        found = clipped(gradients, max_norm)
        np.testing.assert_array_equal(found["a"], gradients["a"])
        np.testing.assert_array_equal(found["b"], gradients["b"])
