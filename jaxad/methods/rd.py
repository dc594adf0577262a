"""RD, reverse distillation: what a student cannot rebuild of a teacher's features is anomalous.

Deng & Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022. A frozen teacher gives
features at strides 4, 8 and 16; a bottleneck fuses them (MFF) and embeds them at stride 32 (OCE); a decoder, the
teacher's mirror, rebuilds them from the coarsest to the finest. A pixel's anomaly score is the cosine distance between
the teacher's vectors and the rebuilt ones.

configs/rd.py has the settings of ADer's benchmark (as run for MIRAD) and of the official code. Both codes compare whole
feature maps, flattened to one vector per image, where the paper's equation 1 compares pixel by pixel. The decoders for
teachers other than ResNets are our own: basic blocks with the features' channels, without the last activation.
"""

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

from jaxad.backbones import resnet
from jaxad.backbones.frozen import FrozenBackbone, frozen_backbone
from jaxad.backbones.mirrored import MirroredResNet
from jaxad.errors import UserError
from jaxad.method import Batch, LossValue, Method, Normalization, Prediction, Train, Variables
from jaxad.nn.blur import gaussian_blur
from jaxad.nn.conv import Conv, kaiming_normal_fan_out
from jaxad.nn.norm import BatchNorm
from jaxad.nn.precision import narrowed, widened
from jaxad.nn.resize import resize
from jaxad.nn.scoring import largest
from jaxad.nn.torch_layout import dotted, from_state_dict
from jaxad.optimizers import adam, clip_by_global_norm, step_decay
from jaxad.settings import Count, Dtype, Positive, Share, read, setting
from jaxad.trees import inside, merge, under

STRIDES = (4, 8, 16)  # of the teacher's features
SIGMA = 4.0  # of the Gaussian over the anomaly map, in pixels
Pyramid = Sequence[Float[Array, "b _ _ _"]]  # features at these strides, finest first


