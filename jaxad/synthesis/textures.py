"""What synthetic defects are filled with: the photographs of DTD, or textures drawn by formula where it is absent.

The methods draw a uniform index and take the texture at the input's size (DRAEM, DeSTSeg, MADE-Net).
Published numbers are with DTD; which textures a run had is `name` of what `load` returns.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from jaxad.errors import UserError
from jaxad.imaging.decoding import decode
from jaxad.settings import choice, number
from jaxad.synthesis.procedural import draw_texture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Textures:
    """Which textures.

    Attributes:
      name: "dtd"; "procedural"; "auto", DTD where it is prepared or `manual_dir` has it, else procedural.
      number: how many procedural ones; DTD has 5,640.
      seed: of the procedural ones.
      size: height and width.
    """

    name: str = "auto"
    number: int = 5640
    seed: int = 0
    size: int = 256


def textures(config: ConfigDict) -> Textures:
    """The settings in `config.textures`, checked.

    Raises:
      UserError: a field is missing or out of range.
    """
    group = ConfigDict({"textures": config})
    return Textures(
        name=choice(group, "textures.name", ("auto", "dtd", "procedural")),
        number=number(group, "textures.number", 1, whole=True),
        seed=number(group, "textures.seed", 0, whole=True),
        size=number(group, "textures.size", 16, whole=True),
    )


class ProceduralTextures:
    """Random access to drawn textures: item i is uint8 (size, size, 3), a pure function of (seed, i, size)."""

    name = "procedural"

    def __init__(self, settings: Textures):
        self._settings = settings

    def __len__(self) -> int:
        return self._settings.number

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "size size 3"]:
        return draw_texture(self._settings.seed, range(len(self))[i], self._settings.size)


class PhotographedTextures:
    """Random access to DTD's photographs, resized to uint8 (size, size, 3), whatever their aspect ratio."""

    name = "dtd"

    def __init__(self, records: Any, size: int):
        self._records, self._size = records, size

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "size size 3"]:
        i = range(len(self))[i]
        photograph = Image.fromarray(decode(self._records[i]["image"], f"texture {i} of DTD"))
        return np.asarray(photograph.resize((self._size, self._size), Image.Resampling.BILINEAR))


def load(settings: Textures, data_dir: str = "", manual_dir: str = "") -> ProceduralTextures | PhotographedTextures:
    """The textures; `name` of what is returned tells which they are.

    Args:
      data_dir: `config.dataset.data_dir`; DTD is prepared there when it is asked for by name, or found in `manual_dir`.
      manual_dir: `config.dataset.manual_dir`.

    Raises:
      UserError: DTD was asked for by name, is not there and cannot be downloaded.
    """
    use_dtd = settings.name == "dtd" or (settings.name == "auto" and _dtd_is_at_hand(data_dir, manual_dir))
    if not use_dtd:
        logger.info(f"textures of synthetic defects: {settings.number} procedural ones")
        return ProceduralTextures(settings)
    import tensorflow_datasets as tfds

    from jaxad.data.preparation import prepare

    try:
        builder = prepare("dtd", data_dir=data_dir, manual_dir=manual_dir)["dtd"]
    except UserError as error:
        raise UserError(f"{error}; or set config.textures.name to procedural") from error
    skip = {key: tfds.decode.SkipDecoding() for key in ("image", "mask")}
    records = builder.as_data_source("train", decoders=skip)  # pyright: ignore[reportCallIssue]
    logger.info(f"textures of synthetic defects: {len(records)} photographs of DTD")
    return PhotographedTextures(records, settings.size)


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
