"""The ResNet decoder of reverse distillation (Deng & Li, CVPR 2022, section 3.2): a ResNet in reverse."""

import functools

import flax.linen as nn
from jaxtyping import Array, Float

from jaxad.backbones.resnet import Architecture
from jaxad.nn.conv import Conv, ConvTranspose, kaiming_normal_fan_out
from jaxad.nn.norm import BatchNorm


class MirroredBlock(nn.Module):
    """Residual block; where a ResNet halves the map, a 2x2 transposed convolution doubles it.

    `signed` leaves out the last activation.
    """

    planes: int
    double: bool
    signed: bool
    architecture: Architecture

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], train: bool) -> Float[Array, "b h2 w2 o"]:
        features = self.planes * self.architecture.expansion

        def doubled(width: int, name: str) -> ConvTranspose:
            return ConvTranspose(width, 2, stride=2, use_bias=False, name=name)

        spatial = doubled if self.double else functools.partial(_conv, kernel=3)
        if self.architecture.bottleneck:
            inner = self.planes * self.architecture.width
            layers = [_conv(inner, "conv1", 1), spatial(inner, name="conv2"), _conv(features, "conv3", 1)]
        else:
            layers = [spatial(features, name="conv1"), _conv(features, "conv2", 3)]
        y = x
        for i, layer in enumerate(layers, start=1):
            y = BatchNorm(name=f"bn{i}")(layer(y), train)
            if i < len(layers):
                y = nn.relu(y)
        if self.double:
            x = BatchNorm(name="upsample_1")(doubled(features, "upsample_0")(x), train)
        return x + y if self.signed else nn.relu(x + y)


class MirroredResNet(nn.Module):
    """Maps of strides 4, 8, 16 from one of stride 32: the first three layers of `architecture`, last first.

    Attributes:
      channels: of the three maps, finest first.
      signed: whether the maps may hold negative values, as those of EfficientNets do.
    """

    channels: tuple[int, ...]
    architecture: Architecture
    signed: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Float[Array, "b _ _ _"]]:
        maps = []
        for layer, features in enumerate(reversed(self.channels)):
            planes, blocks = features // self.architecture.expansion, self.architecture.blocks[layer]
            for block in range(blocks):
                signed, name = self.signed and block == blocks - 1, f"layer{layer + 1}_{block}"
                x = MirroredBlock(planes, block == 0, signed, self.architecture, name=name)(x, train)
            maps.append(x)
        return maps[::-1]


def _conv(features: int, name: str, kernel: int) -> Conv:
    return Conv(features, kernel, padding=kernel // 2, use_bias=False, kernel_init=kaiming_normal_fan_out, name=name)
