"""SimpleNet: a discriminator between the patch features of normal images and the same features with noise on them.

Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization", CVPR 2023. A frozen backbone
gives locally pooled patch features; a linear adaptor moves them to the target domain; Gaussian noise in feature space
makes anomalies; a two-layer discriminator D tells the two apart with a hinge loss. A patch's anomaly score is -D.

The defaults are those of ADer's benchmark (what MIRAD ran); the official code's other settings are in
configs/simplenet_official.py. Both codes step two optimisers after one forward pass, which is one joint step. Without
augmentation the patch features never change, so they are computed once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxad.backbones.frozen import PatchFeatures, merged, patch_features
from jaxad.method import Batch, Method, Normalization, Prediction, Train, Variables
from jaxad.nn.norm import BatchNorm
from jaxad.nn.scoring import anomaly_map, largest
from jaxad.nn.torch_layout import from_state_dict
from jaxad.settings import choice, number, setting

IMAGE_SCORES = ("map_max", "patch_max")
# BatchNorm takes these shifts away again: their gradient is 0 but for rounding, which Adam would blow up to full steps
CANCELLED_BIASES = ("adaptor/bias", "discriminator/hidden/bias")

TORCH_NAMES = {
    "adaptor": "pre_projection.layers.0fc",
    "discriminator/hidden": "discriminator.body.block1.0",
    "discriminator/norm": "discriminator.body.block1.1",
    "discriminator/logit": "discriminator.tail",
}


def hinge_loss(
    true: Float[Array, "*n"], fake: Float[Array, "*n"], margin: float = 0.5
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Truncated L1 (section 3.5): the means of max(0, margin - D(true)) and max(0, margin + D(fake))."""
    return jnp.mean(jnp.maximum(0.0, margin - true)), jnp.mean(jnp.maximum(0.0, margin + fake))


