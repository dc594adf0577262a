"""Networks that return named feature maps, NHWC, with the published weights of each.

    model = create("wide_resnet50_2", taps=("layer2", "layer3"))
    variables = load("wide_resnet50_2", "timm/wide_resnet50_2.tv_in1k", taps=("layer2", "layer3"))
    features = model.apply(variables, images)   # {"layer2": (b, h/8, w/8, 512), "layer3": (b, h/16, w/16, 1024)}

A family of networks is a module of this package, named in `FAMILIES`. It offers:

 - `ARCHITECTURES`: name in `config.backbone.name` -> architecture, a frozen dataclass;
 - `SIDE`: height and width, in pixels, of the smallest image that a network can be initialised with;
 - `taps(architecture)`: names of everything that a network can return, shallow to deep;
 - `channels(architecture)`: (stride, channels) of each tap that is a map (b, h, w, c);
 - `normalization(architecture)`: (mean, standard deviation) per channel, for RGB in [0, 1], that the weights expect;
 - `network(architecture, taps, num_classes, dtype)`: the Flax module, images (b, h, w, 3) -> a dict of the taps,
   computed no deeper than the deepest of them where that is possible;
 - `from_torch(architecture, state_dict, taps, prefix, source)`: variables from a state dict with the weights' own
   names; errors begin with `source`;
 - optionally `load(architecture, source, taps)`, where the weights are more than one file.

Methods see a network through `jaxad.backbones.frozen.FrozenBackbone`, whatever its family.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxad.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np

FAMILIES = ("resnet", "efficientnet", "clip.vision")


@functools.cache
def _families() -> dict[str, Any]:
    """The module of every network, by the network's name."""
    modules = [importlib.import_module(f"jaxad.backbones.{name}") for name in FAMILIES]
    return {name: module for module in modules for name in module.ARCHITECTURES}


def names() -> tuple[str, ...]:
    """The names of all networks."""
    return tuple(_families())


def family(name: str) -> Any:
    """The module that has the network `name`.

    Raises:
      UserError: there is no such network.
    """
    if name not in names():
        raise UserError(f"unknown backbone {name!r}; known are {', '.join(names())}.{did_you_mean(name, names())}")
    return _families()[name]


def architecture(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """The architecture of the network `name`, with some of its fields replaced."""
    return dataclasses.replace(family(name).ARCHITECTURES[name], **(options or {}))


def create(
    name: str,
    taps: Sequence[str],
    *,
    num_classes: int = 1000,
    dtype: Any = "float32",
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network `name`, computing `taps`: `module.apply(variables, images)` gives a dict of them.

    Take the taps by name: `jax.jit` sorts a dict's keys.

    Args:
      options: fields of the architecture to replace ("activation" of CLIP).

    Raises:
      UserError: an unknown network or tap.
    """
    own, form = family(name), architecture(name, options)
    _check_taps(name, own.taps(form), taps)
    return own.network(form, tuple(taps), num_classes, dtype)


def _check_taps(name: str, known: Sequence[str], taps: Sequence[str]) -> None:
    for tap in taps:
        if tap not in known:
            near = did_you_mean(tap, known)
            raise UserError(f"backbone {name} has no tap {tap!r}; it has {', '.join(known)}.{near}")
    if not taps:
        raise UserError(f"backbone {name}: no taps given; it has {', '.join(known)}")


def init(name: str, taps: Sequence[str], key: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The variables of the network `name` before any training."""
    import jax
    import jax.numpy as jnp

    side = family(name).SIDE
    return jax.jit(create(name, taps, options=options).init)(key, jnp.zeros((1, side, side, 3)))


def from_torch(
    name: str,
    state_dict: Mapping[str, np.ndarray],
    *,
    taps: Sequence[str] | None = None,
    prefix: str = "",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The variables of the network `name` from a state dict with the names of its published weights.

    Only what `taps` need is read (all taps by default); the names in the state dict begin with `prefix`.

    Raises:
      UserError: an entry is missing or of the wrong shape.
    """
    form = architecture(name, options)
    known = family(name).taps(form)
    chosen = known if taps is None else taps
    _check_taps(name, known, chosen)
    return family(name).from_torch(form, state_dict, tuple(chosen), prefix, f"weights of {name}")


def load(name: str, source: str, taps: Sequence[str], *, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The variables of the network `name`, as deep as its deepest tap, from any source of `jaxad.weights.resolve`.

    Raises:
      UserError: the file is not found or damaged, or its tensors are not those of the network `name`.
    """
    from jaxad.weights import load_state_dict

    own = getattr(family(name), "load", None)
    if own is not None:
        return own(architecture(name, options), source, tuple(taps))
    state_dict = load_state_dict(source)
    try:
        return from_torch(name, state_dict, taps=taps, options=options)
    except UserError as error:
        raise UserError(f"weights {source}: {error}") from None


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The torchvision or timm state dict of a network's variables, or of gradients in their shape."""
    from jaxad.nn.torch_layout import dotted, to_state_dict

    return to_state_dict(variables, dotted)


def normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) per channel, for RGB in [0, 1], that the network's published weights expect."""
    return family(name).normalization(architecture(name))


def taps(name: str) -> tuple[str, ...]:
    """The names of everything that the network `name` can return, shallow to deep."""
    return tuple(family(name).taps(architecture(name)))


def channels(name: str) -> dict[str, tuple[int, int]]:
    """(stride, channels) of every tap of the network `name` that is a map."""
    return family(name).channels(architecture(name))
