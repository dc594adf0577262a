"""Photographs of products, with exact masks: the scene's light through the lens onto the sensor.

Motion, blur, noise and white balance act on linear light, in the order in which a camera meets them; the tone curve and
sRGB come last.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from datasets_tfds.mirad_mini.imaging import Imaging
from datasets_tfds.mirad_mini.layout import FIELD_MM, Placement
from datasets_tfds.mirad_mini.scene import compose
from datasets_tfds.mirad_mini.shading import PIXELS, photograph, temperature_colour
from datasets_tfds.mirad_mini.surface import Surface
from jaxad.imaging.optics import linear_motion, resample, rotational_motion, sensor_noise, to_srgb

# A pixel is defective if a quarter of its area shows a defect: a larger share would lose defects thinner than a pixel.
DEFECTIVE_SHARE = 0.25


def render(
    surfaces: Sequence[Surface], placements: Sequence[Placement], imaging: Imaging, seed: int
) -> tuple[UInt8[np.ndarray, "r r 3"], Bool[np.ndarray, "r r"]]:
    """Photographs products on a table.

    The same surfaces, placements and seed are the same scene: two photographs of it differ by `imaging` only.

    The mask shows each defect where the camera sees it, on the product or, where a part is missing, on the table. Under
    motion it is the mask at the middle of the exposure, plus every pixel that sees a defect for more than half of the
    exposure. A pixel belongs to the mask if at least a quarter of its area shows a defect.

    Args:
      placements: one for each surface.
      imaging: how the scene is photographed; r is its `resolution`, which divides 600.
      seed: decides which table of the background's kind and how it lies, the fine texture of surfaces, and the sensor's
        noise.

    Returns:
      The sRGB image and the mask.
    """
    scene = compose(surfaces, placements, imaging.background, seed)
    reduction = PIXELS // imaging.resolution
    light, defect = photograph(scene, imaging, oversampling=2 if reduction == 1 else 1)
    light = _glare(light)
    light, defect = _moved(light, defect, imaging)
    if reduction > 1:
        light, defect = resample(light, reduction), resample(defect[..., None], reduction)[..., 0]
    noise = np.random.default_rng([seed, 1])
    return _developed(light, imaging, noise), defect >= DEFECTIVE_SHARE


def _glare(light: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Bright highlights scatter in the lens: a faint halo around them."""
    excess = np.maximum(light[::4, ::4] - 0.9, 0)
    if not excess.any():
        return light
    halo = np.stack([ndimage.gaussian_filter(np.minimum(excess[..., c], 6), 2.5) for c in range(3)], axis=-1)
    return light + 0.05 * halo.repeat(4, axis=0).repeat(4, axis=1)


def _moved(light: np.ndarray, defect: np.ndarray, imaging: Imaging) -> tuple[np.ndarray, np.ndarray]:
    if imaging.motion_length == 0 and imaging.motion_rotation == 0:
        return light, defect
    both = np.concatenate([light, defect[..., None]], axis=-1)
    if imaging.motion_length > 0:
        both = linear_motion(both, imaging.motion_length * PIXELS / FIELD_MM, imaging.motion_angle)
    if imaging.motion_rotation > 0:
        both = rotational_motion(both, imaging.motion_rotation)
    return both[..., :3], np.maximum(defect, both[..., 3] > 0.5)


def _developed(
    light: Float[np.ndarray, "r r 3"], imaging: Imaging, rng: np.random.Generator
) -> UInt8[np.ndarray, "r r 3"]:
    light = np.stack([ndimage.gaussian_filter(light[..., c], imaging.lens_blur, truncate=3) for c in range(3)], axis=-1)
    size = len(light)
    steps = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) ** 2
    corner = (steps[:, None] + steps[None, :]) / 2
    light = light * (imaging.exposure * (1 - imaging.vignette * corner))[..., None]
    light = np.minimum(sensor_noise(light, rng, imaging.electrons, imaging.read_noise), 1.6)
    white = temperature_colour(imaging.white_balance)
    light = light * (white[1] / white).astype(np.float32)
    return np.rint(to_srgb(_tone(light)) * 255).astype(np.uint8)


def _tone(light: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Deeper shadows, and highlights that roll off into white instead of clipping."""
    light = np.maximum(light, 0)
    light = light * (light + 0.02) / (light + 0.035)
    return np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp(-(np.maximum(light, 0.6) - 0.6) / 0.4))).astype(
        np.float32
    )