class Bottleneck(nn.Module):
    """Multi-scale feature fusion and one-class embedding (section 3.3): three maps to one of stride 32.

    Attributes:
      channels: of the three maps.
      architecture: the ResNet whose last layer the embedding is shaped after.
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
    """Everything that is trained, from the teacher's features to (the rebuilt features, their embedding).

    Attributes:
      channels: of the teacher's features.
      embedding, mirror: the ResNets that bottleneck and decoder are shaped after.
      signed: whether the teacher's features may be negative.
      dtype: of the computation; the results are float32.
    """

    channels: tuple[int, ...]
    embedding: resnet.Architecture
    mirror: resnet.Architecture
    signed: bool
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, teacher: Pyramid, train: bool) -> tuple[Pyramid, Float[Array, "b h w c"]]:
        seen = [narrowed(x, self.dtype) for x in teacher]
        embedded = Bottleneck(self.channels, self.embedding, name="bottleneck")(seen, train)
        rebuilt = MirroredResNet(self.channels, self.mirror, self.signed, name="decoder")(embedded, train)
        return [widened(x) for x in rebuilt], widened(embedded)


def cosine_distance(teacher: Float[Array, "*n d"], student: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """1 - cos along the last axis, in [0, 2]; norms are at least 1e-8, as in PyTorch."""
    norms = [jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), -1), 1e-16)) for x in (teacher, student)]
    return 1.0 - jnp.sum(teacher * student, -1) / (norms[0] * norms[1])


def distillation_losses(teacher: Pyramid, student: Pyramid, kind: str = "flattened") -> list[Float[Array, ""]]:
    """The mean cosine distance at each scale, between whole maps ("flattened", both codes) or pixel by pixel ("pixel",
    equations 1 and 2 of the paper).
    """
    if kind == "flattened":
        teacher, student = ([x.reshape(len(x), -1) for x in pyramid] for pyramid in (teacher, student))
    return [jnp.mean(cosine_distance(t, s)) for t, s in zip(teacher, student, strict=True)]


def fused_map(teacher: Pyramid, student: Pyramid, size: tuple[int, int], fusion: str = "add") -> Float[Array, "b h w"]:
    """One map from the cosine distances at all scales, enlarged to `size` with corners aligned: a ninth of their sum
    ("add", ADer), their sum ("sum", official) or their product ("mul").
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
      teacher: the frozen network; its taps have strides 4, 8 and 16.
      wide_embedding: whether the embedding's bottleneck blocks are as wide inside as a wide teacher's (official).
      loss_kind: see `distillation_losses`.
      fusion: see `fused_map`.
      learning_rate: Adam's.
      decay_at: share of the steps after which the learning rate drops to a tenth; None: never.
      clip_norm: gradient norm at which bottleneck and decoder are clipped together; None: never.
      dtype: of the student's computation.
      epochs, batch_size, drop_last: as in `Train`.
    """

    teacher: FrozenBackbone
    wide_embedding: bool
    loss_kind: Literal["flattened", "pixel"]
    fusion: Literal["add", "sum", "mul"]
    learning_rate: Positive
    decay_at: Share | None
    clip_norm: Positive | None
    dtype: Dtype
    epochs: Count
    batch_size: Count
    drop_last: bool

    @property
    def normalization(self) -> Normalization:
        return self.teacher.normalization

    @property
    def student(self) -> Student:
        resnets = resnet.ARCHITECTURES
        mirror = resnets.get(self.teacher.name, resnets["resnet18"])
        embedding = mirror if self.wide_embedding else replace(mirror, width=1)
        signed = self.teacher.name not in resnets
        return Student(self.teacher.channels, embedding, mirror, signed, self.dtype)

    def init(self, key: Array) -> Variables:
        teacher, student = jax.random.split(key)
        return merge(self.teacher.init(teacher), jax.jit(self.init_student)(student))

    def init_student(self, key: Array) -> Variables:
        """Bottleneck and decoder before training."""
        sides = (64 // stride for stride in STRIDES)
        teacher = [jnp.zeros((1, n, n, c)) for n, c in zip(sides, self.teacher.channels, strict=True)]
        return under("student", dict(self.student.init(key, teacher, train=False)))

    def features(self, variables: Variables, batch: Batch) -> dict[str, Float[Array, "b _ _ _"]]:
        """The teacher's features by tap; they never change."""
        return self.teacher(variables, batch["image"])

    def rebuild(self, variables: Variables, teacher: Pyramid, train: bool = False) -> Any:
        """The student's (features, embedding); in training, paired with {"batch_stats": the new statistics}."""
        mutable = ["batch_stats"] if train else False
        return self.student.apply(inside(variables, "student"), teacher, train, mutable=mutable)

    def loss(self, variables: Variables, batch: Batch, key: Array) -> LossValue:
        """The sum of the losses at the three scales."""
        teacher = [batch["features"][tap] for tap in self.teacher.taps]
        (student, _), updates = self.rebuild(variables, teacher, train=True)
        losses = distillation_losses(teacher, student, self.loss_kind)
        metrics = {f"loss_stride{stride}": value for stride, value in zip(STRIDES, losses, strict=True)}
        return jnp.sum(jnp.stack(losses)), (under("student", updates), metrics)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        rate = step_decay(self.learning_rate, self.decay_at)
        return optax.chain(clip_by_global_norm(self.clip_norm), adam(rate, steps, b1=0.5))

    def stages(self) -> Sequence[Train]:
        return [
            Train(
                name="distillation",
                loss=self.loss,
                optimizer=self.optimizer,
                trainable=lambda path: path.startswith("student/"),
                epochs=self.epochs,
                batch_size=self.batch_size,
                drop_last=self.drop_last,
                features=self.features,
            )
        ]

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        teacher = list(self.features(variables, batch).values())
        student, _ = self.rebuild(variables, teacher)
        maps = gaussian_blur(fused_map(teacher, student, batch["image"].shape[1:3], self.fusion), SIGMA)
        return Prediction(maps, largest(maps))

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        """From ADer's checkpoint, or from the official code's three modules with ADer's names as prefixes."""
        shapes = jax.eval_shape(self.init_student, jax.random.key(0))
        student = from_state_dict(shapes, state_dict, torch_name, "weights of RD")
        return merge(self.teacher.from_torch(state_dict, "net_t."), student)


def torch_name(path: str) -> str:
    """ADer's name of the student's module at `path`."""
    return dotted(path).replace("student.bottleneck", "mff_oce").replace("student.decoder", "net_s")


def create(config: ConfigDict, categories: Sequence[str]) -> RD:
    """The RD that `config` (see configs/rd.py) describes.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    teacher, size = frozen_backbone(config), setting(config, "input.size")
    if teacher.strides != STRIDES:
        raise UserError(
            f"config.backbone.taps have strides {teacher.strides}; expected three taps of strides {STRIDES}"
        )
    if any(length % 32 for length in size):
        raise UserError(f"config.input.size is {size}; RD halves the image five times: take multiples of 32")
    return read(RD, config, teacher=teacher)
