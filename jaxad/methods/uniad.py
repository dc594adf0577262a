"""UniAD: one transformer that reconstructs the features of the normal images of all categories.

You et al., "A Unified Model for Multi-class Anomaly Detection", NeurIPS 2022. A frozen backbone gives features at
strides 2 to 16, brought to one grid. A transformer reconstructs them; what it cannot reconstruct is anomalous. Three
devices keep it from passing everything through: a learned query in every decoder layer, attention that is blind to a
token's neighbourhood, and noise on the input tokens in training, whose target stays clean.

The defaults are those of ADer's benchmark (what MIRAD ran); the official code's other settings are in
configs/uniad_official.py. Without augmentation the features never change, so they are computed once.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxad import backbones
from jaxad.backbones.frozen import FrozenBackbone, frozen_backbone, merged
from jaxad.errors import UserError
from jaxad.method import Batch, Method, Normalization, Prediction, Train, Variables
from jaxad.nn.norm import LayerNorm
from jaxad.nn.resize import resize
from jaxad.nn.scoring import largest
from jaxad.nn.torch_layout import from_state_dict
from jaxad.nn.transformer import EncoderLayer, LearnedPosition, PostNormLayer, linear, neighbour_mask, sine_position
from jaxad.settings import choice, number, setting


class DecoderLayer(PostNormLayer):
    """The layer's own query (section 3.3) looks at the encoder's output, then at the layer before."""

    @nn.compact
    def __call__(self, memory: Float[Array, "b t c"], before: Array, position, blocked, train: bool) -> Array:
        init = nn.initializers.normal(1.0)
        query = nn.Embed(*memory.shape[1:], embedding_init=init, name="learned_embed").embedding[None]
        keys = memory + position
        x = self.attend("self_attn", "norm1", query, query + position, keys, memory, blocked, train)
        x = self.attend("multihead_attn", "norm2", x, x + position, before + position, before, blocked, train)
        return self.feed("norm3", x, train)


class Transformer(nn.Module):
    """Feature tokens to reconstructed ones, and every layer's output by name."""

    grid: tuple[int, int]
    neighbor_size: tuple[int, int]
    width: int = 256
    heads: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    position: str = "learned"

    @nn.compact
    def __call__(self, tokens: Float[Array, "b t d"], train: bool = False) -> tuple[Array, dict[str, Array]]:
        blocked = neighbour_mask(self.grid, self.neighbor_size)
        if self.position == "learned":
            position = LearnedPosition(self.grid, self.width, name="pos_embed")()
        else:
            position = sine_position(self.grid, self.width)
        layer = {"heads": self.heads, "feedforward": self.feedforward, "dropout": self.dropout}
        out: dict[str, Any] = {"position": position}
        out["input_proj"] = x = linear(self.width, name="input_proj")(tokens)
        for i in range(self.encoder_layers):
            out[f"enc{i}"] = x = EncoderLayer(**layer, name=f"encoder_{i}")(x, position, blocked, train)
        memory = x
        for i in range(self.decoder_layers):
            out[f"dec{i}"] = x = DecoderLayer(**layer, name=f"decoder_{i}")(memory, x, position, blocked, train)
        x = LayerNorm(name="decoder_norm")(x)
        return linear(tokens.shape[-1], name="output_proj")(x), out


def torch_name(path: str) -> str:
    """The reference's name of the module at `path`."""
    path = path.removeprefix("transformer/").replace("decoder_norm", "transformer/decoder/norm")
    return "net_ad." + re.sub(r"^(en|de)coder_", r"transformer/\1coder/layers/", path).replace("/", ".")


