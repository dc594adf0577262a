"""Imaging heterogeneity: the photographs of any data set as other cameras, places and moments would have taken them.

The factors are those in which the photographs of MIRAD (arXiv:2510.16370) differ from node to node; the amounts below
are ours, chosen by eye: severity 1 is seen only beside the original, and at 5 a photograph still shows what it showed.
Lengths are shares of the longer side, so that they mean the same on photographs of 200 and of 2000 pixels. There are
two exceptions: JPEG, whose blocks have 8 pixels, and a loss of resolution, which a network notices only where less is
left than its input holds.

| severity | | 1 | 2 | 3 | 4 | 5 |
| --- | --- | --- | --- | --- | --- | --- |
| background | share of the new material | 0.2 | 0.4 | 0.6 | 0.8 | 1 |
| view | tilt, degrees | 5 | 10 | 16 | 23 | 30 |
| | turn in the plane, degrees, at most | 3 | 6 | 10 | 15 | 20 |
| | shift | 0.01 | 0.02 | 0.03 | 0.045 | 0.06 |
| illumination | exposure, stops brighter or darker | 0.15 | 0.3 | 0.45 | 0.65 | 0.9 |
| | key light from side to side, stops | 0.4 | 0.8 | 1.2 | 1.7 | 2.2 |
| | its colour, mired warmer or colder | 12 | 25 | 45 | 70 | 100 |
| | share of ambient light | 0.8 | 0.65 | 0.5 | 0.4 | 0.3 |
| | depth of a soft shadow in the key light | 0 | 0 | 0 | 0.5 | 0.8 |
| resolution | distance, times the original's | 1.25 | 1.5 | 2 | 2.5 | 3 |
| motion | distance moved | 0.004 | 0.008 | 0.012 | 0.02 | 0.03 |
| | and / or turn, degrees | 0.4 | 0.8 | 1.3 | 2 | 3 |
| noise | electrons of white, in pixels of 1 / 600 | 8000 | 3500 | 1600 | 800 | 400 |
| | read noise, electrons, likewise | 3 | 4 | 4 | 5 | 5 |
| | JPEG quality | 92 | 85 | 75 | 62 | 50 |

MIRAD's three distances (600, 300 and 200 pixels for the same object) are the original and severities 3 and 5 of
`resolution`. Severity sets amounts only: directions, materials and noise are drawn from the image's name, and so stay
the same from one severity to the next. Photographs of monochrome cameras (equal channels) stay grey.
"""

