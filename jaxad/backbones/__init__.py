"""Networks that return named feature maps, NHWC.

model = create("wide_resnet50_2", taps=("layer2", "layer3"))
variables = from_torch("wide_resnet50_2", state_dict, taps=("layer2", "layer3"))
features = model.apply(variables, images)      # {"layer2": (b, h/8, w/8, 512), "layer3": (b, h/16, w/16, 1024)}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxad.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np

RESNETS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")
EFFICIENTNETS = ("efficientnet_lite0", "efficientnet_b4")
NAMES = RESNETS + EFFICIENTNETS

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TFLITE = ((127 / 255,) * 3, (128 / 255,) * 3)


def create(name: str, taps: Sequence[str], *, num_classes: int = 1000, dtype: Any = "float32") -> nn.Module:
    """The network `name`, computing `taps`: `module.apply(variables, images)` gives a dictionary of them.

    Take the taps by name: `jax.jit` sorts a dictionary's keys. Other fields are set by
    `module.clone(padding_from=380)`. Raises UserError for an unknown network or tap.
    """
    family = _family(name)
    for tap in taps:
        if tap not in family.TAPS:
            raise UserError(
                f"backbone {name} has no tap {tap!r}; it has {', '.join(family.TAPS)}.{did_you_mean(tap, family.TAPS)}"
            )
    if not taps:
        raise UserError(f"backbone {name}: no taps given; it has {', '.join(family.TAPS)}")
    return _module(name)(family.ARCHITECTURES[name], tuple(taps), num_classes, dtype)


def from_torch(
    name: str, state_dict: Mapping[str, np.ndarray], *, taps: Sequence[str] | None = None, prefix: str = ""
) -> dict[str, Any]:
    """The variables {"params", "batch_stats"} of the network `name` from a torchvision or timm state dict.

    EfficientNets may also have the names of the `efficientnet-pytorch` packages. Only what `taps` need is read
    (all by default, the classifier with as many classes as it has); the names in the state dict begin with `prefix`.
    Raises UserError for a missing entry or one of the wrong shape.
    """
    import jax
    import jax.numpy as jnp

    from jaxad.nn.torch_layout import dotted, from_state_dict

    family = _family(name)
    packaged = name in EFFICIENTNETS and f"{prefix}_conv_stem.weight" in state_dict

    def torch_name(path: str) -> str:
        return prefix + (family.package_name(path, family.ARCHITECTURES[name]) if packaged else dotted(path))

    bias = state_dict.get(torch_name("fc" if name in RESNETS else "classifier") + ".bias")
    module = create(name, family.TAPS if taps is None else taps, num_classes=1000 if bias is None else len(bias))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return from_state_dict(shapes, state_dict, torch_name, f"weights of {name}")


def load(name: str, source: str, taps: Sequence[str], *, sha256: str | None = None) -> dict[str, Any]:
    """The variables of the network `name`, as deep as its deepest tap, from any source of `jaxad.weights.resolve`.

    Raises:
      UserError: the file is not found or damaged, or its tensors are not those of the network `name`.
    """
    from jaxad.weights import load_state_dict

    state_dict = load_state_dict(source, sha256=sha256)
    try:
        return from_torch(name, state_dict, taps=taps)
    except UserError as error:
        raise UserError(f"weights {source}: {error}") from None


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The torchvision / timm state dict of a network's variables, or of gradients in their shape."""
    from jaxad.nn.torch_layout import dotted, to_state_dict

    return to_state_dict(variables, dotted)


def normalization(name: str, weights: str = "") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) a channel, for RGB in [0, 1], that the network's published weights expect."""
    _family(name)
    return TFLITE if name == "efficientnet_lite0" else IMAGENET


def channels(name: str) -> dict[str, tuple[int, int]]:
    """(stride, channels) of every spatial tap of the network `name`."""
    family = _family(name)
    return family.channels(family.ARCHITECTURES[name])


def _family(name: str) -> Any:
    if name in RESNETS:
        from jaxad.backbones import resnet

        return resnet
    if name in EFFICIENTNETS:
        from jaxad.backbones import efficientnet

        return efficientnet
    raise UserError(f"unknown backbone {name!r}; known are {', '.join(NAMES)}.{did_you_mean(name, NAMES)}")


def _module(name: str) -> Any:
    family = _family(name)
    return family.ResNet if name in RESNETS else family.EfficientNet
