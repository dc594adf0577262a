"""Anomaly maps of the image's size from scores on a grid of patches, and one score per image."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxad.nn.blur import gaussian_blur
from jaxad.nn.resize import resize


def anomaly_map(
    patch_scores: Float[Array, "b gh gw"],
    size: tuple[int, int],
    sigma: float = 4.0,
    upsample: Literal["bilinear", "nearest"] = "bilinear",
    border: Literal["symmetric", "reflect"] = "symmetric",
) -> Float[Array, "b h w"]:
    """The scores enlarged to `size` (rows, columns) and smoothed by a Gaussian of `sigma` pixels, cut at 4 sigma.

    The defaults are those of the official code of PatchCore and SimpleNet (scipy's `gaussian_filter`); anomalib
    enlarges by "nearest" and has a "reflect" border.
    """
    return gaussian_blur(resize(patch_scores[..., None], size, upsample)[..., 0], sigma, border=border)


def largest(values: Float[Array, "b h w"]) -> Float[Array, " b"]:
    """The largest value of each map."""
    return jnp.max(values, axis=(1, 2))
