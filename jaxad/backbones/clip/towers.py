"""CLIP's two transformers, one for images and one for text, with outputs in one embedding space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. Parameters carry the
names of transformers' Flax tree; the blocks of a tower are stacked on a leading axis, so that 24 of them compile as
fast as one (`from_transformers` and `to_transformers` of `jaxad.backbones.clip.names` stack and unstack them).

    tower = VisionTower(VisionConfig(...))
    out = tower.apply(variables, images, taps=(5, 11))   # {"tokens": {5: (b, 1 + p, width), 11: ...}, "class_feature"}

The stages of a tower can be called by themselves (`tower.apply(variables, images, method="embed")`), for uses that
change what happens inside: windows of tokens, prompts, a second stream of attention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxad.errors import UserError
from jaxad.nn.activations import activation
from jaxad.nn.norm import LayerNorm
from jaxad.nn.resize import resize

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NORMALIZATION = (MEAN, STD)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A stack of pre-norm blocks.

    Attributes:
      width: length of a token.
      layers, heads: number of blocks, and of attention heads in each.
      mlp_width: hidden units of a block's perceptron.
      embed_dim: length of a feature in the space that both towers share.
      activation: quick_gelu (OpenAI's weights were trained with it) or the exact gelu.
      epsilon: added to the variance in the layer norms.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    embed_dim: int
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    epsilon: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TransformerConfig):
    """The image tower.

    Attributes:
      patch_size: side of a patch, in pixels.
      image_size: side of the training images, in pixels; (image_size / patch_size)^2 + 1 positions were learned.
      position_resize: how the learned positions are resized for images of another size, without antialias or aligned
        corners. bicubic: MuSc, AdaCLIP, APRIL-GAN; bilinear: AnomalyCLIP.
    """

    patch_size: int
    image_size: int
    position_resize: Literal["bicubic", "bilinear"] = "bicubic"


@dataclass(frozen=True, kw_only=True)
class TextConfig(TransformerConfig):
    """The text tower.

    Attributes:
      vocabulary: number of token ids.
      context: length of the longest row of tokens.
      end_token: the id whose first occurrence ends a text; None: the largest id in the row, as in OpenAI's code. With
        CLIP's vocabulary both mean the same token.
    """

    vocabulary: int = 49408
    context: int = 77
    end_token: int | None = None


class VisionOutput(TypedDict):
    """The output of the image tower."""

    tokens: dict[int, Float[Array, "b n width"]]  # residual stream by index of the block before, class token first
    class_token: Float[Array, "b width"]  # after the last block
    class_feature: Float[Array, "b embed"]  # normed and projected, not normalised


class TextOutput(TypedDict):
    """The output of the text tower."""

    tokens: dict[int, Float[Array, "b n width"]]  # residual stream by index of the block before
    feature: Float[Array, "b embed"]  # not normalised


class Prompts(NamedTuple):
    """Learned tokens that replace tokens of the stream before certain blocks (AnomalyCLIP, AdaCLIP).

    Attributes:
      tokens: the learned tokens by index of the block.
      start: position of the first token that they replace.
    """

    tokens: Mapping[int, Float[Array, "#b k width"]]
    start: int


class Attention(nn.Module):
    """Multi-head attention."""

    config: TransformerConfig
    dtype: Any = "float32"

    def setup(self):
        def linear() -> nn.Dense:
            return nn.Dense(self.config.width, dtype=self.dtype)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()

    def __call__(self, x: Float[Array, "b n width"], mask: Bool[Array, "n n"] | None) -> Float[Array, "b n width"]:
        return self._attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), mask)

    def values(self, x: Float[Array, "b n width"]) -> Float[Array, "b n width"]:
        """The values attend to each other (v-v): no query, no key, no mask."""
        v = self.v_proj(x)
        return self._attend(v, v, v, None)

    def _attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Float[Array, "b n width"]:
        q, k, v = (x.reshape(*x.shape[:-1], self.config.heads, -1) for x in (q, k, v))
        mixed = jax.nn.dot_product_attention(q, k, v, mask=None if mask is None else mask[None, None])
        return self.out_proj(mixed.reshape(*mixed.shape[:2], -1))


class MLP(nn.Module):
    """Linear, activation, linear."""

    config: TransformerConfig
    dtype: Any = "float32"

    def setup(self):
        self.fc1 = nn.Dense(self.config.mlp_width, dtype=self.dtype)
        self.fc2 = nn.Dense(self.config.width, dtype=self.dtype)

    def __call__(self, x: Float[Array, "b n width"]) -> Float[Array, "b n width"]:
        return self.fc2(activation(self.config.activation)(self.fc1(x)))


class Block(nn.Module):
    """Attention and perceptron, each applied to the normalised stream and added to it."""

    config: TransformerConfig
    dtype: Any = "float32"

    def setup(self):
        self.layer_norm1, self.layer_norm2 = (_norm(self.config, self.dtype) for _ in range(2))
        self.self_attn = Attention(self.config, self.dtype)
        self.mlp = MLP(self.config, self.dtype)

    def __call__(self, x: Float[Array, "b n width"], mask: Bool[Array, "n n"] | None) -> Float[Array, "b n width"]:
        x = x + self.self_attn(self.layer_norm1(x), mask)
        return x + self.mlp(self.layer_norm2(x))

    def values(self, x: Float[Array, "b n width"]) -> Float[Array, "b n width"]:
        """The v-v attention on the block's input `x`, to be added to a second stream."""
        return self.self_attn.values(self.layer_norm1(x))


