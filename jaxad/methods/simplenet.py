"""SimpleNet: a discriminator between the patch features of normal images and the same features with noise added.

Liu et al., "SimpleNet: A Simple Network for Image Anomaly Detection and Localization", CVPR 2023. A frozen backbone
gives locally pooled patch features; a linear adaptor moves them to the target domain; Gaussian noise in feature space
makes anomalies; a two-layer discriminator D tells the two apart with a hinge loss. A patch's anomaly score is -D.

configs/simplenet.py has the settings of ADer's benchmark (as run for MIRAD) and of the official code. Both codes step
two optimizers after one forward pass, which is one joint step. Without augmentation the patch features never change, so
they are computed once per image.
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

from jaxad.backbones.frozen import PatchFeatures, patch_features
from jaxad.method import Batch, LossValue, Method, Normalization, Prediction, Train, Variables
from jaxad.nn.conv import torch_bias
from jaxad.nn.linear import Dense
from jaxad.nn.norm import BatchNorm
from jaxad.nn.precision import narrowed, widened
from jaxad.nn.scoring import anomaly_map, largest
from jaxad.nn.torch_layout import from_state_dict
from jaxad.optimizers import adam, adamw, by_module, clip_by_global_norm, matrices
from jaxad.settings import Count, Dtype, NonNegative, Positive, read
from jaxad.trees import inside, merge, under

# BatchNorm cancels these shifts: their gradients are rounding noise, which Adam would scale up to full steps
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


def feature_adaptor(dim: int) -> Dense:
    """The feature adaptor (section 3.2): one linear layer."""
    return Dense(dim, kernel_init=nn.initializers.xavier_normal(), bias_init=torch_bias(dim))


class Discriminator(nn.Module):
    """The discriminator D (section 3.4): large on normal features."""

    width: int = 1024

    @nn.compact
    def __call__(self, features: Float[Array, "*n d"], train: bool) -> Float[Array, "*n"]:
        init, bias_init = nn.initializers.xavier_normal(), torch_bias(features.shape[-1])
        hidden = Dense(self.width, kernel_init=init, bias_init=bias_init, name="hidden")(features)
        hidden = nn.leaky_relu(BatchNorm(name="norm")(hidden, train), 0.2)
        # float32: with bfloat16's eight significant bits the scores of many patches would tie
        return Dense(1, use_bias=False, kernel_init=init, name="logit")(widened(hidden))[..., 0]


@dataclass(frozen=True)
class SimpleNet(Method):
    """SimpleNet's settings.

    Attributes:
      patches: patch features of the frozen backbone.
      adaptor: whether there is a feature adaptor.
      margin: of the hinge loss.
      sigma: standard deviation of the feature noise.
      adaptor_learning_rate, adaptor_decay: of AdamW.
      discriminator_learning_rate, discriminator_decay: of Adam with coupled L2.
      decay_biases: whether weight decay acts on biases and BatchNorm too.
      clip_norm: gradient norm at which adaptor and discriminator are clipped, each on its own; None: never.
      cancelled_biases: whether the biases that BatchNorm cancels are trained, on rounding noise, as in the reference
        codes. Loss and scores do not depend on them; left untrained, they are the same whatever the devices.
      dtype: of the head's computation.
      epochs, batch_size, drop_last: as in `Train`.
      image_score: the largest value of the smoothed map (ADer) or of the patches (official).
    """

    patches: PatchFeatures
    adaptor: bool
    margin: NonNegative
    sigma: Positive
    adaptor_learning_rate: NonNegative
    adaptor_decay: NonNegative
    discriminator_learning_rate: NonNegative
    discriminator_decay: NonNegative
    decay_biases: bool
    clip_norm: Positive | None
    cancelled_biases: bool
    dtype: Dtype
    epochs: Count
    batch_size: Count
    drop_last: bool
    image_score: Literal["map_max", "patch_max"]

    @property
    def normalization(self) -> Normalization:
        return self.patches.backbone.normalization

    def init(self, key: Array) -> Variables:
        backbone, head = jax.random.split(key)
        return merge(self.patches.backbone.init(backbone), self.init_head(head))

    def init_head(self, key: Array) -> Variables:
        """Adaptor and discriminator before training."""
        features = jnp.zeros((2, self.patches.dim))
        discriminator_key, adaptor_key = jax.random.split(key)
        variables = under("discriminator", dict(Discriminator().init(discriminator_key, features, train=False)))
        if self.adaptor:
            adaptor = feature_adaptor(self.patches.dim).init(adaptor_key, features)
            variables = merge(variables, under("adaptor", dict(adaptor)))
        return variables

    def features(self, variables: Variables, batch: Batch) -> Float[Array, "b h w d"]:
        """The patch features that the head works on; they never change."""
        return self.patches(variables, batch["image"])

    def adapted(self, variables: Variables, features: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """The features in the target domain."""
        features = narrowed(features, self.dtype)
        if self.adaptor:
            features = feature_adaptor(self.patches.dim).apply(inside(variables, "adaptor"), features)  # type: ignore
        return features

    def noise(self, key: Array, shape: Sequence[int]) -> Float[Array, "b h w d"]:
        """What turns normal features into anomalous ones: N(0, sigma^2)."""
        return self.sigma * jax.random.normal(key, shape)

    def loss_terms(
        self, true: Float[Array, "b h w"], fake: Float[Array, "b h w"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The loss of D on normal features and on noisy ones."""
        return hinge_loss(true, fake, self.margin)

    def patch_score(self, logit: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
        """The anomaly score, from D's output."""
        return -logit

    def loss(self, variables: Variables, batch: Batch, key: Array) -> LossValue:
        """The sum of the two terms; both pass through D together, so that BatchNorm's statistics are joint."""
        true = self.adapted(variables, batch["features"])
        noisy = true + self.noise(key, true.shape).astype(true.dtype)
        rows = jnp.stack([true, noisy], axis=1)  # axis 0, the images, is sharded over devices
        logit, updates = Discriminator().apply(
            inside(variables, "discriminator"),
            rows.reshape(-1, rows.shape[-1]),  # XLA's CPU backward pass is twice as fast on rows as on images
            train=True,
            mutable=["batch_stats"],
        )
        true_loss, fake_loss = self.loss_terms(*jnp.unstack(widened(logit).reshape(rows.shape[:-1]), axis=1))
        statistics = under("discriminator", dict(updates))
        return true_loss + fake_loss, (statistics, {"loss_true": true_loss, "loss_fake": fake_loss})

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """AdamW for the adaptor, Adam with L2 in the gradient for the discriminator."""
        decayed, clip = None if self.decay_biases else matrices, clip_by_global_norm(self.clip_norm)
        rates = self.adaptor_learning_rate, self.discriminator_learning_rate
        adaptor = adamw(rates[0], steps, weight_decay=self.adaptor_decay, decayed=decayed)
        discriminator = adam(rates[1], steps, l2=self.discriminator_decay, decayed=decayed)
        return by_module({
            "adaptor": optax.chain(clip, adaptor),
            "discriminator": optax.chain(clip, discriminator),
        })  # fmt: skip

    def trainable(self, path: str) -> bool:
        """Whether the parameter is trained: those of adaptor and discriminator are, but see `cancelled_biases`."""
        cancelled = path in CANCELLED_BIASES and not self.cancelled_biases
        return path.startswith(("adaptor/", "discriminator/")) and not cancelled

    def stages(self) -> Sequence[Train]:
        return [
            Train(
                name="discriminator",
                loss=self.loss,
                optimizer=self.optimizer,
                trainable=self.trainable,
                epochs=self.epochs,
                batch_size=self.batch_size,
                drop_last=self.drop_last,
                features=self.features,
            )
        ]

    def logit(self, variables: Variables, features: Float[Array, "b h w d"]) -> Float[Array, "b h w"]:
        """D of the adapted features."""
        adapted = self.adapted(variables, features)
        logit: Any = Discriminator().apply(inside(variables, "discriminator"), adapted, train=False)
        return widened(logit)

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        scores = self.patch_score(self.logit(variables, self.features(variables, batch)))
        maps = anomaly_map(scores, batch["image"].shape[1:3])
        return Prediction(maps, largest(maps if self.image_score == "map_max" else scores))

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        prefix = "net_simplenet." if any(key.startswith("net_simplenet.") for key in state_dict) else ""
        shapes = jax.eval_shape(self.init_head, jax.random.key(0))
        head = from_state_dict(shapes, state_dict, lambda path: prefix + TORCH_NAMES[path], "weights of SimpleNet")
        return merge(self.patches.backbone.from_torch(state_dict, f"{prefix}backbone."), head)


def create(config: ConfigDict, categories: Sequence[str]) -> SimpleNet:
    """The SimpleNet that `config` (see configs/simplenet.py) describes.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    return read(SimpleNet, config, patches=patch_features(config))