import io
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from jaxad.errors import UserError, did_you_mean
from jaxad.imaging import noise as fields
from jaxad.imaging.optics import (
    enlarge,
    linear_motion,
    planes,
    resample,
    rotational_motion,
    sensor_noise,
    to_linear,
    to_srgb,
)

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One imaging factor, changed.

    Attributes:
      kind: one of `KINDS`.
      severity: 1 (slight) to 5; the module's table has the amounts.

    Raises:
      UserError: there is no such kind or severity.
    """

    kind: str
    severity: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(
                f"config.evaluation.corruptions: there is no corruption {self.kind!r}; "
                f"expected some of {', '.join(KINDS)}.{did_you_mean(self.kind, KINDS)}"
            )
        if self.severity not in SEVERITIES:
            raise UserError(
                f"config.evaluation.corruptions: the severity of {self.kind} is {self.severity}; expected 1 to 5"
            )


def parse(text: str) -> tuple[Corruption, ...]:
    """The corruptions that a text like "motion:3+noise:1" names, in the order in which they are applied.

    An empty text names none.

    Raises:
      UserError: anything but KIND:SEVERITY joined by "+", an unknown kind, a severity outside 1..5, or a kind twice.
    """
    corruptions: dict[str, Corruption] = {}
    for part in text.split("+") if text.strip() else ():
        kind, _, severity = (piece.strip() for piece in part.partition(":"))
        if kind in KINDS and not severity.removeprefix("-").isdecimal():
            raise UserError(
                f"config.evaluation.corruptions is {text!r}: {part.strip()!r} has no severity; "
                f"expected KIND:SEVERITY joined by +, for example {kind}:3"
            )
        if not kind:
            raise UserError(
                f"config.evaluation.corruptions is {text!r}: it has a corruption without a name; "
                "expected KIND:SEVERITY joined by +, for example motion:3+noise:1"
            )
        if kind in corruptions:
            raise UserError(f"config.evaluation.corruptions is {text!r}: it has {kind} twice; leave one out")
        corruptions[kind] = Corruption(kind, int(severity) if re.fullmatch(r"\d{1,3}", severity) else 0)
    return tuple(corruptions[kind] for kind in KINDS if kind in corruptions)


def apply(
    corruptions: tuple[Corruption, ...],
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    image_id: str,
    seed: int = 0,
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """A photograph and its mask with the corruptions, at their original size.

    Whatever their order, they are applied along the path of the light: background, view, illumination, resolution,
    motion, noise. Only `view` changes the mask. What is drawn at random depends on the seed, the kind and `image_id`
    only: it is the same in every run and process, and whatever other corruptions there are.

    Args:
      image: sRGB.
      mask: the defect's pixels.
      image_id: the photograph's name in its data set.
      seed: another seed gives another draw of everything.
    """
    if not corruptions:
        return image, mask
    grey = bool((image == image[..., :1]).all())
    light = to_linear(image[..., :1] if grey else image)
    severities = {corruption.kind: corruption.severity for corruption in corruptions}
    for kind, change in KINDS.items():
        if kind in severities:
            rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), zlib.crc32(image_id.encode())])
            light, mask = change(light, mask, severities[kind], rng)
    changed = _to_bytes(light)
    return (np.repeat(changed, 3, axis=-1) if grey else changed), mask


def _to_bytes(light: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    return np.round(to_srgb(light) * 255).astype(np.uint8)


def _background(light: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator):
    """Another material under the object, in the light and shadow of the first; defects that can be seen stay.

    Photographs in which no object lies on a background that reaches the border (textures, parts that fill the frame,
    clutter) stay as they are, and so do most of those whose background cannot be told from the object with certainty.
    A part of the object that has exactly the background's colour is painted over with it. Within the defect's mask the
    new material shows where the old one did, which is where a part is missing.
    """
    share = (0.2, 0.4, 0.6, 0.8, 1.0)[severity - 1]
    material = list(_MATERIALS.values())[rng.integers(len(_MATERIALS))]
    height, width = light.shape[:2]
    small = resample(light, max(1, max(height, width) / 320))
    defect = resample(mask[..., None], max(1, max(height, width) / 320))[..., 0] > 0
    found = _behind_object(np.sqrt(small), defect)
    if found is None:
        return light, mask
    background, plain = found
    brightness = small.mean(axis=-1)
    sigma = 0.015 * max(brightness.shape)
    weight = ndimage.gaussian_filter(plain, sigma)
    shading = ndimage.gaussian_filter(brightness * plain, sigma) / np.maximum(weight, 1e-3)
    white = np.percentile(brightness, 99)
    dim = 0.01 * white + 1e-6  # what is darker says nothing about the light
    shading = np.where(weight > 1e-2, (shading + dim) / (np.median(shading[background]) + dim), 1)
    over_fringe = _dilated(background, 1).astype(np.float32)  # pixels that are half object, half old background
    cover = np.clip(2 * ndimage.gaussian_filter(over_fringe, 1), 0, 1) * (background | ~defect)
    maps = enlarge(np.stack([shading, cover], axis=-1), (height, width))
    opacity = share * np.clip(maps[..., 1:], 0, 1)
    new = material(rng, (height, width)) * white * maps[..., :1]
    if light.shape[-1] == 1:
        new = new @ _LUMINANCE[:, None]
    return light + opacity * (new - light), mask


_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def _behind_object(
    image: Float[np.ndarray, "h w c"], defect: Bool[np.ndarray, "h w"]
) -> tuple[Bool[np.ndarray, "h w"], Float[np.ndarray, "h w"]] | None:
    """The background of a photographed object: what is connected to the border and looks like it.

    The border's colours are modelled as a plane over the image (light falls off) with a normal distribution around it,
    both fitted without the least likely third; Otsu's threshold divides all pixels by their Mahalanobis distance from
    it. Shadows belong to the background; defects that look different do not.

    Args:
      image: with values in proportion to what the eye sees rather than to light.
      defect: what is not to be taken for background.

    Returns:
      The background, and to what degree each of its pixels has its plain colour, 0..1. None where there is no such
      background or it is doubtful: where it takes up less than 0.7 of the border, is nowhere wide, fades into the rest
      without an edge, is not clearly of another colour, or has patches, or shadows that may as well be parts of the
      object.
    """
    height, width = image.shape[:2]
    if min(height, width) < 16:
        return None
    image = ndimage.gaussian_filter(image, (1, 1, 0))
    border = np.ones((height, width), bool)
    band = max(1, round(0.03 * max(height, width)))
    border[band:-band, band:-band] = False
    unlike, unlike_shaded = _distance(image, border)
    certain = _surrounded(unlike_shaded > _otsu(unlike_shaded), border)
    with_shadows = _surrounded(unlike > _otsu(unlike), border)
    usual = max(1.0, float(np.median(unlike_shaded[~(certain | with_shadows)])))
    thing = _touching(certain | (unlike_shaded > 4 * usual), certain)  # with the rings and cords that hang on it
    defective = ndimage.binary_opening(defect & (unlike > 5 * usual))
    background = ~_dilated(thing | defective, 1)
    if background[border].mean() < 0.7 or not 0.03 < thing.mean() < 0.9:
        return None
    inner = thing > ndimage.binary_erosion(thing, iterations=3, border_value=1)
    outer = background & _dilated(thing, 4)
    near, far = ([np.median(unlike_shaded[a]) for a in b] for b in ((outer, inner), (background, thing)))
    sharp = np.diff(np.log1p(near))[0] > 0.5 * np.diff(np.log1p(far))[0]  # light that falls off has no edge
    distinct = far[1] > 6 * far[0]
    wide = ndimage.minimum_filter(background, 2 * round(0.03 * max(height, width)) + 1).mean() > 0.08  # not a gap
    patchy = ndimage.binary_opening(background & (unlike_shaded > 4 * usual)).sum() > 0.5 * certain.sum()
    doubtful = (with_shadows & background).sum() + (thing & ~_dilated(certain, 3)).sum() > 0.15 * certain.sum()
    if not (sharp and distinct and wide) or patchy or doubtful:
        return None
    plain = 1 / (1 + (unlike_shaded / (3 * usual + 1e-3)) ** 4)
    return background, plain * ndimage.binary_erosion(background, iterations=2, border_value=1)


def _distance(
    image: Float[np.ndarray, "h w c"], border: Bool[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Mahalanobis distance of every pixel from the border's most likely two thirds, and the same but for shadow.

    Their colour is a plane over the image, as light falls off; a shadow is the same colour, darker.
    """
    height, width, channels = image.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    plane = np.stack([np.ones_like(x), x, y], axis=-1)
    at, values = plane[border], image[border]
    likely = np.ones(len(at), bool)
    for _ in range(3):
        colour = np.linalg.lstsq(at[likely], values[likely], rcond=None)[0]
        residual = values - at @ colour
        covariance = np.cov(residual[likely], rowvar=False).reshape(channels, channels) + 1e-4 * np.eye(channels)
        distance = np.linalg.norm(residual @ _whitening(covariance), axis=-1)
        likely = distance <= np.quantile(distance, 2 / 3)
    residual = image - plane @ colour
    unlike = np.linalg.norm(residual @ _whitening(covariance), axis=-1)
    if channels == 1:  # where nothing tells a shadow from a darker thing
        return unlike, unlike
    shadows = _whitening(covariance + 0.2**2 * np.outer(colour[0], colour[0]))
    darker = residual @ colour[0] < 0
    return unlike, np.where(darker, np.linalg.norm(residual @ shadows, axis=-1), unlike)