class Encoder(nn.Module):
    """The stack of blocks."""

    config: TransformerConfig
    dtype: Any = "float32"

    def setup(self):
        self.layers = Block(self.config, self.dtype)

    def __call__(
        self,
        x: Float[Array, "b n width"],
        mask: Bool[Array, "n n"] | None = None,
        taps: Sequence[int] = (),
        prompts: Prompts | None = None,
        values_from: int | None = None,
    ) -> tuple[Float[Array, "b n width"], dict[int, Float[Array, "b n width"]]]:
        """The stream after the last block, and after the blocks `taps` (the first is 0).

        With `values_from` a second stream branches off before that block. From there on each block adds to it the v-v
        attention on the first stream (AnomalyCLIP's DPAM), and the taps are taken from the second stream.

        Raises:
          UserError: `taps`, `prompts` or `values_from` name a block that does not exist.
        """
        blocks = self.config.layers
        for block in (*taps, *(prompts.tokens if prompts else ()), *(() if values_from is None else (values_from,))):
            if not 0 <= block < blocks:
                raise UserError(f"CLIP tower has no block {block}: it has {blocks} blocks, 0 to {blocks - 1}")
        slots = np.full(blocks, len(taps), np.int32)  # the last slot is for blocks without a tap
        slots[list(taps)] = range(len(taps))
        prompted = np.array([prompts is not None and block in prompts.tokens for block in range(blocks)])
        inserted = _by_block(prompts, blocks).astype(x.dtype) if prompts else jnp.zeros(blocks)
        second = None if values_from is None else x

        def step(block: Block, carry, turn):
            stream, second, kept = carry
            index, slot, prompted, inserted = turn
            if prompts:
                places = slice(prompts.start, prompts.start + inserted.shape[1])
                stream = stream.at[:, places].set(jnp.where(prompted, inserted, stream[:, places]))
            entered, stream = stream, block(stream, mask)
            if second is not None:
                second = nn.cond(
                    index >= values_from,
                    lambda block: second + block.values(entered),
                    lambda block: stream,
                    block,
                )
            if taps:
                kept = kept.at[slot].set(stream if second is None else second)
            return (stream, second, kept), None

        kept = jnp.zeros((len(taps) + 1, *x.shape), x.dtype) if taps else None
        stack = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=blocks)
        turns = tuple(jnp.asarray(each) for each in (np.arange(blocks), slots, prompted, inserted))
        (x, _, kept), _ = stack(self.layers, (x, second, kept), turns)
        return x, {} if kept is None else {tap: kept[slot] for slot, tap in enumerate(taps)}