@dataclass(frozen=True)
class UniAD(Method):
    """UniAD's settings.

    Attributes:
      backbone: the frozen network; its taps are concatenated on the grid of the last one.
      transformer: sizes of the transformer, its neighbourhood and grid.
      jitter_scale: of the noise on the tokens.
      learning_rate, weight_decay: of AdamW.
      learning_rate_drop: share of the training after which the learning rate is a tenth.
      decay_biases: whether weight decay acts on biases and LayerNorm too.
      clip_norm: global gradient norm.
      epochs, batch_size, drop_last: as in `Train`.
      image_score: largest value of the map averaged over 16x16 pixels, or the map's mean or standard deviation.
    """

    backbone: FrozenBackbone
    transformer: Transformer
    jitter_scale: float = 20.0
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    learning_rate_drop: float = 0.8
    decay_biases: bool = False
    clip_norm: float = 5.0
    epochs: int = 100
    batch_size: int = 8
    drop_last: bool = True
    image_score: Literal["max", "mean", "std"] = "max"

    @property
    def normalization(self) -> Normalization:
        return self.backbone.normalization

    def init(self, key: Array) -> Variables:
        backbone, transformer = jax.random.split(key)
        return merged(self.backbone.init(backbone), self.init_transformer(transformer))

    def init_transformer(self, key: Array) -> Variables:
        """The transformer before training."""
        tokens = jnp.zeros((1, math.prod(self.transformer.grid), sum(self.backbone.channels)))
        return {"params": {"transformer": self.transformer.init(key, tokens)["params"]}}

    def features(self, variables: Variables, batch: Batch) -> Float[Array, "b h w d"]:
        """All taps at the last one's grid (corners aligned), concatenated; they never change."""
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

    def rebuild(self, variables: Variables, tokens: Float[Array, "b t d"], **how) -> Float[Array, "b t d"]:
        """What the transformer makes of the tokens."""
        rebuilt: Any = self.transformer.apply({"params": variables["params"]["transformer"]}, tokens, **how)
        return rebuilt[0]

    def loss(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
        """Mean squared error between the clean features and what is made of those with noise."""
        clean = jax.lax.collapse(batch["features"], 1, 3)
        rngs = {"dropout": jax.random.fold_in(key, 1)} if self.transformer.dropout else None
        rebuilt = self.rebuild(variables, self.jitter(clean, key), train=True, rngs=rngs)
        return jnp.mean(jnp.square(rebuilt - clean)), ({}, {})

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Clipped AdamW, a tenth of the learning rate near the end."""
        decayed = None if self.decay_biases else lambda params: jax.tree.map(lambda value: value.ndim > 1, params)
        rate = optax.piecewise_constant_schedule(self.learning_rate, {math.ceil(self.learning_rate_drop * steps): 0.1})
        adamw = optax.adamw(rate, weight_decay=self.weight_decay, mask=decayed)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)

    def stages(self, examples: int) -> Sequence[Train]:
        stage = Train(
            name="transformer",
            loss=self.loss,
            optimizer=optax.identity(),
            trainable=lambda path: path.startswith("transformer/"),
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            features=self.features,
        )
        return [replace(stage, optimizer=self.optimizer(stage.total_steps(examples)))]

    def maps(self, variables: Variables, features: Float[Array, "b h w d"], size: tuple[int, int]) -> Array:
        """How far each feature is from its reconstruction, enlarged to `size`."""
        rebuilt = self.rebuild(variables, jax.lax.collapse(features, 1, 3))
        distance = jnp.linalg.norm(rebuilt.reshape(features.shape) - features, axis=-1)
        return resize(distance[..., None], size, align_corners=True)[..., 0]

    def score(self, maps: Float[Array, "b h w"]) -> Float[Array, " b"]:
        """The image score, as `image_score` says."""
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
        return merged(self.backbone.from_torch(state_dict, "net_backbone."), self.transformer_from_torch(state_dict))


def transformer(config: ConfigDict, backbone: FrozenBackbone) -> Transformer:
    """The transformer that `config.model` and `config.input.size` describe.

    Raises:
      UserError: a wrong value, or a neighbourhood that leaves a token nothing to look at.
    """
    size, stride = setting(config, "input.size"), backbones.channels(backbone.name)[backbone.taps[-1]][0]
    grid = -(-size[0] // stride), -(-size[1] // stride)
    reach = number(config, "model.neighbor_size", 0, whole=True, optional=True)
    window = (size[0] // 32, size[1] // 32) if reach is None else (reach, reach)
    if neighbour_mask(grid, window).all(1).any():
        raise UserError(
            f"config.model.neighbor_size is {reach}: a neighbourhood of {window} leaves some of "
            f"{grid[0]}x{grid[1]} tokens nothing to look at; set it lower, or config.input.size higher"
        )
    names = ("width", "heads", "encoder_layers", "decoder_layers", "feedforward")
    sizes = {name: number(config, f"model.{name}", 1, whole=True) for name in names}
    if sizes["width"] % sizes["heads"] or sizes["width"] % 4:
        wanted = f"a multiple of 4 and of config.model.heads, {sizes['heads']}"
        raise UserError(f"config.model.width is {sizes['width']}; expected {wanted}")
    position = choice(config, "model.position", ("learned", "sine"))
    dropout = number(config, "model.dropout", 0, 0.99)
    return Transformer(grid, window, **sizes, dropout=dropout, position=position)


def create(config: ConfigDict) -> UniAD:
    """UniAD as `config` (configs/uniad.py) says.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    backbone = frozen_backbone(config)
    return UniAD(
        backbone,
        transformer(config, backbone),
        jitter_scale=number(config, "model.jitter_scale", 0),
        learning_rate=number(config, "train.learning_rate", 0),
        weight_decay=number(config, "train.weight_decay", 0),
        learning_rate_drop=number(config, "train.learning_rate_drop", 0, 1),
        decay_biases=setting(config, "train.decay_biases"),
        clip_norm=number(config, "train.clip_norm", 0, above=True),
        epochs=number(config, "train.epochs", 1, whole=True),
        batch_size=number(config, "train.batch_size", 1, whole=True),
        drop_last=setting(config, "train.drop_last"),
        image_score=choice(config, "model.image_score", ("max", "mean", "std")),
    )
