"""The fields that the config of every run has, whatever its method (configs/common.py): their types and limits."""

from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from jaxad.config import fields
from jaxad.errors import UserError
from jaxad.settings import Count, Dtype, Gib, Name, Seed, Share, Text, Whole, Within, checked, number, setting

LONGEST_SIDE = 4096  # of the network's input, in pixels
BATCH_PIXELS = 2**28  # of all images in a batch: 4096 of 256 x 256; 3 GiB as float32

Side = Annotated[int, Within(1, LONGEST_SIDE)]

COMMON: dict[str, Any] = {
    "method": Name,
    "seed": Seed,
    "dtype": Dtype,
    "precision": Literal["highest", "high", "default"],
    "protocol": Name,
    "dataset.name": Text,
    "dataset.category": Text,
    "dataset.train_split": Name,
    "dataset.where": Text,
    "dataset.path": Text,
    "dataset.manual_dir": Text,
    "dataset.data_dir": Text,
    "input.size": tuple[Side, Side],
    "input.geometry": Name,
    "input.resize": Side,
    "input.interpolation": Name,
    "input.antialias": bool,
    "input.mask_interpolation": Name,
    "input.cache_gib": Gib,
    "input.threads": Whole,
    "auxiliary.name": Text,
    "auxiliary.category": Text,
    "auxiliary.split": Name,
    "auxiliary.holdout": Share,
    "auxiliary.path": Text,
    "auxiliary.manual_dir": Text,
    "auxiliary.data_dir": Text,
    "threshold.holdout": Share,
    "threshold.false_alarm_rate": Share,
    "evaluation.batch_size": Count,
    "evaluation.metrics": Name,
    "evaluation.split": Name,
    "evaluation.where": Text,
    "evaluation.corruptions": Text,
    "evaluation.name": Name,
    "evaluation.every_epochs": Whole,
    "evaluation.published": Name,
    "features.memory_gib": Gib,
    "features.disk_gib": Gib,
    "checkpoint.every_steps": Count,
    "checkpoint.keep_last": Count,
    "checkpoint.keep_best": Name,
    "log.every_steps": Count,
    "mesh.model": Count,
}


def check_common(config: ConfigDict) -> None:
    """Checks the fields of `COMMON`, and that a batch of images can be held.

    Raises:
      UserError: a field is missing, or its value is not allowed; the message names the field.
    """
    for field, hint in COMMON.items():
        checked(config, field, hint)
    height, width = setting(config, "input.size")
    for field in ("evaluation.batch_size", "train.batch_size"):
        if field not in fields(config):
            continue
        images = number(config, field, 1, whole=True)
        if images * height * width > BATCH_PIXELS:
            raise UserError(
                f"config.{field} is {images}; expected at most {BATCH_PIXELS // (height * width)} images of "
                f"config.input.size {height}x{width}: a batch may have {BATCH_PIXELS} pixels"
            )
