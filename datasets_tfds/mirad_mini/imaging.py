"""How a photograph is taken: camera, light, background, motion and noise, and six nodes that differ in all of them.

A node stands for one site of a distributed production: its camera, lamps and table are set up once and vary little
from photograph to photograph. Directions are in degrees, counter-clockwise as seen from above, 0 to the right, 90 to
the top.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Imaging:
    """Everything that a photograph depends on apart from the scene.

    Attributes:
      node: 1 to 6, or 0 for none of them.
      resolution: pixels along each side for the same 60 x 60 mm.
      background: a name of `backgrounds.BACKGROUNDS`.
      tilt, heading: how far the camera leans from straight above (degrees), and towards which side it stands.
      roll: turn of the camera about its axis (degrees).
      distance: mm from the camera to the field's middle; the field of view stays 60 mm.
      offset_x, offset_y: mm from the table's middle to where the camera points, y downwards.
      light_azimuth, light_elevation: direction of the key light (degrees).
      light_softness: angular radius of the key light (degrees).
      light_temperature, ambient_temperature, white_balance: in kelvin, of the key light, of the ambient light, and of
        what the camera takes for white.
      light_intensity: irradiance at the table's middle from all light; 1 shows white paper as bright as it should be.
      ambient_mix: share of that irradiance that comes from all around, 0..1.
      exposure: gain of the camera.
      motion_length, motion_angle: how far (mm on the table) and where to (degrees) the scene moves during the exposure.
      motion_rotation: degrees that the scene turns during the exposure, about the picture's middle.
      electrons: number that white frees in one pixel of the sensor; fewer are noisier.
      read_noise: standard deviation in electrons.
      lens_blur: standard deviation in pixels.
      vignette: loss of light in the corners, 0..1.
    """

    node: int = 0
    resolution: int = 600
    background: str = "white_paper"
    tilt: float = 5.0
    heading: float = 270.0
    roll: float = 0.0
    distance: float = 480.0
    offset_x: float = 0.0
    offset_y: float = 0.0
    light_azimuth: float = 125.0
    light_elevation: float = 52.0
    light_softness: float = 7.0
    light_temperature: float = 5500.0
    ambient_temperature: float = 6000.0
    white_balance: float = 5600.0
    light_intensity: float = 1.0
    ambient_mix: float = 0.45
    exposure: float = 1.0
    motion_length: float = 0.0
    motion_angle: float = 0.0
    motion_rotation: float = 0.0
    electrons: float = 12000.0
    read_noise: float = 6.0
    lens_blur: float = 0.6
    vignette: float = 0.10


REFERENCE = Imaging()

# The fields that each factor of variation sets; with `node`, these are all fields.
FACTORS: Mapping[str, tuple[str, ...]] = {
    "view": ("tilt", "heading", "roll", "distance", "offset_x", "offset_y"),
    "illumination": (
        "light_azimuth",
        "light_elevation",
        "light_softness",
        "light_temperature",
        "ambient_temperature",
        "white_balance",
        "light_intensity",
        "ambient_mix",
        "exposure",
        "vignette",
    ),
    "resolution": ("resolution",),
    "background": ("background",),
    "motion": ("motion_length", "motion_angle", "motion_rotation"),
    "noise": ("electrons", "read_noise", "lens_blur"),
}


@dataclass(frozen=True)
class Node:
    """One production site: what is fixed there, and the ranges from which the rest is drawn uniformly.

    `linear_motion` and `rotation` are the ranges of the motion during exposure, `moving` the shares of photographs with
    each of them; `ambient_only` is the share taken with the key light off.
    """

    background: str
    resolution: int
    tilt: Range
    heading: Range
    roll: Range
    distance: Range
    light_azimuth: Range
    light_elevation: Range
    light_softness: Range
    light_temperature: Range
    ambient_temperature: Range
    white_balance: Range
    light_intensity: Range
    ambient_mix: Range
    exposure: Range
    vignette: Range
    electrons: Range
    read_noise: Range
    lens_blur: Range
    linear_motion: Range = (0.0, 0.0)
    motion_angle: Range = (0.0, 360.0)
    rotation: Range = (0.0, 0.0)
    moving: tuple[float, float] = (0.0, 0.0)
    ambient_only: float = 0.0
    offset: float = 1.2


NODES: Mapping[int, Node] = {
    # A photographer's copy stand: diffuse daylight lamp, paper.
    1: Node(
        background="white_paper",
        resolution=600,
        tilt=(2, 8),
        heading=(255, 285),
        roll=(-4, 4),
        distance=(470, 490),
        light_azimuth=(105, 145),
        light_elevation=(48, 58),
        light_softness=(6, 9),
        light_temperature=(5300, 5700),
        ambient_temperature=(5600, 6200),
        white_balance=(5400, 5700),
        light_intensity=(0.95, 1.05),
        ambient_mix=(0.40, 0.55),
        exposure=(0.95, 1.05),
        vignette=(0.06, 0.12),
        electrons=(10000, 14000),
        read_noise=(4, 7),
        lens_blur=(0.5, 0.7),
    ),
    # A workbench under a warm lamp, photographed by hand.
    2: Node(
        background="wood",
        resolution=600,
        tilt=(12, 22),
        heading=(225, 315),
        roll=(-10, 10),
        distance=(280, 360),
        light_azimuth=(10, 60),
        light_elevation=(30, 42),
        light_softness=(3, 5),
        light_temperature=(2900, 3300),
        ambient_temperature=(4200, 5200),
        white_balance=(3300, 3900),
        light_intensity=(0.9, 1.15),
        ambient_mix=(0.22, 0.38),
        exposure=(1.0, 1.3),
        vignette=(0.15, 0.30),
        electrons=(4000, 7000),
        read_noise=(6, 10),
        lens_blur=(0.6, 0.9),
        linear_motion=(0.1, 0.4),
        moving=(0.15, 0.0),
        ambient_only=0.25,
    ),
    # A camera over a running belt, hard light from ahead.
    3: Node(
        background="conveyor_belt",
        resolution=300,
        tilt=(0, 5),
        heading=(0, 360),
        roll=(-3, 3),
        distance=(940, 980),
        light_azimuth=(60, 85),
        light_elevation=(50, 64),
        light_softness=(2, 3.5),
        light_temperature=(6000, 6500),
        ambient_temperature=(5000, 5600),
        white_balance=(5800, 6400),
        light_intensity=(1.0, 1.25),
        ambient_mix=(0.25, 0.35),
        exposure=(1.1, 1.5),
        vignette=(0.08, 0.16),
        electrons=(4000, 8000),
        read_noise=(8, 14),
        lens_blur=(0.5, 0.7),
        linear_motion=(0.3, 1.2),
        motion_angle=(-6, 6),
        moving=(0.75, 0.0),
        ambient_only=0.10,
    ),
    # A turntable of brushed metal under cool fluorescent tubes.
    4: Node(
        background="brushed_metal",
        resolution=300,
        tilt=(6, 14),
        heading=(240, 300),
        roll=(-6, 6),
        distance=(900, 980),
        light_azimuth=(160, 215),
        light_elevation=(38, 50),
        light_softness=(8, 12),
        light_temperature=(4300, 4800),
        ambient_temperature=(6500, 7800),
        white_balance=(5000, 5800),
        light_intensity=(0.85, 1.0),
        ambient_mix=(0.50, 0.65),
        exposure=(0.9, 1.1),
        vignette=(0.10, 0.20),
        electrons=(5000, 9000),
        read_noise=(6, 12),
        lens_blur=(0.6, 0.8),
        rotation=(0.4, 1.8),
        moving=(0.0, 0.6),
        ambient_only=0.20,
    ),
    # A hand-held phone over a hobbyist's mat, light from a window.
    5: Node(
        background="cutting_mat",
        resolution=200,
        tilt=(14, 24),
        heading=(200, 340),
        roll=(-12, 12),
        distance=(300, 420),
        light_azimuth=(170, 290),
        light_elevation=(28, 40),
        light_softness=(6, 10),
        light_temperature=(6200, 7400),
        ambient_temperature=(4800, 6200),
        white_balance=(5600, 6600),
        light_intensity=(0.75, 1.0),
        ambient_mix=(0.35, 0.50),
        exposure=(1.1, 1.5),
        vignette=(0.15, 0.30),
        electrons=(3000, 6000),
        read_noise=(8, 14),
        lens_blur=(0.5, 0.7),
        linear_motion=(0.2, 0.8),
        rotation=(0.3, 1.2),
        moving=(0.35, 0.35),
        ambient_only=0.25,
    ),
    # A distant camera in a dim hall, paper again; only the ceiling light in half of the photographs.
    6: Node(
        background="white_paper",
        resolution=200,
        tilt=(8, 18),
        heading=(80, 160),
        roll=(-8, 8),
        distance=(1300, 1440),
        light_azimuth=(270, 350),
        light_elevation=(55, 68),
        light_softness=(9, 13),
        light_temperature=(3400, 4000),
        ambient_temperature=(3600, 4400),
        white_balance=(4300, 5200),
        light_intensity=(0.45, 0.65),
        ambient_mix=(0.60, 0.75),
        exposure=(1.0, 1.4),
        vignette=(0.12, 0.22),
        electrons=(1500, 3000),
        read_noise=(10, 18),
        lens_blur=(0.5, 0.8),
        linear_motion=(0.2, 0.6),
        moving=(0.3, 0.0),
        ambient_only=0.5,
    ),
}

_DRAWN = tuple(
    name for name in (f.name for f in fields(Imaging)) if name in {f.name for f in fields(Node)} - {"motion_angle"}
)


def draw_imaging(node: int, rng: np.random.Generator) -> Imaging:
    """Draws the imaging of one photograph at a node, 1 to 6.

    Raises:
      ValueError: there is no such node.
    """
    if node not in NODES:
        raise ValueError(f"node is {node}; nodes are {', '.join(map(str, NODES))}")
    place = NODES[node]
    drawn = {}
    for name in _DRAWN:
        value = getattr(place, name)
        drawn[name] = float(rng.uniform(*value)) if isinstance(value, tuple) else value
    length, angle, rotation = (
        rng.uniform(*place.linear_motion),
        rng.uniform(*place.motion_angle),
        rng.uniform(*place.rotation),
    )
    slides, turns = rng.uniform(size=2) < place.moving
    ambient = rng.uniform() < place.ambient_only
    offset = rng.uniform(-place.offset, place.offset, size=2)
    drawn["heading"] %= 360.0
    if ambient:
        # The white balance errs for this light as it does for the key light.
        drawn["white_balance"] *= drawn["ambient_temperature"] / drawn["light_temperature"]
        drawn |= {"ambient_mix": 1.0, "light_intensity": 0.7 * drawn["light_intensity"]}
    return Imaging(
        node=node,
        **drawn,
        offset_x=float(offset[0]),
        offset_y=float(offset[1]),
        motion_length=float(length) if slides else 0.0,
        motion_angle=float(angle % 180) if slides else 0.0,
        motion_rotation=float(rotation) if turns else 0.0,
    )


def vary(imaging: Imaging, factor: str, rng: np.random.Generator) -> Imaging:
    """`imaging` with one factor redrawn over everything that the nodes span: as at a node that is drawn at random.

    Motion is drawn until there is some, so that the factor acts on every photograph.

    Raises:
      ValueError: the factor is not in `FACTORS`.
    """
    if factor not in FACTORS:
        raise ValueError(f"factor is {factor!r}; factors are {', '.join(FACTORS)}")
    while True:
        drawn = draw_imaging(int(rng.choice(list(NODES))), rng)
        if factor != "motion" or drawn.motion_length > 0 or drawn.motion_rotation > 0:
            return replace(imaging, **{name: getattr(drawn, name) for name in FACTORS[factor]})
