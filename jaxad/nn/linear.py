"""Linear layers in the floating type of their input."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dense(nn.Module):
    """x @ kernel + bias over the last axis, in the input's floating type; the parameters are float32.

    Parameter names, `kernel` [i, o] and `bias`, and default initialisers are those of flax's `nn.Dense`, which promotes
    its input to the parameters' type instead.
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        y = jnp.dot(x, kernel.astype(x.dtype))
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(x.dtype)
        return y
