"""RD, reverse distillation: where a student cannot rebuild what the teacher sees, the part is not as it should be.

Deng & Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022. A frozen teacher gives
features at strides 4, 8 and 16; a bottleneck fuses them (MFF) and embeds them at stride 32 (OCE); a decoder, the
teacher's mirror, rebuilds them from the coarsest to the finest. A pixel's anomaly score is how far the rebuilt vectors
point away from the teacher's.

The defaults are those of ADer's benchmark (what MIRAD ran); configs/rd_official.py has the official code's. Both codes
compare whole feature maps, flattened to one vector an image, where the paper's equation 1 compares pixel by pixel.
Mirrors of other teachers than ResNets are ours: basic blocks of the features' channels, no last activation.
"""

import math
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
from jaxad.backbones import resnet
from jaxad.backbones.frozen import FrozenBackbone, frozen_backbone, merged
from jaxad.backbones.mirrored import MirroredResNet
from jaxad.errors import UserError
from jaxad.method import Batch, Method, Normalization, Prediction, Train, Variables
from jaxad.nn.blur import gaussian_blur
from jaxad.nn.clipping import clip_by_global_norm
from jaxad.nn.conv import Conv, kaiming_normal_fan_out
from jaxad.nn.norm import BatchNorm
from jaxad.nn.resize import resize
from jaxad.nn.scoring import largest
from jaxad.nn.torch_layout import dotted, from_state_dict
from jaxad.settings import choice, number, setting

LOSSES, FUSIONS = ("flattened", "pixel"), ("add", "sum", "mul")
STRIDES, SIGMA = (4, 8, 16), 4.0  # of the features, of the Gaussian over the map
Pyramid = Sequence[Float[Array, "b _ _ _"]]  # features of these strides


class Bottleneck(nn.Module):
    """Multi-scale feature fusion and one-class embedding (section 3.3): three maps to one of stride 32.

    Attributes:
      channels: of the three maps.
      architecture: the ResNet whose last layer is the form of the embedding's.
    """

    channels: tuple[int, ...]
    architecture: resnet.Architecture

    @nn.compact
    def __call__(self, teacher: Pyramid, train: bool) -> Float[Array, "b h w c"]:
        fine, middle, coarse = teacher
        _, middle_channels, channels = self.channels

        def halved(x: Array, features: int, index: int) -> Array:
            name, start = f"conv{index}", kaiming_normal_fan_out
            x = Conv(features, 3, 2, padding=1, use_bias=False, kernel_init=start, name=name)(x)
            return nn.relu(BatchNorm(name=f"bn{index}")(x, train))

        fine = halved(halved(fine, middle_channels, 1), channels, 2)
        x = jnp.concatenate([fine, halved(middle, channels, 3), coarse], axis=-1)
        for block in range(self.architecture.blocks[3]):
            planes, stride = 2 * channels // self.architecture.expansion, 2 if block == 0 else 1
            x = resnet.Block(planes, stride, self.architecture, name=f"bn_layer_{block}")(x, train)
        return x


class Student(nn.Module):
    """All that is trained: (the rebuilt features, their embedding) from the teacher's features.

    Attributes:
      channels: of the teacher's features.
      embedding, mirror: the ResNets whose forms bottleneck and decoder have.
      signed: whether the teacher's features may be negative.
    """

    channels: tuple[int, ...]
    embedding: resnet.Architecture
    mirror: resnet.Architecture
    signed: bool

    @nn.compact
    def __call__(self, teacher: Pyramid, train: bool) -> tuple[Pyramid, Float[Array, "b h w c"]]:
        embedded = Bottleneck(self.channels, self.embedding, name="bottleneck")(teacher, train)
        return MirroredResNet(self.channels, self.mirror, self.signed, name="decoder")(embedded, train), embedded


def cosine_distance(teacher: Float[Array, "*n d"], student: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """1 - cos along the last axis, in [0, 2]; norms are at least 1e-8, as PyTorch's."""
    norms = [jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), -1), 1e-16)) for x in (teacher, student)]
    return 1.0 - jnp.sum(teacher * student, -1) / (norms[0] * norms[1])


def distillation_losses(teacher: Pyramid, student: Pyramid, kind: str = "flattened") -> list[Float[Array, ""]]:
    """Mean cosine distance of each scale: of an image's whole map ("flattened", both codes) or of its pixels ("pixel",
    equations 1 and 2 of the paper).
    """
    if kind == "flattened":
        teacher, student = ([x.reshape(len(x), -1) for x in pyramid] for pyramid in (teacher, student))
    return [jnp.mean(cosine_distance(t, s)) for t, s in zip(teacher, student, strict=True)]


def fused_map(teacher: Pyramid, student: Pyramid, size: tuple[int, int], fusion: str = "add") -> Float[Array, "b h w"]:
    """The scales' cosine distances, enlarged to `size` with corners aligned, in one map: a ninth of their sum ("add",
    ADer), their sum ("sum", official) or their product ("mul").
    """
    scales = [cosine_distance(t, s)[..., None] for t, s in zip(teacher, student, strict=True)]
    maps = jnp.concatenate([resize(scale, size, align_corners=True) for scale in scales], axis=-1)
    if fusion == "mul":
        return jnp.prod(maps, -1)
    return jnp.sum(maps, -1) / (9.0 if fusion == "add" else 1.0)