def _whitening(covariance: Float[np.ndarray, "c c"]) -> Float[np.ndarray, "c c"]:
    return np.linalg.cholesky(np.linalg.inv(covariance)).astype(np.float32)


def _dilated(mask: Bool[np.ndarray, "h w"], pixels: int) -> Bool[np.ndarray, "h w"]:
    return np.asarray(ndimage.binary_dilation(mask, iterations=pixels))


def _surrounded(unlike: Bool[np.ndarray, "h w"], border: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """What pixels like the border's surround, with its thin parts but without specks."""
    surrounded = ~_touching(~unlike, border)
    return _touching(surrounded, ndimage.binary_opening(surrounded, iterations=2))


def _touching(mask: Bool[np.ndarray, "h w"], seeds: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask's connected parts that contain a seed."""
    parts = np.zeros(mask.shape, np.int32)
    number = ndimage.label(mask, output=parts)
    chosen = np.zeros(int(number) + 1, bool)  # type: ignore[arg-type]
    chosen[parts[seeds]] = True
    chosen[0] = False
    return chosen[parts]


def _otsu(values: np.ndarray) -> float:
    """The threshold that makes the two classes' means differ most, weighted by their sizes (Otsu, 1979)."""
    values = np.minimum(values, np.quantile(values, 0.98))
    counts, edges = np.histogram(values, 128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total = np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1:][np.nanargmax(np.where(above > 0, between, -1))])


def _view(light: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator):
    """The camera elsewhere: the scene's plane tilted, turned and shifted; beyond the border it is mirrored."""
    tilt, turn, shift = ((5, 3, 0.01), (10, 6, 0.02), (16, 10, 0.03), (23, 15, 0.045), (30, 20, 0.06))[severity - 1]
    axis, way = rng.uniform(0, 2 * math.pi, 2)
    turn *= rng.choice((-1, 1)) * rng.uniform(0.5, 1)
    height, width = mask.shape
    to_source = np.linalg.inv(_homography(math.radians(tilt), axis, math.radians(turn), (shift, way)))
    frame = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]) @ np.diag([max(height, width)] * 2 + [1])
    to_source = frame @ to_source @ np.linalg.inv(frame)
    corners = to_source @ np.array([[0, width, width, 0], [0, 0, height, height], [1, 1, 1, 1]])
    x, y = corners[:2] / corners[2]
    left, right = math.ceil(max(0, -x.min())) + 2, math.ceil(max(0, x.max() - width)) + 2
    top, bottom = math.ceil(max(0, -y.min())) + 2, math.ceil(max(0, y.max() - height)) + 2
    to_source = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]]) @ to_source
    numbers = (to_source / to_source[2, 2]).ravel()[:8].tolist()
    margins = ((top, bottom), (left, right))

    def warp(plane: Image.Image, filter: Image.Resampling) -> Image.Image:
        return plane.transform((width, height), Image.Transform.PERSPECTIVE, numbers, filter)

    warped = planes(
        np.pad(light, (*margins, (0, 0)), mode="symmetric"), lambda plane: warp(plane, Image.Resampling.BICUBIC)
    )
    flat = Image.fromarray(np.pad(mask, margins, mode="symmetric").astype(np.uint8))
    return np.clip(warped, light.min(), light.max()), np.asarray(warp(flat, Image.Resampling.NEAREST)) > 0


