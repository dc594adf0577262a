"""UniAD: one transformer that reconstructs the features of the normal images of all categories.

You et al., "A Unified Model for Multi-class Anomaly Detection", NeurIPS 2022. A frozen backbone gives features at
strides 2 to 16, brought to one grid. A transformer reconstructs them; what it cannot reconstruct is anomalous. Three
measures keep it from copying its input: a learned query in every decoder layer, attention masked in each token's
neighbourhood, and noise on the input tokens in training, with the clean tokens as the target.

configs/uniad.py has the settings of ADer's benchmark (as run for MIRAD) and of the official code. Without augmentation
the features never change, so they are computed once per image.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxad.backbones.frozen import FrozenBackbone, frozen_backbone
from jaxad.errors import UserError
from jaxad.method import Batch, LossValue, Method, Normalization, Prediction, Train, Variables
from jaxad.nn.norm import LayerNorm
from jaxad.nn.precision import narrowed, widened
from jaxad.nn.resize import resize
from jaxad.nn.scoring import largest
from jaxad.nn.torch_layout import from_state_dict
from jaxad.nn.transformer import EncoderLayer, LearnedPosition, PostNormLayer, linear, neighbour_mask, sine_position
from jaxad.optimizers import adamw, clip_by_global_norm, matrices, step_decay
from jaxad.settings import Count, Dtype, NonNegative, Positive, Share, Size, Whole, Within, read, setting
from jaxad.trees import inside, merge, under


class DecoderLayer(PostNormLayer):
    """The layer's learned query (section 3.3) attends to the encoder's output, then to that of the layer before."""

    @nn.compact
    def __call__(self, memory: Float[Array, "b t c"], before: Array, position, blocked, train: bool) -> Array:
        init = nn.initializers.normal(1.0)
        query = nn.Embed(*memory.shape[1:], embedding_init=init, name="learned_embed").embedding[None]
        query, position = query.astype(memory.dtype), position.astype(memory.dtype)
        keys = memory + position
        x = self.attend("self_attn", "norm1", query, query + position, keys, memory, blocked, train)
        x = self.attend("multihead_attn", "norm2", x, x + position, before + position, before, blocked, train)
        return self.feed("norm3", x, train)


class Transformer(nn.Module):
    """Feature tokens to (reconstructed tokens, the output of every layer by name), computed in `dtype`."""

    grid: tuple[int, int]
    neighbor_size: tuple[int, int]
    width: int = 256
    heads: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    position: str = "learned"
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b t d"], train: bool = False) -> tuple[Array, dict[str, Array]]:
        blocked = neighbour_mask(self.grid, self.neighbor_size)
        if self.position == "learned":
            position = LearnedPosition(self.grid, self.width, name="pos_embed")()
        else:
            position = sine_position(self.grid, self.width)
        layer = {"heads": self.heads, "feedforward": self.feedforward, "dropout": self.dropout}
        out: dict[str, Any] = {"position": position}
        out["input_proj"] = x = linear(self.width, name="input_proj")(narrowed(tokens, self.dtype))
        for i in range(self.encoder_layers):
            out[f"enc{i}"] = x = EncoderLayer(**layer, name=f"encoder_{i}")(x, position, blocked, train)
        memory = x
        for i in range(self.decoder_layers):
            out[f"dec{i}"] = x = DecoderLayer(**layer, name=f"decoder_{i}")(memory, x, position, blocked, train)
        x = LayerNorm(name="decoder_norm")(x)
        return widened(linear(tokens.shape[-1], name="output_proj")(x)), out


def torch_name(path: str) -> str:
    """The reference's name of the module at `path`."""
    path = path.removeprefix("transformer/").replace("decoder_norm", "transformer/decoder/norm")
    return "net_ad." + re.sub(r"^(en|de)coder_", r"transformer/\1coder/layers/", path).replace("/", ".")


