"""How a photograph of any size becomes the network's input, and how a map gets the photograph's size again.

 - `stretch`: resized to the exact size, whatever the aspect ratio (ADer, anomalib);
 - `pad`: resized to fit, with its aspect ratio, and centred on a canvas (RADL: nothing is cut off);
 - `crop`: the shorter side resized to `resize`, then the centre cut out (official PatchCore and SimpleNet).

Resizing is Pillow's, antialiased, on 8-bit values, as in most reference implementations; without antialiasing it is
plain bilinear sampling, like OpenCV's (DRAEM, DeSTSeg).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from jaxad.errors import UserError, did_you_mean

KINDS = ("stretch", "pad", "crop")
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MASK_INTERPOLATIONS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


class Box(NamedTuple):
    """The part of the network's input that the photograph covers, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Geometry:
    """How a photograph becomes the network's input.

    Attributes:
      kind: stretch, pad or crop.
      size: (height, width) of the network's input.
      resize: crop only: length of the shorter side before the crop.
      interpolation: of images; bilinear or bicubic (CLIP).
      mask_interpolation: nearest, or bilinear and then value >= 128 of 255 (ADer's evaluation). Thin defects can
        vanish with either.
      antialias: whether shrinking averages over the pixels that plain interpolation would skip.
      fill: grey value of the padding, before normalisation.
    """

    kind: Literal["stretch", "pad", "crop"] = "stretch"
    size: tuple[int, int] = (256, 256)
    resize: int = 256
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mask_interpolation: Literal["nearest", "bilinear"] = "nearest"
    antialias: bool = True
    fill: int = 0

    def __post_init__(self):
        for field, value, known in (
            ("geometry", self.kind, KINDS),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("mask_interpolation", self.mask_interpolation, MASK_INTERPOLATIONS),
        ):
            if value not in known:
                expected = f"expected one of {', '.join(known)}.{did_you_mean(value, known)}"
                raise UserError(f"config.input.{field} is {value!r}; {expected}")
        if not self.antialias and self.interpolation != "bilinear":
            raise UserError(
                f"config.input.interpolation is {self.interpolation!r}; expected bilinear where config.input.antialias "
                "is False"
            )
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"config.input.size is {self.size}; expected (height, width) in pixels, both at least 1")
        if self.kind == "crop" and self.resize < max(self.size):
            raise UserError(
                f"config.input.resize is {self.resize}, smaller than the crop config.input.size {self.size}; "
                f"expected at least {max(self.size)}"
            )

    def apply(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "height width 3"], Box]:
        """The network's input, 0..255, and the part of it that the photograph covers."""
        resampling = INTERPOLATIONS[self.interpolation] if self.antialias else None
        canvas = self._transform(Image.fromarray(image), resampling, self.fill)
        return canvas, self.box(image.shape[:2])

    def apply_mask(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "height width"]:
        """The mask at the network's size; False on padding."""
        grey = Image.fromarray(mask.astype(np.uint8) * 255)
        plain = self.mask_interpolation == "bilinear" and not self.antialias
        return self._transform(grey, None if plain else MASK_INTERPOLATIONS[self.mask_interpolation], 0) >= 128

    def box(self, original_size: tuple[int, int]) -> Box:
        """Where the image of `original_size` (height, width) lies on the network's input."""
        height, width = self.size
        if self.kind != "pad":
            return Box(0, 0, height, width)
        new_height, new_width = self._resized(original_size)
        return Box((height - new_height) // 2, (width - new_width) // 2, new_height, new_width)

    def valid(self, box: Box) -> Bool[np.ndarray, "height width"]:
        """False on padding, which no metric counts."""
        valid = np.zeros(self.size, bool)
        valid[box.top : box.top + box.height, box.left : box.left + box.width] = True
        return valid

    def restore(
        self, anomaly_map: Float[np.ndarray, "height width"], original_size: tuple[int, int]
    ) -> Float[np.ndarray, "h w"]:
        """The map at the photograph's size (height, width), bilinear; NaN outside a crop, which was never looked at."""
        top, left, height, width = self.box(original_size)
        inside = np.asarray(anomaly_map, np.float32)[top : top + height, left : left + width]
        if self.kind != "crop":
            return _resize_float(inside, original_size)
        resized = self._resized(original_size)
        start = [_crop_start(r, s) for r, s in zip(resized, self.size, strict=True)]
        scale = [o / r for o, r in zip(original_size, resized, strict=True)]
        y0, x0 = (min(round(a * s), o - 1) for a, s, o in zip(start, scale, original_size, strict=True))
        y1, x1 = (round((a + n) * s) for a, n, s in zip(start, self.size, scale, strict=True))
        y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)  # a crop may be narrower than a pixel of the photograph
        whole = np.full(original_size, np.nan, np.float32)
        whole[y0:y1, x0:x1] = _resize_float(inside, (y1 - y0, x1 - x0))
        return whole

    def _resized(self, original_size: tuple[int, int]) -> tuple[int, int]:
        """Size of the whole photograph after resizing, before padding or cropping."""
        height, width = original_size
        if self.kind == "stretch":
            return self.size
        if self.kind == "pad":
            scale = min(self.size[0] / height, self.size[1] / width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        # torchvision's Resize(int) truncates the longer side
        if height <= width:
            return self.resize, int(self.resize * width / height)
        return int(self.resize * height / width), self.resize

    def _transform(self, image: Image.Image, resampling: Image.Resampling | None, fill: int) -> np.ndarray:
        height, width = self._resized((image.height, image.width))
        if resampling is None:
            resized = sampled(np.asarray(image), (height, width))
        else:
            resized = np.asarray(image.resize((width, height), resampling))
        if self.kind == "stretch":
            return resized
        if self.kind == "pad":
            top, left, *_ = self.box((image.height, image.width))
            canvas = np.full((*self.size, *resized.shape[2:]), fill, np.uint8)
            canvas[top : top + height, left : left + width] = resized
            return canvas
        top, left = _crop_start(height, self.size[0]), _crop_start(width, self.size[1])
        return resized[top : top + self.size[0], left : left + self.size[1]]


def from_config(input_config) -> Geometry:
    """The geometry that `config.input` describes."""
    return Geometry(
        kind=input_config.geometry,
        size=tuple(input_config.size),
        resize=input_config.resize,
        interpolation=input_config.interpolation,
        mask_interpolation=input_config.mask_interpolation,
        antialias=input_config.antialias,
    )


def sampled(image: UInt8[np.ndarray, "h w *c"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width *c"]:
    """Bilinear samples at the centres of the new pixels, borders repeated, without antialiasing.

    OpenCV's `resize` computes them in fixed point, so values may differ by 1.
    """
    values = image.astype(np.float32)
    for axis, (length, count) in enumerate(zip(image.shape, size, strict=False)):
        place = np.clip((np.arange(count) + 0.5) * (length / count) - 0.5, 0, length - 1).astype(np.float32)
        low = place.astype(int)
        share = (place - low).reshape((-1,) + (1,) * (values.ndim - 1 - axis))
        high = np.minimum(low + 1, length - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return np.floor(values + 0.5).astype(np.uint8)


def _crop_start(length: int, crop: int) -> int:
    return round((length - crop) / 2)  # to even at .5, as torchvision's CenterCrop


def _resize_float(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR))
