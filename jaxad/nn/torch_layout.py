"""Conversion between Flax variables and PyTorch state dicts, by name."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.errors import UserError, did_you_mean


class _Layout(NamedTuple):
    """How PyTorch holds a leaf.

    Attributes:
      suffix: last part of its name.
      axes: for each of PyTorch's axes, the axis of the Flax leaf.
      flipped: whether kh and kw run backwards.
    """

    suffix: str
    axes: tuple[int, ...]
    flipped: bool = False

    def to_torch(self, leaf: np.ndarray) -> np.ndarray:
        value = leaf.transpose(self.axes)
        return value[:, :, ::-1, ::-1] if self.flipped else value

    def to_flax(self, value: np.ndarray) -> np.ndarray:
        value = value[:, :, ::-1, ::-1] if self.flipped else value
        return value.transpose(np.argsort(self.axes))


# By leaf name and number of axes: the kernels of `Conv`, `ConvTranspose` and `Dense`, the leaves of `BatchNorm` and
# `LayerNorm`, the tables of `nn.Embed`, and the three projections that `MultiheadAttention` packs into one.
_LAYOUTS = {
    ("kernel", 4): _Layout("weight", (3, 2, 0, 1)),
    ("transposed_kernel", 4): _Layout("weight", (2, 3, 0, 1), flipped=True),
    ("kernel", 2): _Layout("weight", (1, 0)),
    ("scale", 1): _Layout("weight", (0,)),
    ("bias", 1): _Layout("bias", (0,)),
    ("mean", 1): _Layout("running_mean", (0,)),
    ("var", 1): _Layout("running_var", (0,)),
    ("embedding", 2): _Layout("weight", (0, 1)),
    ("in_proj_kernel", 2): _Layout("in_proj_weight", (1, 0)),
    ("in_proj_bias", 1): _Layout("in_proj_bias", (0,)),
}


def from_state_dict(
    shapes: Any, state_dict: Mapping[str, np.ndarray], torch_name: Callable[[str], str], source: str = "state dict"
) -> dict[str, Any]:
    """Variables filled from a state dict; entries that no variable asks for are ignored.

    Args:
      shapes: the tree of variables, as from `jax.eval_shape(module.init, ...)`.
      state_dict: arrays under PyTorch's names and in its layouts.
      torch_name: maps a module's path ("layer1_0/conv1") to its PyTorch name ("layer1.0.conv1").
      source: name of the state dict in errors.

    Raises:
      UserError: an entry is missing or has the wrong shape.
    """

    def fill(path, leaf):
        key, layout = _key(path, leaf, torch_name)
        expected = tuple(leaf.shape[axis] for axis in layout.axes)
        if key not in state_dict:
            raise UserError(
                f"{source}: no entry {key!r} (expected shape {expected}): are these the weights of another network?"
                f"{did_you_mean(key, state_dict)}"
            )
        value = np.asarray(state_dict[key])
        if value.shape != expected:
            raise UserError(
                f"{source}: {key!r} has shape {value.shape}, expected {expected}: "
                "are these the weights of another network?"
            )
        return jnp.asarray(layout.to_flax(value), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def to_state_dict(variables: Any, torch_name: Callable[[str], str]) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`; it also names trees shaped like the parameters, such as gradients."""
    state_dict = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        key, layout = _key(path, leaf, torch_name)
        state_dict[key] = layout.to_torch(np.asarray(leaf))
    return state_dict


def dotted(path: str) -> str:
    """PyTorch's name of the module at `path`: "layer1.0.conv1" for "layer1_0/conv1"."""
    return re.sub(r"_(?=\d)", ".", path.replace("/", "."))


def _key(path, leaf, torch_name: Callable[[str], str]) -> tuple[str, _Layout]:
    _, *modules, kind = (part.key for part in path)
    layout = _LAYOUTS[kind, len(leaf.shape)]
    name = torch_name("/".join(modules))
    return (f"{name}.{layout.suffix}" if name else layout.suffix), layout
