"""Gaussian smoothing of anomaly maps, as one small matrix product per axis."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def gaussian_blur(
    maps: Float[Array, "b h w"],
    sigma: float,
    truncate: float = 4.0,
    radius: int | None = None,
    border: str = "symmetric",
) -> Float[Array, "b h w"]:
    """The maps smoothed with a normalised Gaussian.

    Args:
      maps: any number of maps.
      sigma: standard deviation in pixels.
      truncate, radius: the Gaussian is cut at `radius` pixels or, without one, at int(truncate * sigma + 0.5).
      border: "symmetric" repeats the edge pixel (scipy calls this "reflect"), "reflect" does not (kornia, PyTorch).
    """
    reach = int(truncate * sigma + 0.5) if radius is None else radius
    rows, columns = (_blur_matrix(n, sigma, reach, border).astype(np.dtype(maps.dtype)) for n in maps.shape[1:])
    return jnp.einsum("oh,bhw,pw->bop", rows, maps, columns, precision=lax.Precision.HIGHEST)


@functools.lru_cache(maxsize=64)
def _blur_matrix(size: int, sigma: float, radius: int, border: str) -> Float[np.ndarray, "size size"]:
    taps = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 * (taps / sigma) ** 2)
    source = np.pad(np.arange(size), radius, mode=border)  # type: ignore[call-overload]
    matrix = np.zeros((size, size))
    for offset, share in enumerate(weight / weight.sum()):
        np.add.at(matrix, (np.arange(size), source[offset : offset + size]), share)
    return matrix