_FOCAL_LENGTH = 3.0  # of the camera, in longer sides of the image: between a phone's 1 and the 8 of MIRAD's lens


def _homography(tilt: float, axis: float, turn: float, shift: tuple[float, float]) -> Float[np.ndarray, "3 3"]:
    """The map from a point in the scene's plane to the image, both in longer sides from the image's middle.

    Args:
      tilt, axis: by how many radians the plane tips, and where its hinge points (radians).
      turn: by how many radians it turns about the camera's axis.
      shift: how far and in which direction (radians) the image then moves.
    """
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    hinge = np.array([[math.cos(axis), -math.sin(axis)], [math.sin(axis), math.cos(axis)]])
    tipped = hinge @ np.diag([1, math.cos(tilt)]) @ hinge.T @ turned
    depth = math.sin(tilt) * hinge[:, 1] @ turned
    moved = np.eye(3)
    moved[:2, 2] = shift[0] * math.cos(shift[1]), shift[0] * math.sin(shift[1])
    projected = np.zeros((3, 3))
    projected[:2, :2] = _FOCAL_LENGTH * tipped
    projected[2] = *depth, _FOCAL_LENGTH
    return moved @ projected


def _illumination(light: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator):
    """A key light from one side with its own colour and perhaps a shadow, ambient light, another exposure."""
    stops, fall, mired, ambient, depth = (
        (0.15, 0.4, 12, 0.8, 0),
        (0.3, 0.8, 25, 0.65, 0),
        (0.45, 1.2, 45, 0.5, 0),
        (0.65, 1.7, 70, 0.4, 0.5),
        (0.9, 2.2, 100, 0.3, 0.8),
    )[severity - 1]
    towards_key, across_shadow = rng.uniform(0, 2 * math.pi, 2)
    brighter, warmer = rng.choice((-1, 1), 2)
    edge, softness = rng.uniform(0, 0.25), rng.uniform(0.05, 0.15)
    height, width = mask.shape
    y = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) / max(height, width))[:, None]
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / max(height, width)
    key = 2 ** (fall * (x * math.cos(towards_key) + y * math.sin(towards_key)))
    into_shadow = (x * math.cos(across_shadow) + y * math.sin(across_shadow) - edge) / softness
    key *= 1 - depth * _smoothstep(into_shadow / 2 + 0.5)
    colour = _blackbody(warmer * mired) if light.shape[-1] == 3 else np.ones(1, np.float32)
    return light * np.float32(2 ** (brighter * stops)) * (ambient + (1 - ambient) * key[..., None] * colour), mask


def _smoothstep(values: np.ndarray) -> np.ndarray:
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)


def _blackbody(mired: float) -> Float[np.ndarray, "3"]:
    """Red, green and blue of a lamp `mired` warmer than daylight of 5500 K, green 1: Wien's law at 610, 550, 465 nm."""
    wavelengths = np.array([610e-9, 550e-9, 465e-9])
    exponent = -1.4388e-2 / wavelengths * mired * 1e-6
    return np.exp(exponent - exponent[1]).astype(np.float32)


