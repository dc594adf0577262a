"""What a camera does to the light of a scene: sRGB, motion during the exposure, distance, sensor noise.

Images are float32 (h, w, c) of linear light, 0 black and 1 white, unless sRGB is stated.
"""

import math

import numpy as np
import scipy.fft
from jaxtyping import Float, UInt8
from PIL import Image

_SRGB_LEVELS = np.arange(256, dtype=np.float32) / 255


def to_linear(image: Float[np.ndarray, "*shape"] | UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Linear light 0..1, proportional to the scene's, from sRGB values 0..1, or 0..255 as uint8 (IEC 61966-2-1)."""
    if image.dtype == np.uint8:
        return _decode(_SRGB_LEVELS)[image]
    return _decode(np.asarray(image, np.float32))


def _decode(values: np.ndarray) -> np.ndarray:
    return np.where(
        values <= 0.04045, values * np.float32(1 / 12.92), ((np.maximum(values, 0) + 0.055) / 1.055) ** np.float32(2.4)
    )


def to_srgb(light: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """sRGB values 0..1 of linear light; light outside 0..1 is clipped, as a sensor's wells are."""
    light = np.clip(np.asarray(light, np.float32), 0, 1)
    return np.where(light <= 0.0031308, light * np.float32(12.92), 1.055 * light ** np.float32(1 / 2.4) - 0.055)


def linear_motion(image: Float[np.ndarray, "h w c"], length: float, angle: float) -> Float[np.ndarray, "h w c"]:
    """The mean over an exposure in which the scene moves along a straight line.

    Args:
      image: linear light; beyond its border it is mirrored.
      length: distance in pixels, centred on where the scene is in `image`; fractions count.
      angle: direction in degrees, counter-clockwise from the direction of the rows.
    """
    height, width = image.shape[:2]
    kernel = _line(length, angle)
    reach = len(kernel) // 2
    padded = np.pad(image.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    size = [scipy.fft.next_fast_len(n + len(kernel) - 1, real=True) for n in padded.shape[:2]]
    weights = np.asarray(scipy.fft.rfft2(kernel, size))[..., None]
    spectrum = np.asarray(scipy.fft.rfft2(padded, size, axes=(0, 1))) * weights
    blurred = np.asarray(scipy.fft.irfft2(spectrum, size, axes=(0, 1)))
    blurred = blurred[2 * reach :, 2 * reach :][:height, :width]
    return np.clip(blurred, image.min(), image.max())  # the transform has rounding errors


def _line(length: float, angle: float) -> Float[np.ndarray, "k k"]:
    """An anti-aliased line of weight 1: points along it, each shared by the four pixels around it."""
    reach = math.ceil(length / 2) + 1
    count = 4 * math.ceil(length) + 1
    along = ((np.arange(count) + 0.5) / count - 0.5) * length
    x = reach + along * math.cos(math.radians(angle))
    y = reach - along * math.sin(math.radians(angle))
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for right in (0, 1):
        for down in (0, 1):
            weight = np.abs(1 - right - (x - column)) * np.abs(1 - down - (y - row)) / count
            np.add.at(kernel, (row + down, column + right), weight)
    return kernel


def rotational_motion(
    image: Float[np.ndarray, "h w c"], degrees: float, centre: tuple[float, float] | None = None
) -> Float[np.ndarray, "h w c"]:
    """The mean over an exposure in which the scene turns.

    Args:
      image: linear light; beyond its border it is mirrored.
      degrees: the angle turned through, centred on how the scene lies in `image`.
      centre: (x, y) in pixels of the point that stays where it is; None is the image's middle.
    """
    height, width = image.shape[:2]
    x, y = ((width - 1) / 2, (height - 1) / 2) if centre is None else centre
    farthest = math.hypot(max(x, width - 1 - x), max(y, height - 1 - y))
    way = farthest * math.radians(abs(degrees))
    if way < 0.1:
        return image.astype(np.float32)
    doublings = max(1, math.ceil(math.log2(way / 1.5)))  # at most 1.5 pixels between the exposures that are averaged
    step = degrees / 2**doublings
    border = math.ceil(way) + 2
    blurred = np.pad(image.astype(np.float32), ((border, border), (border, border), (0, 0)), mode="symmetric")
    centre = (x + border, y + border)
    blurred = _turn(blurred, (step - degrees) / 2, centre)
    for _ in range(doublings):  # 2, 4, 8 ... exposures
        blurred = (blurred + _turn(blurred, step, centre)) / 2
        step *= 2
    return blurred[border:-border, border:-border]


def _turn(image: np.ndarray, degrees: float, centre: tuple[float, float]) -> np.ndarray:
    x, y = centre[0] + 0.5, centre[1] + 0.5  # Pillow counts from the corner of the first pixel
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)

    def turned(plane: Image.Image) -> Image.Image:
        return plane.transform(plane.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    return planes(image, turned)


def planes(image: np.ndarray, change) -> np.ndarray:
    """The image with `change` applied to each channel, as a Pillow image of floats."""
    image = image.astype(np.float32, copy=False)
    planes = [np.asarray(change(Image.fromarray(image[..., c]))) for c in range(image.shape[-1])]
    return np.stack(planes, axis=-1)


def resample(image: Float[np.ndarray, "h w c"], factor: float) -> Float[np.ndarray, "h_small w_small c"]:
    """The scene from `factor` times the distance: each new pixel is the mean of the area that it sees.

    The result is smaller: each side is divided by the factor and rounded, to at least 1 pixel; `enlarge` restores the
    size, but not the detail.

    Args:
      image: linear light.
      factor: at least 1.
    """
    size = [max(1, round(n / factor)) for n in image.shape[1::-1]]
    return planes(image, lambda plane: plane.resize(size, Image.Resampling.BOX))


def enlarge(image: Float[np.ndarray, "h_small w_small c"], size: tuple[int, int]) -> Float[np.ndarray, "h w c"]:
    """Bicubic interpolation to `size` = (height, width), kept within the image's own range."""
    large = planes(image, lambda plane: plane.resize(size[::-1], Image.Resampling.BICUBIC))
    return np.clip(large, image.min(), image.max())


def sensor_noise(
    image: Float[np.ndarray, "h w c"], rng: np.random.Generator, electrons: float, read_noise: float
) -> Float[np.ndarray, "h w c"]:
    """Shot noise of the light and read noise of the electronics, independent in every pixel and channel.

    Shot noise is a Poisson number of electrons, taken as normal: this holds for more than about ten electrons, and for
    fewer, read noise covers the difference.

    Args:
      image: linear light, 0..1.
      rng: where the noise comes from.
      electrons: number that light 1 frees in a pixel.
      read_noise: standard deviation in electrons.

    Returns:
      Linear light, which may lie outside 0..1.
    """
    deviation = np.sqrt(np.maximum(image, 0) / electrons + (read_noise / electrons) ** 2, dtype=np.float32)
    return image + deviation * rng.standard_normal(image.shape, np.float32)
