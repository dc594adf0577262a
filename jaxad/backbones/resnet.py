"""ResNet (He et al., CVPR 2016) and Wide ResNet (Zagoruyko & Komodakis, BMVC 2016), as in torchvision and timm."""

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
from jaxad.nn.conv import Conv, kaiming_normal_fan_out
from jaxad.nn.linear import Dense
from jaxad.nn.norm import BatchNorm
from jaxad.nn.torch_layout import dotted, from_state_dict

SIDE = 32
TAPS = ("stem", "maxpool", "layer1", "layer2", "layer3", "layer4", "logits")


@dataclass(frozen=True)
class Architecture:
    """Blocks of each layer, whether they are bottlenecks, and how much wider than usual a bottleneck is inside."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    width: int = 1

    @property
    def expansion(self) -> int:
        return 4 if self.bottleneck else 1


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "wide_resnet50_2": Architecture((3, 4, 6, 3), bottleneck=True, width=2),
}


def taps(architecture: Architecture) -> tuple[str, ...]:
    return TAPS


def normalization(architecture: Architecture) -> Normalization:
    return IMAGENET_NORMALIZATION


def channels(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """(stride, channels) of every tap that is a map."""
    layers = {f"layer{i + 1}": (4 * 2**i, 64 * 2**i * architecture.expansion) for i in range(4)}
    return {"stem": (2, 64), "maxpool": (4, 64), **layers}


class Block(nn.Module):
    """Residual block; a bottleneck has its stride in the 3x3 convolution, as in torchvision."""

    planes: int
    stride: int
    architecture: Architecture

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], train: bool) -> Float[Array, "b h2 w2 o"]:
        features = self.planes * self.architecture.expansion
        if self.architecture.bottleneck:
            inner = self.planes * self.architecture.width
            plan = [(inner, 1, 1), (inner, 3, self.stride), (features, 1, 1)]
        else:
            plan = [(features, 3, self.stride), (features, 3, 1)]

        y = x
        for i, (width, kernel, stride) in enumerate(plan, start=1):
            y = _conv(width, kernel, stride, f"conv{i}")(y)
            y = BatchNorm(name=f"bn{i}")(y, train)
            if i < len(plan):
                y = nn.relu(y)
        if x.shape[-1] != features or self.stride != 1:
            x = _conv(features, 1, self.stride, "downsample_0")(x)
            x = BatchNorm(name="downsample_1")(x, train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Feature maps by name, computed no deeper than the deepest of `taps`.

    Taps: `stem` (stride 2, before the max pool), `maxpool`, `layer1` .. `layer4` (strides 4 .. 32, after the last
    ReLU), `logits`. The input is a normalised RGB image; `train` makes BatchNorm use and update batch statistics.
    """

    architecture: Architecture
    taps: tuple[str, ...]
    num_classes: int = 1000
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], train: bool = False) -> dict[str, Float[Array, "b ..."]]:
        outputs = {}
        steps = TAPS[: max(map(TAPS.index, self.taps)) + 1]
        x = x.astype(self.dtype)
        for step in steps:
            if step == "stem":
                x = _conv(64, 7, 2, "conv1")(x)
                x = nn.relu(BatchNorm(name="bn1")(x, train))
            elif step == "maxpool":
                x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
            elif step == "logits":
                x = Dense(self.num_classes, name="fc")(jnp.mean(x, (1, 2)))
            else:
                layer = int(step.removeprefix("layer")) - 1
                for block in range(self.architecture.blocks[layer]):
                    stride = 2 if layer > 0 and block == 0 else 1
                    x = Block(64 * 2**layer, stride, self.architecture, name=f"{step}_{block}")(x, train)
            outputs[step] = x
        return {tap: outputs[tap] for tap in self.taps}


def _conv(features: int, kernel: int, stride: int, name: str) -> Conv:
    return Conv(features, kernel, stride, kernel // 2, use_bias=False, kernel_init=kaiming_normal_fan_out, name=name)


def network(architecture: Architecture, taps: tuple[str, ...], num_classes: int, dtype: DTypeLike) -> ResNet:
    return ResNet(architecture, taps, num_classes, dtype)


def from_torch(
    architecture: Architecture, state_dict: Mapping[str, np.ndarray], taps: Sequence[str], prefix: str, source: str
) -> dict[str, Any]:
    """Variables from torchvision's and timm's names; the classifier has as many classes as in the state dict."""
    num_classes = len(state_dict.get(f"{prefix}fc.bias", range(1000)))
    module = network(architecture, tuple(taps), num_classes, jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    return from_state_dict(shapes, state_dict, lambda path: prefix + dotted(path), source)