@dataclass(frozen=True)
class RD(Method):
    """RD's settings.

    Attributes:
      teacher: its taps have strides 4, 8, 16.
      wide_embedding: whether the embedding's bottleneck blocks are as wide inside as a wide teacher's (official).
      loss_kind: see `distillation_losses`.
      fusion: see `fused_map`.
      learning_rate: of Adam.
      decay_at: share of the steps after which the learning rate is a tenth; None: never.
      clip_norm: gradient norm at which bottleneck and decoder are clipped together; None: never.
      cache_features: whether the teacher runs once an image, not in every step.
      epochs, batch_size, drop_last: as in `Train`.
    """

    teacher: FrozenBackbone
    wide_embedding: bool = False
    loss_kind: Literal["flattened", "pixel"] = "flattened"
    fusion: Literal["add", "sum", "mul"] = "add"
    learning_rate: float = 0.005
    decay_at: float | None = 0.8
    clip_norm: float | None = 5.0
    cache_features: bool = True
    epochs: int = 100
    batch_size: int = 16
    drop_last: bool = True

    @property
    def normalization(self) -> Normalization:
        return self.teacher.normalization

    @property
    def student(self) -> Student:
        mirror = resnet.ARCHITECTURES.get(self.teacher.name, resnet.ARCHITECTURES["resnet18"])
        embedding = mirror if self.wide_embedding else replace(mirror, width=1)
        return Student(self.teacher.channels, embedding, mirror, signed=self.teacher.name not in backbones.RESNETS)

    def init(self, key: Array) -> Variables:
        teacher, student = jax.random.split(key)
        return merged(self.teacher.init(teacher), jax.jit(self.init_student)(student))

    def init_student(self, key: Array) -> Variables:
        """Bottleneck and decoder before training."""
        sides = (64 // stride for stride in STRIDES)
        teacher = [jnp.zeros((1, n, n, c)) for n, c in zip(sides, self.teacher.channels, strict=True)]
        return {name: {"student": tree} for name, tree in self.student.init(key, teacher, train=False).items()}

    def features(self, variables: Variables, batch: Batch) -> dict[str, Float[Array, "b _ _ _"]]:
        """What the teacher sees, by tap; it never changes."""
        return self.teacher(variables, batch["image"])

    def rebuild(self, variables: Variables, teacher: Pyramid, train: bool = False) -> Any:
        """The student's (features, embedding); in training together with {"batch_stats": the new statistics}."""
        weights = {name: variables[name]["student"] for name in ("params", "batch_stats")}
        return self.student.apply(weights, teacher, train, mutable=["batch_stats"] if train else False)

    def loss(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, tuple[Variables, dict[str, Array]]]:
        """Sum of the three scales' losses."""
        seen = batch["features"] if self.cache_features else self.features(variables, batch)
        teacher = [seen[tap] for tap in self.teacher.taps]
        (student, _), updates = self.rebuild(variables, teacher, train=True)
        losses = distillation_losses(teacher, student, self.loss_kind)
        metrics = {f"loss_stride{stride}": value for stride, value in zip(STRIDES, losses, strict=True)}
        return jnp.sum(jnp.stack(losses)), ({"batch_stats": {"student": updates["batch_stats"]}}, metrics)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam over a stage of so many steps."""
        rate: Any = self.learning_rate
        if self.decay_at is not None:
            rate = optax.piecewise_constant_schedule(rate, {math.ceil(self.decay_at * steps): 0.1})
        return optax.chain(clip_by_global_norm(self.clip_norm), optax.adam(rate, b1=0.5, b2=0.999))

    def stages(self, examples: int) -> Sequence[Train]:
        stage = Train(
            name="distillation",
            loss=self.loss,
            optimizer=optax.identity(),
            trainable=lambda path: path.startswith("student/"),
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            features=self.features if self.cache_features else None,
        )
        return [replace(stage, optimizer=self.optimizer(stage.total_steps(examples)))]

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        teacher = list(self.features(variables, batch).values())
        student, _ = self.rebuild(variables, teacher)
        maps = gaussian_blur(fused_map(teacher, student, batch["image"].shape[1:3], self.fusion), SIGMA)
        return Prediction(maps, largest(maps))

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        """From ADer's checkpoint; the official code's three modules become one by ADer's names as prefixes."""
        shapes = jax.eval_shape(self.init_student, jax.random.key(0))
        student = from_state_dict(shapes, state_dict, torch_name, "weights of RD")
        return merged(self.teacher.from_torch(state_dict, "net_t."), student)


def torch_name(path: str) -> str:
    """ADer's name of the student's module at `path`."""
    return dotted(path).replace("student.bottleneck", "mff_oce").replace("student.decoder", "net_s")


def create(config: ConfigDict) -> RD:
    """RD as `config` (configs/rd.py) says.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    teacher = frozen_backbone(config)
    strides = tuple(backbones.channels(teacher.name)[tap][0] for tap in teacher.taps)
    if strides != STRIDES:
        raise UserError(f"config.backbone.taps have strides {strides}; RD needs three taps of strides {STRIDES}")
    size = setting(config, "input.size")
    if any(length % 32 for length in size):
        raise UserError(f"config.input.size is {size}; RD halves the image five times: take multiples of 32")
    return RD(
        teacher,
        wide_embedding=setting(config, "model.wide_embedding"),
        loss_kind=choice(config, "model.loss", LOSSES),
        fusion=choice(config, "model.fusion", FUSIONS),
        learning_rate=number(config, "train.learning_rate", 0, above=True),
        decay_at=number(config, "train.decay_at", 0, 1, optional=True),
        clip_norm=number(config, "train.clip_norm", 0, above=True, optional=True),
        cache_features=setting(config, "train.cache_features"),
        epochs=number(config, "train.epochs", 1, whole=True),
        batch_size=number(config, "train.batch_size", 1, whole=True),
        drop_last=setting(config, "train.drop_last"),
    )
