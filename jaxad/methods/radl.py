"""RADL: SimpleNet made reliable by padding, by noise of random strength and by a likelihood loss.

Tang and Jung, "Reliable Anomaly Detection and Localization System: Implications on Manufacturing Industry", IEEE
Access 2023 (10.1109/ACCESS.2023.3324314). There is no public code; this applies the equations to SimpleNet's modules.
Images are resized and padded instead of cropped (`config.input.geometry = "pad"`); FDFA draws the standard deviation
of the feature noise anew for every patch (eq. 3-4); HCELoss is a binary cross entropy with a temperature (eq. 5-7).
Table 1's settings: A is hinge loss and fixed noise (SimpleNet), B is hce and fixed, C is hce and fdfa (RADL).

The equations leave open the range of the standard deviation (ours is centred on SimpleNet's 0.015), whether it is drawn
once per patch, image or batch (eq. 4 has a single patch vector), and what log(f / tau) means (here the logarithm of
sigmoid(D / tau), which is cross entropy at tau = 1, as the paper says). The linear adaptor is in SimpleNet's code but
not in RADL's equations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxad.backbones.frozen import patch_features
from jaxad.errors import UserError
from jaxad.methods.simplenet import SimpleNet
from jaxad.settings import Positive, read


def hce_loss(
    true: Float[Array, "*n"], fake: Float[Array, "*n"], tau: float = 0.5
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """HCELoss (eq. 5-7): the means of -log p(true) and -log(1 - p(fake)), with p = sigmoid(D / tau)."""
    return jnp.mean(jax.nn.softplus(-true / tau)), jnp.mean(jax.nn.softplus(fake / tau))


@dataclass(frozen=True)
class RADL(SimpleNet):
    """RADL's settings, in addition to SimpleNet's.

    Attributes:
      loss_kind: hinge (setting A) or hce (B, C).
      noise_kind: fixed, with standard deviation `sigma` (A, B), or fdfa, with a random one (C).
      sigma_low, sigma_high: the range of the random standard deviation.
      sigma_per: whether each patch, image or batch draws its own standard deviation.
      tau: temperature of the hce loss.
      score: -D, or the probability 1 - sigmoid(D / tau).
    """

    loss_kind: Literal["hinge", "hce"]
    noise_kind: Literal["fixed", "fdfa"]
    sigma_low: Positive
    sigma_high: Positive
    sigma_per: Literal["patch", "image", "batch"]
    tau: Positive
    score: Literal["logit", "prob"]

    def __post_init__(self):
        if self.sigma_low > self.sigma_high:
            raise UserError(
                f"config.model.sigma_low is {self.sigma_low}, above config.model.sigma_high {self.sigma_high}; "
                "expected a range"
            )

    def draws(self, key: Array, shape: Sequence[int]) -> tuple[Float[Array, "b h w d"], Float[Array, "_ _ _ 1"]]:
        """Standard normal draws for the features, and uniform draws in [0, 1) for the standard deviations."""
        b, h, w, _ = shape
        cells = {"patch": (b, h, w, 1), "image": (b, 1, 1, 1), "batch": (1, 1, 1, 1)}[self.sigma_per]
        normal, uniform = jax.random.split(key)
        return jax.random.normal(normal, shape), jax.random.uniform(uniform, cells)

    def noise(self, key: Array, shape: Sequence[int]) -> Float[Array, "b h w d"]:
        """N(0, s^2) with s fixed, or drawn uniformly from [sigma_low, sigma_high] (FDFA, eq. 3-4)."""
        if self.noise_kind == "fixed":
            return super().noise(key, shape)
        direction, strength = self.draws(key, shape)
        return (self.sigma_low + (self.sigma_high - self.sigma_low) * strength) * direction

    def loss_terms(
        self, true: Float[Array, "b h w"], fake: Float[Array, "b h w"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return hce_loss(true, fake, self.tau) if self.loss_kind == "hce" else super().loss_terms(true, fake)

    def patch_score(self, logit: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
        return jax.nn.sigmoid(-logit / self.tau) if self.score == "prob" else super().patch_score(logit)


def create(config: ConfigDict, categories: Sequence[str]) -> RADL:
    """The RADL that `config` (see configs/radl.py) describes.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    return read(RADL, config, patches=patch_features(config))