class VisionEmbeddings(nn.Module):
    """Patches, class token, positions."""

    config: VisionConfig
    dtype: Any = "float32"

    def setup(self):
        width, patch = self.config.width, (self.config.patch_size,) * 2
        self.class_embedding = self.param("class_embedding", nn.initializers.normal(0.02), (width,))
        self.patch_embedding = nn.Conv(width, patch, patch, padding="VALID", use_bias=False, dtype=self.dtype)
        self.position_embedding = nn.Embed(self.grid**2 + 1, width)

    @property
    def grid(self) -> int:
        """Number of patches along a side of the training images."""
        return self.config.image_size // self.config.patch_size

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n width"]:
        patches = self.patch_embedding(images)
        classes = jnp.broadcast_to(self.class_embedding.astype(patches.dtype), (len(images), 1, self.config.width))
        tokens = jnp.concatenate([classes, patches.reshape(len(images), -1, self.config.width)], axis=1)
        return tokens + self.positions(patches.shape[1], patches.shape[2]).astype(tokens.dtype)

    def positions(self, rows: int, columns: int) -> Float[Array, "n width"]:
        """The position table of a grid of patches, the class token's row first."""
        table, grid = self.position_embedding.embedding, self.grid
        if (rows, columns) == (grid, grid):
            return table
        learned = table[1:].reshape(1, grid, grid, -1)
        resized = resize(learned, (rows, columns), self.config.position_resize)
        return jnp.concatenate([table[:1], resized.reshape(rows * columns, -1)])


class VisionModel(nn.Module):
    """The image tower without its projection."""

    config: VisionConfig
    dtype: Any = "float32"

    def setup(self):
        self.embeddings = VisionEmbeddings(self.config, self.dtype)
        self.pre_layrnorm = _norm(self.config, self.dtype)  # transformers' spelling
        self.encoder = Encoder(self.config, self.dtype)
        self.post_layernorm = _norm(self.config, self.dtype)


