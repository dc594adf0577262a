"""CLIP's image towers as backbones: patch tokens after any block, as maps, and the class feature."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxad.backbones.clip.names import from_openai
from jaxad.backbones.clip.towers import NORMALIZATION, VisionConfig, VisionTower
from jaxad.errors import UserError
from jaxad.method import Normalization

CLASS_FEATURE = "class_feature"  # normed and projected, (b, embed_dim)
SIZES = ("width", "layers", "heads", "mlp_width", "embed_dim", "patch_size", "image_size")


def _sizes(width: int, layers: int, embed_dim: int, patch_size: int, image_size: int) -> VisionConfig:
    return VisionConfig(
        width=width,
        layers=layers,
        heads=width // 64,
        mlp_width=4 * width,
        embed_dim=embed_dim,
        patch_size=patch_size,
        image_size=image_size,
    )


ARCHITECTURES = {
    "clip_vit_b32": _sizes(768, 12, 512, 32, 224),
    "clip_vit_b16": _sizes(768, 12, 512, 16, 224),
    "clip_vit_l14": _sizes(1024, 24, 768, 14, 224),
    "clip_vit_l14_336": _sizes(1024, 24, 768, 14, 336),
    "clip_vit_nano14": _sizes(64, 4, 32, 14, 70),  # ours, for tests: nobody has trained it
}
SIDE = 32


def taps(architecture: VisionConfig) -> tuple[str, ...]:
    """ "block0" and on: tokens after a block; "class_feature"."""
    return (*(f"block{i}" for i in range(architecture.layers)), CLASS_FEATURE)


def channels(architecture: VisionConfig) -> dict[str, tuple[int, int]]:
    """(stride, channels) of every tap that is a map."""
    return {f"block{i}": (architecture.patch_size, architecture.width) for i in range(architecture.layers)}


def normalization(architecture: VisionConfig) -> Normalization:
    return NORMALIZATION


class VisionMaps(VisionTower):
    """The tower with its taps by name: "blockN" is (b, h / patch, w / patch, width), without the class token.

    All blocks are computed, whatever the taps: the class feature comes after the last one.
    """

    taps: tuple[str, ...] = ()

    def __call__(self, images: Float[Array, "b h w 3"]) -> dict[str, Float[Array, "b ..."]]:  # type: ignore[override]
        blocks = {tap: int(tap.removeprefix("block")) for tap in self.taps if re.fullmatch(r"block\d+", tap)}
        out = super().__call__(images.astype(self.dtype), tuple(blocks.values()))
        rows, columns = (side // self.config.patch_size for side in images.shape[1:3])
        outputs = {CLASS_FEATURE: out["class_feature"]}
        for tap, block in blocks.items():
            tokens = out["tokens"][block][:, 1:]
            outputs[tap] = tokens.reshape(len(tokens), rows, columns, -1)
        return {tap: outputs[tap] for tap in self.taps}


def network(architecture: VisionConfig, taps: tuple[str, ...], num_classes: int, dtype: DTypeLike) -> VisionMaps:
    """The tower; it has no classes."""
    return VisionMaps(architecture, dtype, taps)


def from_torch(
    architecture: VisionConfig, state_dict: Mapping[str, np.ndarray], taps: Sequence[str], prefix: str, source: str
) -> dict[str, Any]:
    """Variables by OpenAI's names; the text tower is left out."""
    own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    try:
        arrays: dict[str, Any] = traverse_util.flatten_dict(from_openai(own)["params"], sep="/")
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    tower, image = VisionTower(architecture), jnp.zeros((1, SIDE, SIDE, 3))
    shapes: Any = jax.eval_shape(tower.init, jax.random.key(0), image)["params"]
    expected: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    for path, leaf in expected.items():
        if path not in arrays:
            raise UserError(
                f"{source}: no entry {path!r} (expected shape {leaf.shape}): are these the weights of another network?"
            )
        if (shape := np.shape(arrays[path])) != leaf.shape:
            raise UserError(
                f"{source}: {path} has shape {shape}, expected {leaf.shape}: are these the weights of another network?"
            )
    return {"params": traverse_util.unflatten_dict({path: arrays[path] for path in expected}, sep="/")}


def load(architecture: VisionConfig, source: str, taps: Sequence[str]) -> dict[str, Any]:
    """Variables from what `jaxad.backbones.clip.weights.load_clip` reads."""
    from jaxad.backbones.clip.weights import load_clip

    clip = load_clip(source, towers=("vision",))
    for name in SIZES:
        expected, actual = getattr(architecture, name), getattr(clip.vision, name)
        if expected != actual:
            raise UserError(
                f"weights {source}: the image tower's {name} is {actual}, expected {expected}: "
                "set config.backbone.name to the network that these weights are of"
            )
    return clip.variables
