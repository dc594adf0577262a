"""Normalisation layers with PyTorch's conventions."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as `torch.nn.BatchNorm2d`.

    In training the batch's biased variance normalises and the unbiased one enters the running statistics, which move by
    `momentum` (PyTorch's sense: 0.1 keeps nine tenths). Over a sharded batch the statistics are the global ones.
    Statistics are float32 whatever the input's type.
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

        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
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
