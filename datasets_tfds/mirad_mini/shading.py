"""The camera's view of a scene: relief ray marching and shading, tile by tile.

Every sample of the picture is a ray that is marched down through the height field until it is below it (Policarpo et
al., "Real-time relief mapping on arbitrary polygonal surfaces", 2005), so that side walls, parallax and occlusion are
those of the camera's pose. What it meets is shaded with a microfacet model (Walter et al., "Microfacet models for
refraction through rough surfaces", 2007) under an area light with soft shadows, ambient light with occlusion, and a
procedural room that glossy surfaces reflect.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import ndimage

from datasets_tfds.mirad_mini.imaging import Imaging
from datasets_tfds.mirad_mini.layout import FIELD_MM
from datasets_tfds.mirad_mini.scene import COARSE, EXTENT, PITCH, SIZE, WIDE, Scene, reduced, shadow_heights

PIXELS = 600  # of the linear picture, whatever the resolution that it is reduced to
TILE = 60  # pixels along a tile's side
_TILES = PIXELS // TILE


class Maps(NamedTuple):
    """The scene on the table's grid, flattened over it for gathering."""

    height: Float[Array | np.ndarray, "size*size"]
    product: Float[Array | np.ndarray, "size*size 8"]
    table: Float[Array | np.ndarray, "size*size 7"]
    defect: Float[Array | np.ndarray, "size*size"]
    shade: Float[Array | np.ndarray, "coarse*coarse 7"]  # shadow heights in 3 directions, both bounds; near relief
    wide: Float[Array | np.ndarray, "wide*wide 5"]  # relief at two widths; products' mean albedo, by their height


class Camera(NamedTuple):
    position: Float[Array | np.ndarray, "3"]
    right: Float[Array | np.ndarray, "3"]  # one mm in the plane of the table's middle, as the picture shows it
    down: Float[Array | np.ndarray, "3"]
    forward: Float[Array | np.ndarray, "3"]
    distance: Float[Array | np.ndarray, ""]


class Light(NamedTuple):
    position: Float[Array | np.ndarray, "3"]  # mm
    direction: Float[Array | np.ndarray, "3"]  # from the table's middle to the light
    key: Float[Array | np.ndarray, "3"]  # irradiance of a surface at the middle that faces the light, linear RGB
    ambient: Float[Array | np.ndarray, "3"]  # irradiance from all around
    softness: Float[Array | np.ndarray, ""]  # tangent of the light's angular radius
    table: Float[Array | np.ndarray, "3"]  # mean radiance of the table


