"""Photographs that belong to no data set: the files given to `--mode=predict`, or arrays in a notebook."""

import abc
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxad.data.geometry import Geometry
from jaxad.errors import UserError
from jaxad.imaging.decoding import SUFFIXES, decode
from jaxad.method import Item

logger = logging.getLogger(__name__)


def image_files(path: str | Path) -> list[Path]:
    """The image file `path`, or those in the folder `path` and below, sorted; hidden files are left out.

    Files whose suffix is not that of an image are skipped, with one warning.

    Raises:
      UserError: there is nothing at `path`, or no image.
    """
    path = Path(path).expanduser()
    kinds = ", ".join(s[1:] for s in SUFFIXES)
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise UserError(f"--images is {path}, which is not an image by its name; expected a file of type {kinds}")
        return [path]
    if not path.is_dir():
        raise UserError(f"--images is {str(path)!r}, which does not exist; expected a folder or an image file")
    files = [
        p for p in path.rglob("*") if p.is_file() and not any(n.startswith(".") for n in p.relative_to(path).parts)
    ]
    images = sorted(p for p in files if p.name.lower().endswith(SUFFIXES))
    if not images:
        raise UserError(f"--images is {path}, which holds no image; expected files of type {kinds}")
    if others := sorted(set(files) - set(images)):
        logger.warning(f"{path}: skipped {len(others)} files that are not images; the first is {others[0]}")
    return images


class LooseImages(abc.ABC):
    """Photographs without labels or masks, with items like those of `jaxad.data.split.Split`.

    An image that cannot be read does not stop the run: its item is black, valid nowhere and of `weight` 0, and once the
    item has been asked for, `errors` holds the message under its index.

    Attributes:
      category: the `category` of every item.
      ids: the images' names.
      errors: index -> one line that names the image.
      original_sizes: int32 (n, 2) (height, width); (0, 0) for images not yet asked for and for broken ones.
    """

    def __init__(self, ids: list[str], geometry: Geometry, category: int):
        self.ids = ids
        self.geometry = geometry
        self.category = category
        self.errors: dict[int, str] = {}
        self.original_sizes = np.zeros((len(ids), 2), np.int32)

    @abc.abstractmethod
    def original(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        """The image at its own size.

        Raises:
          UserError: it cannot be read.
        """

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Item:
        height, width = self.geometry.size
        image, valid = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
        try:
            original = self.original(i)
        except UserError as error:
            self.errors[i] = str(error)
        else:
            self.original_sizes[i] = original.shape[:2]
            image, box = self.geometry.apply(original)
            valid = self.geometry.valid(box)
        return {
            "image": image,
            "mask": np.zeros((height, width), bool),
            "valid": valid,
            "label": np.int32(-1),
            "category": np.int32(self.category),
            "has_mask": np.bool_(False),
            "index": np.int32(i),
            "weight": np.float32(i not in self.errors),
        }


class FileSplit(LooseImages):
    """Image files, named by their paths."""

    def __init__(self, paths: Sequence[Path], geometry: Geometry, category: int = 0):
        super().__init__([str(p) for p in paths], geometry, category)

    def original(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        try:
            data = Path(self.ids[i]).read_bytes()
        except OSError as error:
            raise UserError(f"{self.ids[i]} cannot be read ({error.strerror}): check its permissions") from error
        return decode(data, self.ids[i])


class ArraySplit(LooseImages):
    """Arrays, uint8 (h, w, 3) of any sizes, named "image 0", "image 1", ..."""

    def __init__(self, images: Sequence[np.ndarray], geometry: Geometry, category: int = 0):
        super().__init__([f"image {i}" for i in range(len(images))], geometry, category)
        self._images = images

    def original(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        image = np.asarray(self._images[i])
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(f"{self.ids[i]} is {image.dtype} of shape {image.shape}; expected uint8 of shape (h, w, 3)")
        return image
