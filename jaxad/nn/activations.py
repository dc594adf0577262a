"""Activation functions, by the names used in settings."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from jaxad.errors import UserError, did_you_mean


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * Phi(x) with the exact normal distribution function, like `torch.nn.GELU()`."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * sigmoid(1.702 x), the form that OpenAI's CLIP weights were trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation called `name`.

    Raises:
      UserError: unknown name.
    """
    if name not in _ACTIVATIONS:
        raise UserError(
            f"unknown activation {name!r}; known are {', '.join(_ACTIVATIONS)}.{did_you_mean(name, _ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]