class VisionTower(nn.Module):
    """Images to patch tokens and class features.

    Images are float32, normalised with `NORMALIZATION`, of any size; what does not fill a patch is cut off.
    """

    config: VisionConfig
    dtype: Any = "float32"

    def setup(self):
        self.vision_model = VisionModel(self.config, self.dtype)
        self.visual_projection = nn.Dense(self.config.embed_dim, use_bias=False, dtype=self.dtype)

    def __call__(self, images: Float[Array, "b h w 3"], taps: Sequence[int] = ()) -> VisionOutput:
        """Class features, and the residual stream after the blocks `taps` (the first is 0).

        Raises:
          UserError: `taps` names a block that does not exist.
        """
        return self.encode(self.pre_norm(self.embed(images)), taps)

    def embed(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n width"]:
        """Class token and patches with their positions: the input of `pre_norm`."""
        return self.vision_model.embeddings(images)

    def pre_norm(self, tokens: Float[Array, "b n width"]) -> Float[Array, "b n width"]:
        """The tokens normalised, as the first block takes them."""
        return self.vision_model.pre_layrnorm(tokens)

    def encode(
        self,
        tokens: Float[Array, "b n width"],
        taps: Sequence[int] = (),
        prompts: Prompts | None = None,
        values_from: int | None = None,
    ) -> VisionOutput:
        """As `__call__`, from the output of `pre_norm` or a selection or extension of it, with the class token first.

        `prompts` and `values_from` are as in `Encoder`.
        """
        stream, tapped = self.vision_model.encoder(tokens, None, taps, prompts, values_from)
        return VisionOutput(tokens=tapped, class_token=stream[:, 0], class_feature=self.project(stream[:, 0]))

    def project(self, tokens: Float[Array, "*b width"], norm: bool = True) -> Float[Array, "*b embed"]:
        """Tokens in the space shared with text; CLIP itself projects only the class token, normalised."""
        return self.visual_projection(self.vision_model.post_layernorm(tokens) if norm else tokens)

    def positions(self, rows: int, columns: int) -> Float[Array, "n width"]:
        """As `VisionEmbeddings.positions`."""
        return self.vision_model.embeddings.positions(rows, columns)


class TextEmbeddings(nn.Module):
    """Words and positions."""

    config: TextConfig
    dtype: Any = "float32"

    def setup(self):
        self.token_embedding = nn.Embed(self.config.vocabulary, self.config.width, dtype=self.dtype)
        self.position_embedding = nn.Embed(self.config.context, self.config.width, dtype=self.dtype)


class TextModel(nn.Module):
    """The text tower without its projection."""

    config: TextConfig
    dtype: Any = "float32"

    def setup(self):
        self.embeddings = TextEmbeddings(self.config, self.dtype)
        self.encoder = Encoder(self.config, self.dtype)
        self.final_layer_norm = _norm(self.config, self.dtype)


class TextTower(nn.Module):
    """Token ids to text features.

    A row is: start token, words, end token, anything. What follows the end token has no effect, so rows may be cut
    after the last end token of a batch.
    """

    config: TextConfig
    dtype: Any = "float32"

    def setup(self):
        self.text_model = TextModel(self.config, self.dtype)
        self.text_projection = nn.Dense(self.config.embed_dim, use_bias=False, dtype=self.dtype)

    def __call__(self, ids: Int[Array, "b n"], taps: Sequence[int] = ()) -> TextOutput:
        """Features of the texts, and the residual stream after the blocks `taps` (the first is 0).

        Raises:
          UserError: the rows are longer than the context, or `taps` names a block that does not exist.
        """
        return self.encode(self.embed(ids), end_positions(ids, self.config.end_token), taps)

    def embed(self, ids: Int[Array, "b n"]) -> Float[Array, "b n width"]:
        """The words' embeddings without positions, where learned context can replace words."""
        return self.text_model.embeddings.token_embedding(ids)

    def encode(
        self,
        words: Float[Array, "b n width"],
        ends: Int[Array, " b"],
        taps: Sequence[int] = (),
        prompts: Prompts | None = None,
    ) -> TextOutput:
        """As `__call__`, from embeddings without positions and the places of the end tokens.

        `prompts` is as in `Encoder`.
        """
        length = words.shape[1]
        if length > self.config.context:
            raise UserError(f"a text of {length} tokens; CLIP's text tower takes at most {self.config.context}")
        stream = words + self.text_model.embeddings.position_embedding(jnp.arange(length))
        causal = jnp.tri(length, dtype=bool)
        stream, tapped = self.text_model.encoder(stream, causal, taps, prompts)
        ended = jnp.take_along_axis(stream, ends[:, None, None], axis=1)[:, 0]
        return TextOutput(tokens=tapped, feature=self.text_projection(self.text_model.final_layer_norm(ended)))


def end_positions(ids: Int[Array, "b n"], end_token: int | None = None) -> Int[Array, " b"]:
    """Place of the first `end_token` in each row or, with None, of the first largest id."""
    return jnp.argmax(ids if end_token is None else ids == end_token, axis=-1)


def similarity(
    image: Float[Array, "b embed"], text: Float[Array, "n embed"], logit_scale: Float[Array, ""]
) -> Float[Array, "b n"]:
    """CLIP's logits: cosine similarities times exp(logit_scale)."""
    image, text = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    return jnp.exp(logit_scale) * image @ text.T


def _by_block(prompts: Prompts, blocks: int) -> Float[Array, "blocks b k width"]:
    """The prompts of all blocks as one array for the scan; zeros for a block without one."""
    shape = next(iter(prompts.tokens.values())).shape
    return jnp.stack([prompts.tokens.get(block, jnp.zeros(shape)) for block in range(blocks)])


def _norm(config: TransformerConfig, dtype: Any) -> LayerNorm:
    return LayerNorm(epsilon=config.epsilon, dtype=dtype)
