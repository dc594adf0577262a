"""The named steps that turn filled arrays into a fixture's special inputs and weights: `op(value, at, *arguments)`.

Scalars stay Python numbers, so that a float32 value stays float32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.golden.fill import bilinear, fill, uniform


@dataclass(frozen=True)
class At:
    """Where a value is made: its name and shape, the fixture's salt and stored arrays, and its other inputs by key."""

    name: str
    shape: tuple[int, ...]
    salt: str
    arrays: dict[str, np.ndarray]
    input: Callable[[str], np.ndarray]


def hartley(value, at: At, cut: str):
    """An orthogonal (n, n) matrix: rows of the discrete Hartley transform in drawn order, with drawn signs."""
    name, n = at.name.removesuffix(cut), at.shape[0]
    rows = np.argsort(uniform(f"{name}/order", (n,), at.salt), kind="stable")
    signs = np.where(uniform(f"{name}/sign", (n,), at.salt) < 0, -1.0, 1.0)
    angle = 2.0 * np.pi * (np.outer(rows, np.arange(n)) % n) / n
    return signs[:, None] * (np.cos(angle) + np.sin(angle)) / np.sqrt(n)


def zero(value, at: At, places):
    """0 at each place: an index of the first axis, or a list of indices of the first axes."""
    value = np.array(value)
    for place in places:
        value[tuple(place) if isinstance(place, list) else place] = 0
    return value


def along(value, at: At, axis: int, start: int | None, stop: int | None):
    """A slice of one axis."""
    return np.take(value, range(value.shape[axis])[start:stop], axis)


def stored(value, at: At, key: str):
    """An array of the file; `{size}` in its key is the number of elements."""
    return at.arrays[key.format(size=int(np.prod(at.shape)))]


OPS: dict[str, Callable] = {
    "uniform": lambda value, at: uniform(at.name, at.shape, at.salt),
    "constant": lambda value, at, number: np.broadcast_to(np.array(number), at.shape),
    "stored": stored,
    "rows": lambda value, at, key, shape, rows: fill(key, shape, at.salt)[rows],
    "hartley": hartley,
    "add": lambda value, at, number: value + number,
    "mul": lambda value, at, number: value * number,
    "div": lambda value, at, number: value / number,
    "gt": lambda value, at, number: value > number,
    "clip": lambda value, at, low, high: np.clip(value, low, high),
    "floor": lambda value, at: np.floor(value),
    "round": lambda value, at: np.round(value),
    "exp": lambda value, at: np.exp(value),
    "cast": lambda value, at, dtype: value.astype(dtype),
    "mul_sqrt_fan_in": lambda value, at: value * float(np.sqrt(np.prod(at.shape[1:]))),
    "mul_sqrt_over_dim": lambda value, at, number, axis: value * float(np.sqrt(number / at.shape[axis])),
    "add_log_arange": lambda value, at: value + np.log(np.arange(1, value.shape[-1] + 1)),
    "l2_normalise": lambda value, at: value / np.linalg.norm(value, axis=-1, keepdims=True),
    "argsort": lambda value, at: np.argsort(value, kind="stable"),
    "take": lambda value, at, rows, axis: np.take(value, rows, axis),
    "slice": along,
    "transpose": lambda value, at, axes: np.transpose(value, axes),
    "zero": zero,
    "keep": lambda value, at, places: value - zero(value, at, places),
    "bilinear": lambda value, at, h, w: bilinear(value, h, w),
    "add_input": lambda value, at, other: value + at.input(other),
    "mul_input": lambda value, at, other: value * at.input(other),
    "where_input": lambda value, at, mask, other: np.where(at.input(mask) != 0, value, at.input(other)),
}
