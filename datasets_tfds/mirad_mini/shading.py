"""The camera's view of a scene: relief ray marching and shading, tile by tile.

Every sample of the picture is a ray that is marched down until it is below the height field (Policarpo et al.,
"Real-time relief mapping on arbitrary polygonal surfaces", 2005), so that side walls, parallax and occlusion are those
of the camera's pose. What it hits is shaded with a microfacet model (Walter et al., "Microfacet models for refraction
through rough surfaces", 2007) under an area light with soft shadows, ambient light with occlusion, and a procedural
room that glossy surfaces reflect.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from datasets_tfds.mirad_mini.imaging import Imaging
from datasets_tfds.mirad_mini.layout import FIELD_MM
from datasets_tfds.mirad_mini.scene import COARSE, EXTENT, PITCH, SIZE, WIDE, Scene, reduced, shadow_heights

PIXELS = 600  # of the linear picture, whatever resolution it is then reduced to
TILE = 60  # pixels along a tile's side: what a tile needs stays in the processor's cache
_TILES = PIXELS // TILE
_SHADOWS = 6  # directions within the key light


class Maps(NamedTuple):
    """The scene on the table's grid, flattened over it for gathering."""

    height: Float[np.ndarray, "size*size"]
    material: Float[np.ndarray, "size*size 15"]  # product 8, table 7
    defect: Float[np.ndarray, "size*size"]
    shade: Float[np.ndarray, "coarse*coarse c"]  # shadow heights' lower and upper bound in each direction; near relief
    wide: Float[np.ndarray, "wide*wide 5"]  # relief at two widths; products' mean albedo, weighted by their height


class Camera(NamedTuple):
    position: Float[np.ndarray, "3"]
    right: Float[np.ndarray, "3"]  # one mm in the plane of the table's middle, as the picture shows it
    down: Float[np.ndarray, "3"]
    forward: Float[np.ndarray, "3"]
    distance: Float[np.ndarray, ""]


class Light(NamedTuple):
    position: Float[np.ndarray, "3"]  # mm
    direction: Float[np.ndarray, "3"]  # from the table's middle to the light
    key: Float[np.ndarray, "3"]  # irradiance of a surface at the middle that faces the light, linear RGB
    ambient: Float[np.ndarray, "3"]  # irradiance from all around
    softness: Float[np.ndarray, ""]  # tangent of the light's angular radius
    table: Float[np.ndarray, "3"]  # mean radiance of the table


