"""What synthetic defects are filled with: the photographs of DTD, or textures drawn by formula where it is absent.

The methods draw a uniform index and take the texture at the input's size (DRAEM, DeSTSeg, MADE-Net), inside
`Train.prepare`:

    def prepare(self, images, i, rng):
        return {"texture": self.textures.draw(rng)}

Published numbers are with DTD; `Textures.kind` says which a run had.
"""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jaxad.data.geometry import Geometry, from_config
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from jaxad.imaging.decoding import decode
from jaxad.settings import choice, number, setting
from jaxad.synthesis.procedural import draw_texture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Textures:
    """A set of textures, loaded or prepared when the first one is drawn.

    Attributes:
      name: "dtd"; "procedural"; "auto": DTD where it is prepared in `data_dir` or `manual_dir` has it, else procedural.
      number: of procedural ones; DTD has 5,640.
      seed: of the procedural ones.
      geometry: stretches a texture to the input's size, resampled as the photographs are.
      data_dir: where prepared data is; see `jaxad.data.preparation.prepare`.
      manual_dir: where raw data is; likewise.
    """

    name: Literal["auto", "dtd", "procedural"]
    number: int
    seed: int
    geometry: Geometry
    data_dir: str
    manual_dir: str

    @property
    def kind(self) -> Literal["dtd", "procedural"]:
        """Which textures these are; DTD is loaded, or prepared, to find out.

        Raises:
          UserError: see `draw`.
        """
        return "procedural" if _photographs(self) is None else "dtd"

    def draw(self, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
        """One texture at the input's size, sRGB; its index, uniform, is all that is drawn from `rng`.

        Raises:
          UserError: DTD was asked for by name and is neither there nor can it be downloaded, or it is damaged.
        """
        photographs = _photographs(self)
        if photographs is None:
            return _procedural(self.seed, int(rng.integers(self.number)), self.geometry.size)
        return self.geometry.apply(photographs[int(rng.integers(len(photographs)))])[0]


def textures(config: ConfigDict) -> Textures:
    """The textures that `config.textures` describes, at the size in `config.input`.

    Raises:
      UserError: a field is missing or out of range.
    """
    return Textures(
        name=choice(config, "textures.name", ("auto", "dtd", "procedural")),
        number=number(config, "textures.number", 1, whole=True),
        seed=number(config, "textures.seed", 0, whole=True),
        geometry=replace(from_config(config.input), kind="stretch"),
        data_dir=setting(config, "dataset.data_dir"),
        manual_dir=setting(config, "dataset.manual_dir"),
    )


def _procedural(seed: int, i: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Texture i, the middle of a square: cut and not stretched, so that its grain is as fine along both axes."""
    side = max(*size, 16)  # the formulas need room for a few periods
    top, left = ((side - length) // 2 for length in size)
    return draw_texture(seed, i, side)[top : top + size[0], left : left + size[1]]


class _Photographs:
    """Random access to DTD's photographs at their own sizes."""

    def __init__(self, builder: Any):
        import tensorflow_datasets as tfds

        skip = {key: tfds.decode.SkipDecoding() for key in ("image", "mask")}
        self._folder = builder.data_dir
        with self._damage_named():
            self._records = builder.as_data_source("train", decoders=skip)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        with self._damage_named():
            record = self._records[i]
        return decode(record["image"], f"texture {i} of DTD")

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # TFDS and ArrayRecord have errors of their own for damaged files
            raise UserError(
                f"prepared data in {self._folder} is damaged ({type(error).__name__}: {error}): "
                "delete that folder, and it is prepared again"
            ) from error


_loading = threading.Lock()


def _photographs(settings: Textures) -> _Photographs | None:
    """DTD, or None where textures are procedural; settled once per settings, while other threads wait."""
    with _loading:
        return _load(settings)


@functools.cache
def _load(settings: Textures) -> _Photographs | None:
    at_hand = settings.name == "auto" and _dtd_is_at_hand(settings.data_dir, settings.manual_dir)
    if settings.name != "dtd" and not at_hand:
        logger.info("Textures of synthetic defects: %d procedural ones", settings.number)
        return None
    try:
        builder = prepare("dtd", data_dir=settings.data_dir, manual_dir=settings.manual_dir)["dtd"]
        photographs = _Photographs(builder)
    except UserError as error:
        raise UserError(f"{error}; or set config.textures.name to procedural") from error
    logger.info("Textures of synthetic defects: %d photographs of DTD", len(photographs))
    return photographs


def _dtd_is_at_hand(data_dir: str, manual_dir: str) -> bool:
    """Whether DTD is prepared, or `manual_dir` has it, unpacked or as its archive."""
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    if any((root / "dtd" / "dtd").glob("[0-9]*")):
        return True
    if not manual_dir:
        return False
    from datasets_tfds.archives import find_root
    from datasets_tfds.dtd.dtd_dataset_builder import ARCHIVE, is_root

    folder = Path(manual_dir).expanduser()
    archives = (folder / ARCHIVE.file, folder / "dtd" / ARCHIVE.file)
    return find_root(folder, "dtd", is_root) is not None or any(a.is_file() for a in archives)
