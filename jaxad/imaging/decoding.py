"""From the bytes of a photograph or a mask to an array, whatever the camera or the annotation tool wrote.

Everything becomes 8-bit RGB, by rules that ignore an image's content, so that photographs of one part stay comparable:

 - grey, palette, CMYK, YCbCr, Lab: Pillow's conversion;
 - 16 bit: the upper byte of every value (0..65535 -> 0..255; never stretched to an image's own range);
 - transparency (RGBA, grey + alpha, palettes with a transparent colour): composited on white, as a viewer shows it;
 - EXIF orientation: applied, so that the array is what a viewer shows;
 - several frames: the first is used.
"""

import io
import logging

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from jaxad.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")

_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph as 8-bit RGB, upright.

    Args:
      data: the file's bytes.
      name: what to call the file in an error.

    Raises:
      UserError: the file is empty, truncated or not an image, or holds 32-bit values of unknown range.
    """
    image = _open(data, name)
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_upper_byte(image, name)[..., None], 3, axis=2)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def decode_mask(data: bytes, name: str, threshold: int = 127) -> Bool[np.ndarray, "h w"]:
    """The mask, True where the largest channel exceeds `threshold` (0..255; 0: any value that is not black).

    Transparent parts count as black. 16-bit masks are compared with 257 * threshold: small class numbers survive.

    Raises:
      UserError: the file is empty, truncated or not an image.
    """
    image = _open(data, name)
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image).astype(np.float64) > 257 * threshold
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    bands = [image.convert("L")] if image.mode in ("1", "L") else image.convert("RGB").split()
    return np.maximum.reduce([np.asarray(band) for band in bands]) > threshold


def encode_mask(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """An 8-bit grey PNG with 255 on defects."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def _open(data: bytes, name: str) -> Image.Image:
    """The decoded, upright first frame."""
    if not data:
        raise UserError(f"{name} is empty (0 bytes): copy the image again or remove the file")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return ImageOps.exif_transpose(image)
    except Image.UnidentifiedImageError:
        raise UserError(f"{name} is not an image that Pillow can read: convert it to PNG or remove the file") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise UserError(f"{name} is damaged ({error}): copy the image again or remove the file") from error


def _upper_byte(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w"]:
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise UserError(
            f"{name} holds 32-bit values from {low} to {high}, whose white level is unknown; convert it to 8 or 16 bits"
        )
    if 0 < high < 4096:
        _warn_once(
            "%s: the largest 16-bit value is %d of 65535, so the image is nearly black; if its values have 10 or 12 "
            "bits, scale them to 16 first",
            (name, high),
        )
    return (values >> 8).astype(np.uint8)


_warned: set[str] = set()


def _warn_once(message: str, details: tuple) -> None:
    """Warns about the first of many: a folder of such images would fill the screen."""
    if message not in _warned:
        _warned.add(message)
        logger.warning(message, *details)