def photograph(scene: Scene, imaging: Imaging, oversampling: int) -> tuple[np.ndarray, np.ndarray]:
    """The light that reaches the sensor from a scene at rest.

    Args:
      oversampling: rays along each side of a pixel where there are products; one where there is only table.

    Returns:
      Linear radiance (600, 600, 3), and the share of each pixel's area that shows a defect (600, 600).
    """
    camera, light = _camera(imaging), _light(imaging, scene)
    maps = _maps(scene, imaging)
    picture = np.empty((PIXELS, PIXELS, 4), np.float32)
    for tile, top in enumerate(_tops(scene, camera)):
        row, column = divmod(tile, _TILES)
        dense = oversampling if top > 0 else 1
        steps = ((np.arange(TILE * dense, dtype=np.float32) + 0.5) / dense) * (FIELD_MM / PIXELS) - FIELD_MM / 2
        u, v = steps + column * (TILE * FIELD_MM / PIXELS), steps + row * (TILE * FIELD_MM / PIXELS)
        u, v = (a.ravel().astype(np.float32) for a in np.meshgrid(u, v))
        values = _seen(maps, camera, light, u, v, top).reshape(4, TILE, dense, TILE, dense).mean((2, 4))
        picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = values.transpose(1, 2, 0)
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
    """Linear sRGB of a black body of luminance 1 (chromaticity approximated as in Kim et al., US patent 7024034)."""
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
    for turn in spread * np.linspace(-0.9, 0.9, _SHADOWS):
        for lift in (imaging.light_softness, -imaging.light_softness):
            elevation = float(np.clip(imaging.light_elevation + lift, 8, 86))
            shade.append(shadow_heights(coarse, pitch, imaging.light_azimuth + turn, elevation))
    shade.append(_blurred(coarse, 0.5 / pitch))
    colour = reduced(scene.product[..., :3] * scene.product[..., 7:], WIDE) * np.minimum(wide, 4)[..., None]
    relief = [_blurred(wide, 1.6 / (PITCH * WIDE)), _blurred(wide, 5.0 / (PITCH * WIDE))]
    relief += [_blurred(colour[..., c], 3.0 / (PITCH * WIDE)) for c in range(3)]
    return Maps(
        scene.height.reshape(-1),
        np.concatenate([scene.product, scene.table], axis=-1).reshape(-1, 15),
        scene.defect.reshape(-1).astype(np.float32),
        np.stack(shade, axis=-1).reshape(-1, len(shade)),
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


def _seen(maps: Maps, camera: Camera, light: Light, u, v, top) -> Float[np.ndarray, "4 rays"]:
    """Radiance (red, green, blue) and defect of the rays through (u, v) mm in a region no higher than `top`."""
    ray = [camera.distance * camera.forward[k] + u * camera.right[k] + v * camera.down[k] for k in range(3)]
    length = camera.position[2] / -ray[2]
    ground_x, ground_y = camera.position[0] + ray[0] * length, camera.position[1] + ray[1] * length
    if top > 0:
        lean_x = (camera.position[0] - ground_x) / camera.position[2]
        lean_y = (camera.position[1] - ground_y) / camera.position[2]
        x, y, z = _march(maps.height, ground_x, ground_y, lean_x, lean_y, top)
    else:
        x, y, z = ground_x, ground_y, np.zeros_like(ground_x)

    material = _interpolated(maps.material, *_corners(x, y, SIZE, PITCH))
    wide = _interpolated(maps.wide, *_corners(x, y, SIZE // WIDE, PITCH * WIDE))
    defect = maps.defect[_nearest(x, y)]

    # A ray that ends above the table has hit the product, if only its side wall, which has no cover of its own.
    product = np.maximum(np.clip(z / 0.06 - 0.4, 0, 1), (z > 0.02) * material[7])
    surface = material[8:] + (material[:7] - material[8:]) * product
    albedo, (gloss, metal, slope_x, slope_y) = surface[:3], surface[3:]

    shorten = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    normal = np.stack([-slope_x * shorten, -slope_y * shorten, shorten])
    # The light on a wall is taken from in front of it: at the wall itself, the coarse grid is half inside the product.
    before = x + _CLEARANCE * normal[0], y + _CLEARANCE * normal[1]
    shade = _interpolated(maps.shade, *_corners(*before, SIZE // COARSE, PITCH * COARSE))
    view = _unit(np.stack([camera.position[0] - x, camera.position[1] - y, camera.position[2] - z]))
    to_light = np.stack([light.position[0] - x, light.position[1] - y, light.position[2] - z])
    falloff = np.sum(light.position**2) / _dot(to_light, to_light)
    to_light = _unit(to_light)

    lit = np.zeros_like(z)
    for lower, upper in zip(shade[0:-1:2], shade[1:-1:2], strict=True):
        lit += _smoothstep((z + 0.05 - lower) / np.maximum(upper - lower, 0.05))
    lit *= falloff / _SHADOWS
    open_sky = np.ones_like(z)
    for relief, width, weight in ((shade[-1], 0.5, 0.30), (wide[0], 1.6, 0.40), (wide[1], 5.0, 0.45)):
        open_sky *= 1 - weight * np.clip((relief - z) / (1.6 * width), 0, 1)
    upward = 0.5 + 0.5 * normal[2]
    facing = np.maximum(_dot(normal, to_light), 0)

    # The key light's reflection is widened by the light's size, and fainter accordingly; the room's follows.
    roughness = 0.78 - 0.72 * gloss
    alpha = roughness**2
    wide_alpha = np.minimum(alpha + 0.5 * light.softness, 1)
    half = _unit(view + to_light)
    n_h, l_h = np.clip(_dot(normal, half), 0, 1), np.clip(_dot(to_light, half), 0.05, 1)
    n_v = np.clip(_dot(normal, view), 0.02, 1)
    density = alpha**2 / (n_h**2 * (wide_alpha**2 - 1) + 1) ** 2
    glint = facing * density / (4 * l_h**2) * lit
    grazing = (1 - l_h) ** 5
    mirrored = 2 * _dot(normal, view) * normal - view
    sky, ground = _room(mirrored, x, y, view, light, roughness)
    scale, bias = _environment_response(roughness, n_v)
    seen_sky = np.clip(open_sky * 1.25 - 0.25, 0, 1)
    unlit = light.ambient[:, None] * (upward - 0.15 * normal[1])

    base = 0.04 + (albedo - 0.04) * metal
    occlusion = open_sky + (1 - open_sky) * 0.45 * albedo
    bounced = light.table[:, None] * (0.75 * (1 - upward)) + wide[2:] * (light.ambient[:, None] * (0.1 * (1 - product)))
    diffuse = light.key[:, None] * (lit * facing) + unlit * occlusion + bounced
    reflected = (light.ambient[:, None] * sky + light.table[:, None] * ground) * ((base * scale + bias) * seen_sky)
    radiance = albedo * (1 - metal) * diffuse + reflected + light.key[:, None] * ((base + (1 - base) * grazing) * glint)
    return np.concatenate([radiance, defect[None]])


_CLEARANCE = np.float32(1.5 * COARSE * PITCH)  # mm
_CEILING = 260.0  # mm above the table: near enough for reflections to change across a product


def _room(direction, x, y, view, light: Light, roughness):
    """What a mirror at (x, y) shows of its surroundings: share of ambient light, share of the table's radiance."""
    blur = 0.05 + 0.8 * roughness**1.5
    sky = _smoothstep((direction[2] + blur) / (2 * blur))
    height = np.clip(direction[2], 0.08, 1)
    # Seen from the table: a ceiling panel, a window on the side away from the key light, the camera's dark body.
    along = light.direction[:2] / max(float(np.hypot(*light.direction[:2])), 1e-3)
    px, py = direction[0] / height + x / _CEILING, direction[1] / height + y / _CEILING
    a, b = py * along[0] - px * along[1], px * along[0] + py * along[1]
    panel = _box(a, 0.1, 0.9, blur) * _box(b, -0.30, 0.20, blur)
    window = _box(a, -0.35, 0.35, blur) * _box(b, 0.55, 0.3, blur)
    camera = _smoothstep((_dot(direction, view) - 0.985 + 0.5 * blur) / blur) * np.clip(1.2 - 1.5 * roughness, 0, 1)
    brightness = 0.42 + 0.55 * np.clip(direction[2], 0, 1) ** 2 + 2.4 * panel + 1.6 * window
    return sky * brightness * (1 - 0.5 * camera), 1 - sky


def _box(value, centre, half, blur):
    return _smoothstep((half + blur - np.abs(value - centre)) / (2 * blur)) * (half / (half + 0.5 * blur))


def _environment_response(roughness, n_v):
    """Scale and bias of the reflectance at normal incidence, for light from all around (Karis, "Physically based
    shading on mobile", 2014)."""
    r = [1.0 - roughness, 0.0425 - 0.0275 * roughness, 1.04 - 0.572 * roughness, 0.022 * roughness - 0.04]
    a = np.minimum(r[0] ** 2, np.exp2(-9.28 * n_v)) * r[0] + r[1]
    return -1.04 * a + r[2], 1.04 * a + r[3]


_MARCH_STEP = 0.9  # samples of the table's grid that a ray moves sideways per step
_REFINEMENTS = 5


def _march(height, ground_x, ground_y, lean_x, lean_y, top):
    """Where rays first meet the height field, as x, y, z in mm; they would meet the table at (ground_x, ground_y)."""
    sideways = float(np.sqrt((lean_x**2 + lean_y**2).max())) * top
    count = int(sideways / (_MARCH_STEP * PITCH)) + 3
    drop = top / np.float32(count)
    # The ray is free above `above`; it is below the surface at `above - drop`.
    above = np.full_like(ground_x, drop)
    flying = np.arange(len(ground_x))
    column, row = _indices(ground_x), _indices(ground_y)
    right, down = lean_x / np.float32(PITCH), lean_y / np.float32(PITCH)
    for step in range(count - 1):
        z = np.float32(top - (step + 1) * drop)
        landed = height[_index(column + right * z, row + down * z)] >= z
        if landed.any():
            above[flying[landed]] = z + drop
            free = ~landed
            flying, column, row, right, down = (a[free] for a in (flying, column, row, right, down))
    under = above - drop
    for _ in range(_REFINEMENTS):
        middle = (above + under) / 2
        hit = _height_at(height, ground_x + lean_x * middle, ground_y + lean_y * middle) >= middle
        above, under = np.where(hit, above, middle), np.where(hit, middle, under)
    z = (above + under) / 2
    z = np.clip(_height_at(height, ground_x + lean_x * z, ground_y + lean_y * z), under, above)
    return ground_x + lean_x * z, ground_y + lean_y * z, z


def _indices(coordinate):
    return (coordinate + np.float32(EXTENT / 2)) / np.float32(PITCH)


def _index(column, row):
    return np.clip(row, 0, SIZE - 1).astype(np.int32) * SIZE + np.clip(column, 0, SIZE - 1).astype(np.int32)


def _nearest(x, y):
    return _index(_indices(x), _indices(y))


def _corners(x, y, size: int, pitch: float):
    """Index of the upper left of the four samples around (x, y), `size`, and how far right and down of it (x, y) is."""
    per_mm, middle, end = np.float32(1 / pitch), np.float32(EXTENT / 2 / pitch - 0.5), np.float32(size - 1.01)
    column, row = np.clip(x * per_mm + middle, 0, end), np.clip(y * per_mm + middle, 0, end)
    left, upper = column.astype(np.int32), row.astype(np.int32)
    return upper * size + left, size, column - left, row - upper


def _height_at(height, x, y):
    first, size, right, down = _corners(x, y, SIZE, PITCH)
    above = height[first] * (1 - right) + height[first + 1] * right
    under = height[first + size] * (1 - right) + height[first + size + 1] * right
    return above * (1 - down) + under * down


def _interpolated(field, first, size, right, down) -> Float[np.ndarray, "channels rays"]:
    """Bilinear samples of every channel."""
    right, down = right[:, None], down[:, None]
    value = field[first] * ((1 - right) * (1 - down))
    value += field[first + 1] * (right * (1 - down))
    value += field[first + size] * ((1 - right) * down)
    value += field[first + size + 1] * (right * down)
    return np.ascontiguousarray(value.T)


def _unit(vector):
    return vector / np.sqrt(_dot(vector, vector))


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _smoothstep(t):
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
