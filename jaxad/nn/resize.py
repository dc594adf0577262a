"""Image resizing equal to `torch.nn.functional.interpolate`: one small interpolation matrix per axis."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxad.errors import UserError, did_you_mean

METHODS = ("nearest", "bilinear", "bicubic")


def resize(
    x: Float[Array, "b h w c"],
    size: tuple[int, int],
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
) -> Float[Array, "b h2 w2 c"]:
    """The images resized to `size` (rows, columns).

    Bicubic interpolation has a = -0.75 and repeats the edge pixels as in PyTorch; with antialias a = -0.5, as in PIL.

    Raises:
      UserError: `method` is none of `METHODS`.
    """
    if x.shape[1:3] == tuple(size):
        return x
    rows, columns = (
        interpolation_matrix(old, new, method, align_corners, antialias).astype(np.dtype(x.dtype))
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return jnp.einsum("oh,bhwc,pw->bopc", rows, x, columns, precision=lax.Precision.HIGHEST)


@functools.lru_cache(maxsize=256)
def interpolation_matrix(
    old: int, new: int, method: str = "bilinear", align_corners: bool = False, antialias: bool = False
) -> Float[np.ndarray, "new old"]:
    """The float64 matrix that maps `old` samples to `new` ones along one axis; its rows sum to 1.

    Raises:
      UserError: `method` is none of `METHODS`.
    """
    if method not in METHODS:
        raise UserError(
            f"unknown resize method {method!r}; known are {', '.join(METHODS)}.{did_you_mean(method, METHODS)}"
        )
    if method == "nearest":
        # PyTorch computes the position in float32, which matters where old / new is not exact.
        position = np.arange(new, dtype=np.float32) * np.float32(old / new)
        return _scatter(np.minimum(position.astype(int), old - 1)[:, None], np.ones((new, 1)), old)
    if align_corners:
        step = (old - 1) / (new - 1) if new > 1 else 0.0
        centre = np.arange(new) * step
    else:
        step = old / new
        centre = (np.arange(new) + 0.5) * step - 0.5
    if antialias:
        if align_corners:
            raise ValueError("antialias with align_corners is not defined")
        return _antialiased(centre, step, old, method)
    if method == "bilinear":
        centre = np.maximum(centre, 0.0)
        offsets, kernel = (0, 1), lambda t: np.maximum(1 - np.abs(t), 0)
    else:
        offsets, kernel = (-1, 0, 1, 2), lambda t: _cubic(t, -0.75)
    index = np.floor(centre).astype(int)[:, None] + np.array(offsets)
    return _scatter(np.clip(index, 0, old - 1), kernel(index - centre[:, None]), old)


def _antialiased(centre: np.ndarray, step: float, old: int, method: str) -> np.ndarray:
    """As in PIL: the kernel is stretched by the step when shrinking, cut at the border and renormalised."""
    stretch, reach = max(step, 1.0), 1 if method == "bilinear" else 2
    distance = np.arange(old) - centre[:, None]
    first = np.maximum((centre + 0.5 - reach * stretch + 0.5).astype(int), 0)[:, None]
    last = np.minimum((centre + 0.5 + reach * stretch + 0.5).astype(int), old)[:, None]
    scaled = distance / stretch
    weight = np.maximum(1 - np.abs(scaled), 0) if method == "bilinear" else _cubic(scaled, -0.5)
    weight = np.where((np.arange(old) >= first) & (np.arange(old) < last), weight, 0.0)
    return weight / weight.sum(1, keepdims=True)


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((t - 5) * t + 8) * t * a - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _scatter(index: np.ndarray, weight: np.ndarray, old: int) -> np.ndarray:
    matrix = np.zeros((len(index), old))
    np.add.at(matrix, (np.arange(len(index))[:, None], index), weight)
    return matrix
