"""Where a trained network's computation narrows and widens again.

Parameters are float32. A network casts its input to `config.dtype` where it begins, its modules compute in the type of
what they are given, and its output is cast back where it ends; losses and scores are float32.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxad.settings import Dtype


def narrowed(x: Float[Array, "*n"], dtype: Dtype) -> Float[Array, "*n"]:
    """`x` in bfloat16 where that is asked for, else as it is (float64 in tests stays)."""
    return x.astype(jnp.bfloat16) if dtype == "bfloat16" else x


def widened(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`x` in float32 or, where it is wider, in its own type."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
