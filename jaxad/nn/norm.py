"""Normalisation layers with PyTorch's conventions: float32 arithmetic, output in the input's floating type."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxad.nn.precision import widened


class LayerNorm(nn.Module):
    """Normalisation over the last axis, then scale and shift, as `torch.nn.LayerNorm`.

    The variance is taken around the mean in a second pass: E[x^2] - E[x]^2 would cancel where the mean is large.

    Attributes:
      epsilon: added to the variance.
      dtype: type of the output; None: that of the input. Arithmetic is float32 either way.
    """

    epsilon: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        wide = widened(x)
        mean = jnp.mean(wide, -1, keepdims=True)
        var = jnp.mean(jnp.square(wide - mean), -1, keepdims=True)
        y = (wide - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(x.dtype if self.dtype is None else self.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as `torch.nn.BatchNorm2d`.

    In training the batch is normalised by its biased variance, and the unbiased one enters the running statistics,
    which are float32 and move by `momentum` (PyTorch's sense: 0.1 keeps nine tenths). Over a sharded batch the
    statistics are the global ones.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"], train: bool) -> Float[Array, "*batch c"]:
        width = x.shape[-1]
        scale = self.param("scale", self.scale_init, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)

        wide = widened(x)
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // width
            mean = jnp.mean(wide, axes)
            var = jnp.mean(jnp.square(wide - mean), axes)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        return ((wide - mean) * (scale * lax.rsqrt(var + self.epsilon)) + bias).astype(x.dtype)