def photograph(scene: Scene, imaging: Imaging, oversampling: int) -> tuple[np.ndarray, np.ndarray]:
    """What arrives at the sensor from an unmoving scene.

    Args:
      oversampling: rays along each side of a pixel where there are products; 1 where there is only table.

    Returns:
      Linear radiance (600, 600, 3), and the share of each pixel's area that shows a defect (600, 600).
    """
    camera, light = _camera(imaging), _light(imaging, scene)
    maps = jax.device_put(_maps(scene, imaging))
    tops = _tops(scene, camera)
    picture = np.zeros((PIXELS, PIXELS, 4), np.float32)
    _shade_tiles(picture, maps, camera, light, np.flatnonzero(tops > 0).tolist(), tops, oversampling)
    _shade_tiles(picture, maps, camera, light, np.flatnonzero(tops <= 0).tolist(), tops, 1)
    return picture[..., :3], picture[..., 3]


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    """Unit vector towards `azimuth`, `elevation` (degrees), y downwards in the picture."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    return np.array([np.cos(a) * np.cos(e), -np.sin(a) * np.cos(e), np.sin(e)])


def _camera(imaging: Imaging) -> Camera:
    lean = _direction(imaging.heading, 0)
    aside = np.array([-lean[1], lean[0], 0])
    up = np.array([0, 0, 1.0])
    tilt, roll = np.deg2rad(imaging.tilt), np.deg2rad(imaging.roll)

    def leant(vector: np.ndarray) -> np.ndarray:
        return (vector @ lean) * (np.cos(tilt) * lean - np.sin(tilt) * up) + (vector @ aside) * aside

    right, down = leant(np.array([1.0, 0, 0])), leant(np.array([0, 1.0, 0]))
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    backward = np.sin(tilt) * lean + np.cos(tilt) * up
    position = np.array([imaging.offset_x, imaging.offset_y, 0]) + imaging.distance * backward
    vectors = (np.asarray(v, np.float32) for v in (position, right, down, -backward, imaging.distance))
    return Camera(*vectors)


_LIGHT_DISTANCE = 420.0  # mm


def _light(imaging: Imaging, scene: Scene) -> Light:
    direction = _direction(imaging.light_azimuth, imaging.light_elevation)
    flat = imaging.light_intensity * (1 - imaging.ambient_mix)
    key = flat / direction[2] * temperature_colour(imaging.light_temperature)
    ambient = imaging.light_intensity * imaging.ambient_mix * temperature_colour(imaging.ambient_temperature)
    table = scene.table[::8, ::8, :3].mean((0, 1)) * (key * direction[2] + ambient)
    softness = np.tan(np.deg2rad(imaging.light_softness))
    values = (direction * _LIGHT_DISTANCE, direction, key, ambient, softness, table)
    return Light(*(np.asarray(value, np.float32) for value in values))


def temperature_colour(kelvin: float) -> Float[np.ndarray, "3"]:
    """Linear sRGB of a black body of luminance 1 (chromaticity as Kim et al., US patent 7024034, approximate it)."""
    t = 1e3 / kelvin
    if kelvin <= 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin <= 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin <= 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    xyz = np.array([x / y, 1.0, (1 - x - y) / y])
    return np.maximum(_XYZ_TO_SRGB @ xyz, 0.02)


_XYZ_TO_SRGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)


def _maps(scene: Scene, imaging: Imaging) -> Maps:
    coarse, wide = reduced(scene.height, COARSE), reduced(scene.height, WIDE)
    pitch = PITCH * COARSE
    shade = []
    spread = imaging.light_softness / max(np.cos(np.deg2rad(imaging.light_elevation)), 0.3)
    for turn in (-0.7 * spread, 0.0, 0.7 * spread):
        for lift in (imaging.light_softness, -imaging.light_softness):
            elevation = float(np.clip(imaging.light_elevation + lift, 8, 86))
            shade.append(shadow_heights(coarse, pitch, imaging.light_azimuth + turn, elevation))
    shade.append(_blurred(coarse, 0.5 / pitch))
    colour = reduced(scene.product[..., :3] * scene.product[..., 7:], WIDE) * np.minimum(wide, 4)[..., None]
    relief = [_blurred(wide, 1.6 / (PITCH * WIDE)), _blurred(wide, 5.0 / (PITCH * WIDE))]
    relief += [_blurred(colour[..., c], 3.0 / (PITCH * WIDE)) for c in range(3)]
    return Maps(
        scene.height.reshape(-1),
        scene.product.reshape(-1, 8),
        scene.table.reshape(-1, 7),
        scene.defect.reshape(-1).astype(np.float32),
        np.stack(shade, axis=-1).reshape(-1, 7),
        np.stack(relief, axis=-1).reshape(-1, 5),
    )


def _blurred(field: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(field, sigma, truncate=2.5)


def _tops(scene: Scene, camera: Camera) -> Float[np.ndarray, "tiles*tiles"]:
    """The greatest height (mm) that any ray of each tile may meet; 0 where there is only table."""
    block = 8
    small = SIZE // block
    blocks = scene.height.reshape(small, block, small, block).max((1, 3))
    top = float(blocks.max())
    edges = np.linspace(-FIELD_MM / 2, FIELD_MM / 2, _TILES + 1)
    u, v = np.meshgrid(edges, edges)
    rays = camera.distance * camera.forward + u[..., None] * camera.right + v[..., None] * camera.down
    ground = camera.position + rays * (camera.position[2] / -rays[..., 2:])
    above = ground + (camera.position - ground) * (top / camera.position[2])
    corners = np.stack([ground, above])[..., :2] + EXTENT / 2
    corners = np.stack([corners[:, :-1, :-1], corners[:, 1:, :-1], corners[:, :-1, 1:], corners[:, 1:, 1:]])
    low = np.clip((corners.min((0, 1)) / PITCH - 2) // block, 0, small - 1).astype(int)
    high = np.clip((corners.max((0, 1)) / PITCH + 2) // block, 0, small - 1).astype(int)
    tops = [
        blocks[y0 : y1 + 1, x0 : x1 + 1].max()
        for (x0, y0), (x1, y1) in zip(low.reshape(-1, 2), high.reshape(-1, 2), strict=True)
    ]
    return np.array(tops, np.float32)


class Hits(NamedTuple):
    """What the rays of a tile have met: places (mm), and the maps there, channel by channel."""

    x: Any
    y: Any
    z: Any
    product: Any
    table: Any
    shade: Any
    wide: Any
    defect: Any


def _shade_tiles(picture: np.ndarray, maps: Maps, camera: Camera, light: Light, tiles, tops, oversampling: int) -> None:
    """Shades some tiles into `picture`."""
    for i in tiles:
        row, column = i // _TILES * TILE, i % _TILES * TILE
        hits = jax.tree.map(np.asarray, _hits(maps, camera, row, column, tops[i], oversampling=oversampling))
        values = np.stack(_seen(hits, camera, light))
        values = values.reshape(4, TILE, oversampling, TILE, oversampling).mean((2, 4))
        picture[row : row + TILE, column : column + TILE] = values.transpose(1, 2, 0)


@partial(jax.jit, static_argnames="oversampling")
def _hits(maps: Maps, camera: Camera, row: int, column: int, top: float, *, oversampling: int) -> Hits:
    samples = TILE * oversampling
    steps = ((jnp.arange(samples, dtype=jnp.float32) + 0.5) / oversampling) * (FIELD_MM / PIXELS) - FIELD_MM / 2
    u, v = (steps + column * (FIELD_MM / PIXELS))[None, :], (steps + row * (FIELD_MM / PIXELS))[:, None]
    ray = [camera.distance * camera.forward[k] + u * camera.right[k] + v * camera.down[k] for k in range(3)]
    length = camera.position[2] / -ray[2]
    ground_x, ground_y = camera.position[0] + ray[0] * length, camera.position[1] + ray[1] * length
    lean_x, lean_y = (
        (camera.position[0] - ground_x) / camera.position[2],
        (camera.position[1] - ground_y) / camera.position[2],
    )
    x, y, z = _march(maps.height, ground_x, ground_y, lean_x, lean_y, top)

    full = _corners(x, y, SIZE, PITCH)
    product = _interpolated(maps.product, *full)
    table = _interpolated(maps.table, *full)
    shade = _interpolated(maps.shade, *_corners(x, y, SIZE // COARSE, PITCH * COARSE))
    wide = _interpolated(maps.wide, *_corners(x, y, SIZE // WIDE, PITCH * WIDE))
    defect = maps.defect[_nearest(x, y)]
    return Hits(x, y, z, product, table, shade, wide, defect)


def _seen(hits: Hits, camera: Camera, light: Light):
    """Radiance (red, green, blue) and defect of what rays have met.

    In NumPy: XLA fuses this chain so that it computes what is shared many times over, 80 times slower on a CPU.
    """
    x, y, z, product_there, table, shade, wide, defect = hits
    red, green, blue, gloss, metal, slope_x, slope_y, cover = product_there
    # A ray that ends above the table has met the product, if only its wall, which has no cover of its own.
    product = np.maximum(np.clip(z / 0.06 - 0.4, 0, 1), np.where(z > 0.02, cover, 0))
    mixed = [
        t + (p - t) * product for p, t in zip((red, green, blue, gloss, metal, slope_x, slope_y), table, strict=True)
    ]
    *albedo, gloss, metal, slope_x, slope_y = mixed

    shorten = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    normal = (-slope_x * shorten, -slope_y * shorten, shorten)
    view = _unit(camera.position[0] - x, camera.position[1] - y, camera.position[2] - z)
    to_light = light.position[0] - x, light.position[1] - y, light.position[2] - z
    falloff = np.sum(light.position**2) / _dot(to_light, to_light)
    to_light = _unit(*to_light)

    lit = sum(
        _smoothstep((z + 0.05 - shade[2 * k]) / np.maximum(shade[2 * k + 1] - shade[2 * k], 0.05)) for k in range(3)
    )
    lit = lit * falloff / 3
    open_sky = 1.0
    for relief, width, weight in ((shade[6], 0.5, 0.30), (wide[0], 1.6, 0.40), (wide[1], 5.0, 0.45)):
        open_sky = open_sky * (1 - weight * np.clip((relief - z) / width, 0, 1.6) / 1.6)
    upward = 0.5 + 0.5 * normal[2]
    facing = np.maximum(_dot(normal, to_light), 0)

    # Specular: key light widened by its size, and the room.
    roughness = 0.78 - 0.72 * gloss
    alpha = roughness**2
    wide_alpha = np.minimum(alpha + 0.5 * light.softness, 1)
    half = _unit(*(a + b for a, b in zip(view, to_light, strict=True)))
    n_h, l_h = np.clip(_dot(normal, half), 0, 1), np.clip(_dot(to_light, half), 0.05, 1)
    n_v = np.clip(_dot(normal, view), 0.02, 1)
    # Widening keeps the light's energy: the lobe is that much lower.
    spread = (alpha / wide_alpha) ** 2
    density = wide_alpha**2 / ((n_h**2 * (wide_alpha**2 - 1) + 1) ** 2)
    glint = facing * density * spread / (4 * l_h**2) * lit
    grazing = (1 - l_h) ** 5
    mirrored = tuple(2 * _dot(normal, view) * n - w for n, w in zip(normal, view, strict=True))
    room = _room(mirrored, view, light, roughness)
    scale, bias = _environment_response(roughness, n_v)
    seen_sky = np.clip(open_sky * 1.25 - 0.25, 0, 1)

    radiance = []
    for c in range(3):
        base = 0.04 + (albedo[c] - 0.04) * metal
        occlusion = open_sky + (1 - open_sky) * albedo[c] * 0.45
        bounced = light.table[c] * (1 - upward) * 0.75 + wide[2 + c] * 0.10 * (1 - product) * light.ambient[c]
        diffuse = (
            light.key[c] * lit * facing + light.ambient[c] * occlusion * (upward + 0.15 * normal[1] * -1) + bounced
        )
        fresnel = base + (1 - base) * grazing
        specular = (
            light.key[c] * fresnel * glint
            + (room[0] * light.ambient[c] + room[1] * light.table[c]) * (base * scale + bias) * seen_sky
        )
        radiance.append(albedo[c] * (1 - metal) * diffuse + specular)
    return *radiance, defect


def _room(direction, view, light: Light, roughness):
    """What a mirror shows of the surroundings: share of ambient light, share of the table's radiance."""
    x, y, z = direction
    blur = 0.06 + 0.8 * roughness**1.5
    sky = _smoothstep((z + blur) / (2 * blur))
    height = np.clip(z, 0.08, 1)
    # Seen from the table: a ceiling panel opposite to the key light, a bright wall behind it, the camera's dark body.
    across, along = -light.direction[1], light.direction[0]
    flat = 1 / np.sqrt(across**2 + along**2 + 1e-6)
    px, py = x / height, y / height
    a = (px * across + py * along) * flat
    b = (px * along - py * across) * flat
    panel = _box(a, 0.0, 0.9, blur) * _box(b, -0.55, 0.22, blur)
    window = _box(a, 0.35, 0.35, blur) * _box(b, 0.95, 0.3, blur)
    towards = x * view[0] + y * view[1] + z * view[2]
    camera = _smoothstep((towards - 0.985 + 0.5 * blur) / blur) * np.clip(1.2 - 1.5 * roughness, 0, 1)
    gradient = 0.45 + 0.75 * np.clip(z, 0, 1) ** 1.5
    brightness = gradient + 2.6 * panel + 1.6 * window
    return sky * brightness * (1 - 0.55 * camera), 1 - sky


