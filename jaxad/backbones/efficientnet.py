"""EfficientNet (Tan & Le, ICML 2019) and EfficientNet-Lite, as timm's `tf_` models build them (TensorFlow padding)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxad.method import IMAGENET_NORMALIZATION, Normalization
from jaxad.nn.activations import activation
from jaxad.nn.conv import Conv, kaiming_normal_fan_out, same_padding
from jaxad.nn.linear import Dense
from jaxad.nn.norm import BatchNorm
from jaxad.nn.torch_layout import dotted, from_state_dict

SIDE = 32
TFLITE_NORMALIZATION = ((127 / 255,) * 3, (128 / 255,) * 3)
TAPS = ("stem", *(f"stage{i}" for i in range(7)), "head", "logits")
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)


@dataclass(frozen=True)
class Architecture:
    """Widths of stem, stages and head, blocks of each stage, and what distinguishes Lite from the full network."""

    stem: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    head: int
    activation: str
    squeeze_excite: bool


ARCHITECTURES = {
    "efficientnet_lite0": Architecture(
        stem=32,
        widths=(16, 24, 40, 80, 112, 192, 320),
        blocks=(1, 2, 2, 3, 3, 4, 1),
        head=1280,
        activation="relu6",
        squeeze_excite=False,
    ),
    "efficientnet_b4": Architecture(
        stem=48,
        widths=(24, 32, 56, 112, 160, 272, 448),
        blocks=(2, 4, 4, 6, 6, 8, 2),
        head=1792,
        activation="silu",
        squeeze_excite=True,
    ),
}


def taps(architecture: Architecture) -> tuple[str, ...]:
    return TAPS


def normalization(architecture: Architecture) -> Normalization:
    return IMAGENET_NORMALIZATION if architecture.squeeze_excite else TFLITE_NORMALIZATION


def channels(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """(stride, channels) of every tap that is a map."""
    maps, stride = {"stem": (2, architecture.stem)}, 2
    for stage, width in enumerate(architecture.widths):
        stride *= STRIDES[stage]
        maps[f"stage{stage}"] = (stride, width)
    return {**maps, "head": (stride, architecture.head)}


class SqueezeExcite(nn.Module):
    """Channel gates from the map's mean (Hu et al., CVPR 2018)."""

    reduced: int
    activation: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        gate = Conv(self.reduced, 1, name="conv_reduce")(jnp.mean(x, (1, 2), keepdims=True))
        gate = Conv(x.shape[-1], 1, name="conv_expand")(activation(self.activation)(gate))
        return x * nn.sigmoid(gate)