def _resolution(light: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator):
    """The camera farther away, and its image enlarged to the original size: detail is lost, the mask still fits."""
    return enlarge(resample(light, (1.25, 1.5, 2, 2.5, 3)[severity - 1]), mask.shape), mask


def _motion(light: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator):
    """The scene moves along a line, turns about a point near the middle, or both, then each by 0.7 of the amount."""
    way, turn = ((0.004, 0.4), (0.008, 0.8), (0.012, 1.3), (0.02, 2), (0.03, 3))[severity - 1]
    movement = rng.choice(("linear", "rotational", "both"))
    angle = rng.uniform(0, 360)
    height, width = mask.shape
    centre = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65)
    part = 0.7 if movement == "both" else 1
    if movement != "rotational":
        light = linear_motion(light, part * way * max(height, width), angle)
    if movement != "linear":
        light = rotational_motion(light, part * turn, centre)
    return light, mask


def _noise(light: np.ndarray, mask: np.ndarray, severity: int, rng: np.random.Generator):
    """Less light on the sensor, and the camera's JPEG.

    On a sensor of one size, a photograph with more pixels has smaller ones, and each of them gets less light.
    """
    electrons, read_noise, quality = ((8000, 3, 92), (3500, 4, 85), (1600, 4, 75), (800, 5, 62), (400, 5, 50))[
        severity - 1
    ]
    pitch = 600 / max(mask.shape)
    noisy = _to_bytes(sensor_noise(light, rng, electrons * pitch**2, read_noise * pitch))
    file = io.BytesIO()
    Image.fromarray(noisy if noisy.shape[-1] == 3 else noisy[..., 0]).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file))
    return to_linear(decoded.reshape(light.shape)), mask


KINDS: dict[str, Callable] = {
    "background": _background,
    "view": _view,
    "illumination": _illumination,
    "resolution": _resolution,
    "motion": _motion,
    "noise": _noise,
}
"""What can be changed, in order along the path of the light from the scene to the file."""


# Materials: linear RGB reflectance (h, w, 3). Their grain is drawn for an image 60 mm wide, as MIRAD's are.


def _paper(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    fibres = fields.lattice(rng, shape, (90, 90), octaves=2, gain=0.8)
    return _tinted((0.78, 0.77, 0.74), 1 + 0.018 * fibres)


def _wood(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    rings = fields.lattice(rng, shape, (9, 2), octaves=2)
    grain = fields.lattice(rng, shape, (150, 4), octaves=2)
    dark = 0.5 + 0.5 * np.sin(2.5 * rings + 0.25 * grain)
    tone = np.array((0.42, 0.24, 0.11), np.float32), np.array((0.25, 0.12, 0.045), np.float32)
    return (tone[0] + (tone[1] - tone[0]) * dark[..., None]) * (1 + 0.1 * grain[..., None])


def _belt(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    y, x = np.mgrid[0 : 60 : shape[0] * 1j, 0 : 60 : shape[1] * 1j].astype(np.float32)
    weave = np.sin(2 * np.pi * x / 1.2) * np.sin(2 * np.pi * y / 1.2)
    return _tinted((0.045, 0.055, 0.06), 1 + 0.25 * weave + 0.12 * fields.lattice(rng, shape, (40, 40), octaves=2))


def _metal(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    brushed = fields.lattice(rng, shape, (300, 3), octaves=1)
    sheen = fields.lattice(rng, shape, (2, 2))
    return _tinted((0.44, 0.45, 0.46), 1 + 0.06 * brushed + 0.1 * sheen)


def _mat(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    y, x = np.mgrid[0 : 60 : shape[0] * 1j, 0 : 60 : shape[1] * 1j].astype(np.float32)
    x, y = ((way + rng.uniform(0, 10)) % 10 - 5 for way in (x, y))
    lines = np.exp(-(np.minimum(np.abs(x), np.abs(y)) ** 2) / 0.03)
    surface = 1 + 0.05 * fields.lattice(rng, shape, (70, 70), octaves=2, gain=0.8)
    return _tinted((0.035, 0.16, 0.11), surface) + 0.25 * lines[..., None]


def _tinted(colour: tuple[float, float, float], brightness: np.ndarray) -> np.ndarray:
    return np.array(colour, np.float32) * brightness[..., None].astype(np.float32)


_MATERIALS = {"paper": _paper, "wood": _wood, "belt": _belt, "metal": _metal, "mat": _mat}
