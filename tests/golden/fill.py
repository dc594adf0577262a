"""Weights and inputs as pure functions of a name, a shape and a salt, so that a fixture has to store neither."""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def uniform(name: str, shape: Sequence[int], salt: str) -> np.ndarray:
    """float64 draws in [-1, 1): the top 53 bits of a Philox stream keyed by the checksums of salt and name."""
    key = zlib.crc32(salt.encode()) << 32 | zlib.crc32(name.encode())
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape, dtype=np.int64)))
    return (bits >> np.uint64(11)).astype(np.float64).reshape(tuple(shape)) * 2.0**-52 - 1.0


def fill(name: str, shape: Sequence[int], salt: str) -> np.ndarray:
    """The float32 value (int64 for counters) of the PyTorch state-dict entry `name`, in PyTorch's layout."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(tuple(shape), np.int64)
    draws = uniform(name, shape, salt)
    if name.endswith("running_var"):
        value = 1.0 + 0.25 * (draws + 1.0)
    elif name.endswith("running_mean"):
        value = 0.1 * draws
    elif draws.ndim >= 2:
        value = draws * np.sqrt(3.0 / np.prod(draws.shape[1:]))
    elif name.endswith("weight"):
        value = 1.0 + 0.1 * draws
    else:
        value = 0.1 * draws
    return value.astype(np.float32)


def images(name: str, shape: Sequence[int], salt: str) -> Float[np.ndarray, "n c h w"]:
    """Smooth float32 pictures, about [-2, 2]: a 9x9 field enlarged bilinearly (corners aligned) plus fine noise."""
    n, c, h, w = shape
    field = bilinear(uniform(name, (n, c, 9, 9), salt), h, w)
    return (1.5 * field + 0.5 * uniform(f"{name}/detail", shape, salt)).astype(np.float32)


def bilinear(field: Float[np.ndarray, "... a b"], h: int, w: int) -> Float[np.ndarray, "... h w"]:
    """Bilinear resize with aligned corners; the four products are summed in a fixed order, which fixes every bit."""
    a, b = field.shape[-2:]
    y, x = np.linspace(0, a - 1, h), np.linspace(0, b - 1, w)
    top, left = np.minimum(y.astype(int), a - 2), np.minimum(x.astype(int), b - 2)
    down, right = (y - top)[:, None], (x - left)[None, :]

    def corner(dy: int, dx: int) -> np.ndarray:
        return field[..., (top + dy)[:, None], (left + dx)[None, :]]

    return (
        corner(0, 0) * (1 - down) * (1 - right)
        + corner(1, 0) * down * (1 - right)
        + corner(0, 1) * (1 - down) * right
        + corner(1, 1) * down * right
    )