class MBConv(nn.Module):
    """Inverted residual block: expand (not in stage 0), depthwise, squeeze-excite, project; linear at the end."""

    features: int
    kernel: int
    stride: int
    expansion: int
    architecture: Architecture
    momentum: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], size: tuple[int, int], train: bool) -> Float[Array, "b h2 w2 o"]:
        act = activation(self.architecture.activation)
        norms = iter(("bn1", "bn2", "bn3"))
        width = x.shape[-1] * self.expansion

        def norm(y: Array) -> Array:
            return BatchNorm(1e-3, self.momentum, name=next(norms))(y, train)

        y = x
        if self.expansion > 1:
            y = act(norm(_conv(width, 1, name="conv_pw")(y)))
        y = act(norm(_conv(width, self.kernel, self.stride, size, groups=width, name="conv_dw")(y)))
        if self.architecture.squeeze_excite:
            y = SqueezeExcite(x.shape[-1] // 4, self.architecture.activation, name="se")(y)
        y = norm(_conv(self.features, 1, name="conv_pwl" if self.expansion > 1 else "conv_pw")(y))
        return x + y if x.shape == y.shape else y


class EfficientNet(nn.Module):
    """Feature maps by name, computed no deeper than the deepest of `taps`.

    Taps: `stem` (stride 2), `stage0` .. `stage6` (linear outputs of the stages), `head` (after its activation),
    `logits`. `padding_from` fixes the 'SAME' padding to that of a square image of this size, as the original PyTorch
    package does (380 for B4); by default it follows the image. `momentum` is as in PyTorch; its default is timm's.
    """

    architecture: Architecture
    taps: tuple[str, ...]
    num_classes: int = 1000
    dtype: DTypeLike = jnp.float32
    padding_from: int | None = None
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], train: bool = False) -> dict[str, Float[Array, "b ..."]]:
        net = self.architecture
        act = activation(net.activation)
        outputs = {}
        size = (x.shape[1], x.shape[2]) if self.padding_from is None else (self.padding_from, self.padding_from)
        x = x.astype(self.dtype)
        for step in TAPS[: max(map(TAPS.index, self.taps)) + 1]:
            if step == "stem":
                x = _conv(net.stem, 3, 2, size, name="conv_stem")(x)
                x = act(BatchNorm(1e-3, self.momentum, name="bn1")(x, train))
                size = _halved(size)
            elif step == "head":
                x = _conv(net.head, 1, name="conv_head")(x)
                x = act(BatchNorm(1e-3, self.momentum, name="bn2")(x, train))
            elif step == "logits":
                x = Dense(self.num_classes, name="classifier")(jnp.mean(x, (1, 2)))
            else:
                stage = int(step.removeprefix("stage"))
                for i in range(net.blocks[stage]):
                    stride = STRIDES[stage] if i == 0 else 1
                    block = MBConv(
                        net.widths[stage],
                        KERNELS[stage],
                        stride,
                        expansion=1 if stage == 0 else 6,
                        architecture=net,
                        momentum=self.momentum,
                        name=f"blocks_{stage}_{i}",
                    )
                    x = block(x, size, train)
                    size = _halved(size) if stride == 2 else size
            outputs[step] = x
        return {tap: outputs[tap] for tap in self.taps}


def _conv(features: int, kernel: int, stride: int = 1, size=(1, 1), groups: int = 1, *, name: str) -> Conv:
    rows, columns = (same_padding(n, kernel, stride) for n in size) if kernel > 1 else ((0, 0), (0, 0))
    return Conv(
        features,
        kernel,
        stride,
        (rows, columns),
        groups=groups,
        use_bias=False,
        kernel_init=kaiming_normal_fan_out,
        name=name,
    )


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


def package_name(path: str, architecture: Architecture) -> str:
    """The name that the `efficientnet-pytorch` packages give to the module at `path` ("blocks_1_0/conv_pw")."""
    block, _, layer = path.partition("/")
    if not layer:
        ends = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
        return ends[block]
    stage, index = map(int, block.split("_")[1:])
    names = {"conv_dw": "_depthwise_conv", "se/conv_reduce": "_se_reduce", "se/conv_expand": "_se_expand"}
    if stage == 0:
        names |= {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    else:
        names |= {"conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    return f"_blocks.{sum(architecture.blocks[:stage]) + index}.{names[layer]}"


def network(architecture: Architecture, taps: tuple[str, ...], num_classes: int, dtype: DTypeLike) -> EfficientNet:
    return EfficientNet(architecture, taps, num_classes, dtype)


def from_torch(
    architecture: Architecture, state_dict: Mapping[str, np.ndarray], taps: Sequence[str], prefix: str, source: str
) -> dict[str, Any]:
    """Variables from timm's names, or from those of the `efficientnet-pytorch` packages.

    The classifier has as many classes as in the state dict.
    """
    packaged = f"{prefix}_conv_stem.weight" in state_dict

    def torch_name(path: str) -> str:
        return prefix + (package_name(path, architecture) if packaged else dotted(path))

    num_classes = len(state_dict.get(f"{torch_name('classifier')}.bias", range(1000)))
    module = network(architecture, tuple(taps), num_classes, jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    return from_state_dict(shapes, state_dict, torch_name, source)
