"""Gradient clipping equal to `torch.nn.utils.clip_grad_norm_`."""

import jax
import jax.numpy as jnp
import optax


def clip_by_global_norm(max_norm: float | None) -> optax.GradientTransformation:
    """Scales gradients whose norm, of all together, is above `max_norm`; None: leaves them.

    PyTorch adds 1e-6 to the norm, which optax does not: after a few steps of a deep network that shows.
    """
    if max_norm is None:
        return optax.identity()

    def clip(gradients, _):
        scale = jnp.minimum(1.0, max_norm / (optax.global_norm(gradients) + 1e-6))
        return jax.tree.map(lambda gradient: gradient * scale, gradients)

    return optax.stateless(clip)