def torch_bias(fan_in: int):
    """PyTorch's default for the bias of a linear layer: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def adaptor(dim: int) -> nn.Dense:
    """The feature adaptor (section 3.2): one linear layer."""
    return nn.Dense(dim, kernel_init=nn.initializers.xavier_normal(), bias_init=torch_bias(dim))


class Discriminator(nn.Module):
    """The discriminator D (section 3.4): large on normal features."""

    width: int = 1024

    @nn.compact
    def __call__(self, features: Float[Array, "*n d"], train: bool) -> Float[Array, "*n"]:
        init, bias_init = nn.initializers.xavier_normal(), torch_bias(features.shape[-1])
        hidden = nn.Dense(self.width, kernel_init=init, bias_init=bias_init, name="hidden")(features)
        hidden = nn.leaky_relu(BatchNorm(name="norm")(hidden, train), 0.2)
        return nn.Dense(1, use_bias=False, kernel_init=init, name="logit")(hidden)[..., 0]


@dataclass(frozen=True)
class SimpleNet(Method):
    """SimpleNet's settings.

    Attributes:
      patches: the features of the frozen backbone.
      adapt: whether the feature adaptor is there.
      margin: of the hinge loss.
      sigma: standard deviation of the feature noise.
      adaptor_learning_rate, adaptor_decay: of AdamW.
      discriminator_learning_rate, discriminator_decay: of Adam with coupled L2.
      decay_biases: whether weight decay acts on biases and BatchNorm too.
      clip_norm: gradient norm at which adaptor and discriminator are clipped, each by itself; None: never.
      train_cancelled_biases: whether the biases that BatchNorm cancels take their steps of rounding noise, as in the
        reference codes. The loss and the scores do not depend on it; without, runs on different devices stay equal.
      epochs, batch_size, drop_last: as in `Train`.
      image_score: the largest value of the smoothed map (ADer) or of the patches (official).
    """

    patches: PatchFeatures
    adapt: bool = True
    margin: float = 0.5
    sigma: float = 0.015
    adaptor_learning_rate: float = 1e-4
    adaptor_decay: float = 0.01
    discriminator_learning_rate: float = 2e-4
    discriminator_decay: float = 1e-5
    decay_biases: bool = False
    clip_norm: float | None = 5.0
    train_cancelled_biases: bool = False
    epochs: int = 100
    batch_size: int = 32
    drop_last: bool = True
    image_score: Literal["map_max", "patch_max"] = "map_max"

    @property
    def normalization(self) -> Normalization:
        return self.patches.backbone.normalization

    def init(self, key: Array) -> Variables:
        backbone, head = jax.random.split(key)
        return merged(self.patches.backbone.init(backbone), self.init_head(head))

    def init_head(self, key: Array) -> Variables:
        """Adaptor and discriminator before training."""
        features = jnp.zeros((2, self.patches.dim))
        ours, theirs = jax.random.split(key)
        discriminator = Discriminator().init(ours, features, train=False)
        variables = {collection: {"discriminator": tree} for collection, tree in discriminator.items()}
        if self.adapt:
            variables["params"]["adaptor"] = adaptor(self.patches.dim).init(theirs, features)["params"]
        return variables

    def features(self, variables: Variables, batch: Batch) -> Float[Array, "b h w d"]:
        """What the head sees; it never changes."""
        return self.patches(variables, batch["image"])

    def adapted(self, variables: Variables, features: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """The features in the target domain."""
        if self.adapt:
            features = adaptor(self.patches.dim).apply({"params": variables["params"]["adaptor"]}, features)  # type: ignore
        return features

    def noise(self, key: Array, shape: Sequence[int]) -> Float[Array, "b h w d"]:
        """What turns normal features into anomalous ones: N(0, sigma^2)."""
        return self.sigma * jax.random.normal(key, shape)

    def loss_terms(
        self, true: Float[Array, "b h w"], fake: Float[Array, "b h w"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The loss of D on normal features and on those with noise."""
        return hinge_loss(true, fake, self.margin)

    def patch_score(self, logit: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
        """D to anomaly score."""
        return -logit

    def loss(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
        """Sum of the two terms; both pass D together, so that BatchNorm's statistics are joint."""
        true = self.adapted(variables, batch["features"])
        rows = jnp.stack([true, true + self.noise(key, true.shape)], axis=1)  # the batch is cut over devices
        logit, updates = Discriminator().apply(
            {c: variables[c]["discriminator"] for c in ("params", "batch_stats")},
            rows.reshape(-1, rows.shape[-1]),  # XLA's CPU backward pass is twice as fast on rows as on images
            train=True,
            mutable=["batch_stats"],
        )
        true_loss, fake_loss = self.loss_terms(*jnp.unstack(logit.reshape(rows.shape[:-1]), axis=1))
        statistics = {"batch_stats": {"discriminator": updates["batch_stats"]}}
        return true_loss + fake_loss, (statistics, {"loss_true": true_loss, "loss_fake": fake_loss})

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW for the adaptor, Adam with L2 in the gradient for the discriminator."""
        decayed = None if self.decay_biases else lambda params: jax.tree.map(lambda value: value.ndim > 1, params)
        clip = optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
        groups = {
            "adaptor": optax.adamw(self.adaptor_learning_rate, weight_decay=self.adaptor_decay, mask=decayed),
            "discriminator": optax.chain(
                optax.add_decayed_weights(self.discriminator_decay, decayed),
                optax.adam(self.discriminator_learning_rate),
            ),
        }
        return optax.multi_transform(
            {name: optax.chain(clip, group) for name, group in groups.items()},
            lambda params: {name: jax.tree.map(lambda _: name, tree) for name, tree in params.items()},  # noqa: B023
        )

    def trainable(self, path: str) -> bool:
        """Adaptor and discriminator."""
        cancelled = path in CANCELLED_BIASES and not self.train_cancelled_biases
        return path.startswith(("adaptor/", "discriminator/")) and not cancelled

    def stages(self, examples: int) -> Sequence[Train]:
        return [
            Train(
                name="discriminator",
                loss=self.loss,
                optimizer=self.optimizer(),
                trainable=self.trainable,
                epochs=self.epochs,
                batch_size=self.batch_size,
                drop_last=self.drop_last,
                features=self.features,
            )
        ]

    def logit(self, variables: Variables, features: Float[Array, "b h w d"]) -> Float[Array, "b h w"]:
        """D, with the running statistics."""
        weights = {collection: variables[collection]["discriminator"] for collection in ("params", "batch_stats")}
        logit: Any = Discriminator().apply(weights, self.adapted(variables, features), train=False)
        return logit

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        scores = self.patch_score(self.logit(variables, self.features(variables, batch)))
        maps = anomaly_map(scores, batch["image"].shape[1:3])
        return Prediction(maps, largest(maps if self.image_score == "map_max" else scores))

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        prefix = "net_simplenet." if any(key.startswith("net_simplenet.") for key in state_dict) else ""
        shapes = jax.eval_shape(self.init_head, jax.random.key(0))
        head = from_state_dict(shapes, state_dict, lambda path: prefix + TORCH_NAMES[path], "weights of SimpleNet")
        return merged(self.patches.backbone.from_torch(state_dict, f"{prefix}backbone."), head)


def settings(config: ConfigDict) -> dict[str, Any]:
    """The fields of `SimpleNet` from a config.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    return {
        "patches": patch_features(config),
        "adapt": setting(config, "model.adaptor"),
        "margin": number(config, "model.margin", 0),
        "sigma": number(config, "model.sigma", 0, above=True),
        "adaptor_learning_rate": number(config, "train.adaptor_learning_rate", 0),
        "adaptor_decay": number(config, "train.adaptor_decay", 0),
        "discriminator_learning_rate": number(config, "train.discriminator_learning_rate", 0),
        "discriminator_decay": number(config, "train.discriminator_decay", 0),
        "decay_biases": setting(config, "train.decay_biases"),
        "clip_norm": number(config, "train.clip_norm", 0, above=True, optional=True),
        "train_cancelled_biases": setting(config, "train.cancelled_biases"),
        "epochs": number(config, "train.epochs", 1, whole=True),
        "batch_size": number(config, "train.batch_size", 1, whole=True),
        "drop_last": setting(config, "train.drop_last"),
        "image_score": choice(config, "model.image_score", IMAGE_SCORES),
    }


def create(config: ConfigDict) -> SimpleNet:
    """SimpleNet as `config` (configs/simplenet.py) says.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    return SimpleNet(**settings(config))