@dataclass(frozen=True)
class UniAD(Method):
    """UniAD's settings.

    Attributes:
      backbone: the frozen network; its taps are concatenated on the grid of the last one.
      input_size: (height, width) of the images.
      neighbor_size: side of the masked neighbourhood, in tokens; None: one token per 32 pixels.
      width, heads, encoder_layers, decoder_layers, feedforward, dropout, position: of the transformer.
      jitter_scale: of the noise on the tokens.
      learning_rate, weight_decay: of AdamW.
      learning_rate_drop: share of the steps after which the learning rate drops to a tenth.
      decay_biases: whether weight decay acts on biases and LayerNorm too.
      clip_norm: global norm at which gradients are clipped.
      dtype: of the transformer's computation.
      epochs, batch_size, drop_last: as in `Train`.
      image_score: largest value of the map averaged over 16x16 pixels, or the map's mean or standard deviation.
    """

    backbone: FrozenBackbone
    input_size: tuple[int, int]
    neighbor_size: Whole | None
    width: Size
    heads: Size
    encoder_layers: Size
    decoder_layers: Size
    feedforward: Size
    dropout: Annotated[float, Within(0, 0.99)]
    position: Literal["learned", "sine"]
    jitter_scale: NonNegative
    learning_rate: NonNegative
    weight_decay: NonNegative
    learning_rate_drop: Share
    decay_biases: bool
    clip_norm: Positive
    dtype: Dtype
    epochs: Count
    batch_size: Count
    drop_last: bool
    image_score: Literal["max", "mean", "std"]

    def __post_init__(self):
        if self.width % self.heads or self.width % 4:
            wanted = f"a multiple of 4 and of config.model.heads, {self.heads}"
            raise UserError(f"config.model.width is {self.width}; expected {wanted}")
        if neighbour_mask(self.grid, self.neighbourhood).all(1).any():
            raise UserError(
                f"config.model.neighbor_size is {self.neighbor_size}: a neighbourhood of {self.neighbourhood} leaves "
                f"some of the {self.grid[0]}x{self.grid[1]} tokens nothing to look at; set it lower, or "
                "config.input.size higher"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        height, width = (-(-side // self.backbone.strides[-1]) for side in self.input_size)
        return height, width

    @property
    def neighbourhood(self) -> tuple[int, int]:
        """Rows and columns of the neighbourhood around itself that a token cannot attend to."""
        if self.neighbor_size is None:
            return self.input_size[0] // 32, self.input_size[1] // 32
        return self.neighbor_size, self.neighbor_size

    @functools.cached_property
    def transformer(self) -> Transformer:
        return Transformer(
            self.grid,
            self.neighbourhood,
            self.width,
            self.heads,
            self.encoder_layers,
            self.decoder_layers,
            self.feedforward,
            self.dropout,
            self.position,
            self.dtype,
        )

    @property
    def normalization(self) -> Normalization:
        return self.backbone.normalization

    def init(self, key: Array) -> Variables:
        backbone, transformer = jax.random.split(key)
        return merge(self.backbone.init(backbone), self.init_transformer(transformer))

    def init_transformer(self, key: Array) -> Variables:
        """The transformer before training."""
        tokens = jnp.zeros((1, math.prod(self.grid), sum(self.backbone.channels)))
        return under("transformer", dict(self.transformer.init(key, tokens)))

    def features(self, variables: Variables, batch: Batch) -> Float[Array, "b h w d"]:
        """All taps, resized to the grid of the last one (corners aligned) and concatenated; they never change."""
        taps = list(self.backbone(variables, batch["image"]).values())
        height, width = taps[-1].shape[1:3]
        return jnp.concatenate([resize(tap, (height, width), align_corners=True) for tap in taps], axis=-1)

    def noise(self, key: Array, shape: Sequence[int]) -> Float[Array, "b t d"]:
        """The directions of the feature jitter: N(0, 1)."""
        return jax.random.normal(jax.random.fold_in(key, 0), shape)

    def jitter(self, tokens: Float[Array, "b t d"], key: Array) -> Float[Array, "b t d"]:
        """Noise in proportion to each token's length (section 3.4)."""
        length = jnp.linalg.norm(tokens, axis=-1, keepdims=True)
        return tokens + self.noise(key, tokens.shape) * (length / tokens.shape[-1]) * self.jitter_scale

    def rebuild(self, variables: Variables, tokens: Float[Array, "b t d"], **how: Any) -> Float[Array, "b t d"]:
        """The reconstructed tokens."""
        rebuilt: Any = self.transformer.apply(inside(variables, "transformer"), tokens, **how)
        return rebuilt[0]

    def loss(self, variables: Variables, batch: Batch, key: Array) -> LossValue:
        """Mean squared error between the clean features and those reconstructed from noisy ones."""
        clean = jax.lax.collapse(batch["features"], 1, 3)
        rngs = {"dropout": jax.random.fold_in(key, 1)} if self.dropout else None
        rebuilt = self.rebuild(variables, self.jitter(clean, key), train=True, rngs=rngs)
        return jnp.mean(jnp.square(rebuilt - clean)), ({}, {})

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        rate, decayed = step_decay(self.learning_rate, self.learning_rate_drop), None if self.decay_biases else matrices
        return optax.chain(
            clip_by_global_norm(self.clip_norm), adamw(rate, steps, weight_decay=self.weight_decay, decayed=decayed)
        )

    def stages(self) -> Sequence[Train]:
        return [
            Train(
                name="transformer",
                loss=self.loss,
                optimizer=self.optimizer,
                trainable=lambda path: path.startswith("transformer/"),
                epochs=self.epochs,
                batch_size=self.batch_size,
                drop_last=self.drop_last,
                features=self.features,
            )
        ]

    def maps(self, variables: Variables, features: Float[Array, "b h w d"], size: tuple[int, int]) -> Array:
        """The distance of each feature from its reconstruction, enlarged to `size`."""
        rebuilt = self.rebuild(variables, jax.lax.collapse(features, 1, 3))
        distance = jnp.linalg.norm(rebuilt.reshape(features.shape) - features, axis=-1)
        return resize(distance[..., None], size, align_corners=True)[..., 0]

    def score(self, maps: Float[Array, "b h w"]) -> Float[Array, " b"]:
        """The image score that `image_score` names."""
        if self.image_score != "max":
            return {"mean": jnp.mean, "std": jnp.std}[self.image_score](maps, axis=(1, 2))
        return largest(nn.avg_pool(nn.avg_pool(maps[..., None], (16, 1)), (1, 16))[..., 0])

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        maps = self.maps(variables, self.features(variables, batch), batch["image"].shape[1:3])
        return Prediction(maps, self.score(maps))

    def transformer_from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        """As `init_transformer`, from a checkpoint of the reference."""
        shapes = jax.eval_shape(self.init_transformer, jax.random.key(0))
        return from_state_dict(shapes, state_dict, torch_name, "weights of UniAD")

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        return merge(self.backbone.from_torch(state_dict, "net_backbone."), self.transformer_from_torch(state_dict))


def create(config: ConfigDict, categories: Sequence[str]) -> UniAD:
    """The UniAD that `config` (see configs/uniad.py) describes.

    Raises:
      UserError: a wrong value, or a neighbourhood that masks every token for some token; the message names the field.
    """
    return read(UniAD, config, backbone=frozen_backbone(config), input_size=setting(config, "input.size"))
