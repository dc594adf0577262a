"""Which models a run has, what each is for, and where it lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxad.config import Config
from jaxad.workdir import folder_name

PROTOCOLS = ("one_class", "multi_class", "zero_shot")


@dataclass(frozen=True)
class Model:
    """One model of a run.

    Attributes:
      name: the category of a one-class model; else the protocol.
      categories: what it is evaluated on.
      folder: of its checkpoints and logs. The results of a category have a folder of their own, which for a one-class
        model is the same.
    """

    name: str
    categories: tuple[str, ...]
    folder: Path


def models_of(config: Config, categories: Sequence[str], workdir: Path) -> list[Model]:
    """The models of a run on these categories: one per category under the protocol one_class, else a single one."""
    if config.protocol == "one_class":
        return [Model(name, (name,), workdir / folder_name(name)) for name in categories]
    return [Model(config.protocol, tuple(categories), workdir / config.protocol)]