def _box(value, centre, half, blur):
    return _smoothstep((half + blur - np.abs(value - centre)) / (2 * blur)) * half / (half + 0.5 * blur)


def _environment_response(roughness, n_v):
    """Scale and bias of the reflectance at normal incidence for light from all around (Karis, "Physically based
    shading on mobile", 2014)."""
    r = [1.0 - roughness, 0.0425 - 0.0275 * roughness, 1.04 - 0.572 * roughness, 0.022 * roughness - 0.04]
    a = np.minimum(r[0] ** 2, 2.0 ** (-9.28 * n_v)) * r[0] + r[1]
    return -1.04 * a + r[2], 1.04 * a + r[3]


_MARCH_STEP = 0.9  # samples of the table's grid that a ray moves sideways at once
_REFINEMENTS = 5


def _march(height, ground_x, ground_y, lean_x, lean_y, top):
    """Where rays first meet the height field: x, y, z in mm; they would meet the table in (ground_x, ground_y)."""
    sideways = jnp.sqrt(jnp.max(lean_x**2 + lean_y**2)) * top
    count = jnp.ceil(sideways / (_MARCH_STEP * PITCH)).astype(jnp.int32) + 2
    drop = top / count

    def below(z):
        return height[_nearest(ground_x + lean_x * z, ground_y + lean_y * z)] >= z

    def step(i, free):
        # The height above which the ray is free; it stays once the ray has met something.
        z = top - (i + 1) * drop
        return jnp.where((free > z + 1.5 * drop) | below(z), free, z)

    free = jax.lax.fori_loop(0, count, step, jnp.full(ground_x.shape, top))
    above, under = free, jnp.maximum(free - drop, 0)
    for _ in range(_REFINEMENTS):
        middle = (above + under) / 2
        hit = _height_at(height, ground_x + lean_x * middle, ground_y + lean_y * middle) >= middle
        above, under = jnp.where(hit, above, middle), jnp.where(hit, middle, under)
    z = (above + under) / 2
    x, y = ground_x + lean_x * z, ground_y + lean_y * z
    z = jnp.clip(_height_at(height, x, y), under, above)
    return ground_x + lean_x * z, ground_y + lean_y * z, z


def _nearest(x, y):
    column = jnp.clip((x + EXTENT / 2) / PITCH, 0, SIZE - 1).astype(jnp.int32)
    row = jnp.clip((y + EXTENT / 2) / PITCH, 0, SIZE - 1).astype(jnp.int32)
    return row * SIZE + column


def _corners(x, y, size: int, pitch: float):
    """Index of the upper left of the four samples around (x, y), and how far to the right and down of it."""
    column = jnp.clip((x + EXTENT / 2) / pitch - 0.5, 0, size - 1.001)
    row = jnp.clip((y + EXTENT / 2) / pitch - 0.5, 0, size - 1.001)
    left, upper = column.astype(jnp.int32), row.astype(jnp.int32)
    return upper * size + left, size, column - left, row - upper


def _height_at(height, x, y):
    first, size, right, down = _corners(x, y, SIZE, PITCH)
    above = height[first] * (1 - right) + height[first + 1] * right
    under = height[first + size] * (1 - right) + height[first + size + 1] * right
    return above * (1 - down) + under * down


def _interpolated(field, first, size, right, down):
    """Bilinear samples of every channel, as a list."""
    right, down = right[..., None], down[..., None]
    above = field[first] * (1 - right) + field[first + 1] * right
    under = field[first + size] * (1 - right) + field[first + size + 1] * right
    return jnp.unstack(above * (1 - down) + under * down, axis=-1)


def _unit(x, y, z):
    shorten = 1 / np.sqrt(x**2 + y**2 + z**2)
    return x * shorten, y * shorten, z * shorten


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _smoothstep(t):
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
