"""Individualised products in MIRAD's raw layout, generated from a seed.

    python -m datasets_tfds.mirad_mini.generate FOLDER --images 100 --difficulty 1.5

What stands in the frame (products, defects, places) and how it is photographed (node, light, pose, ...) are drawn from
two separate streams of random numbers, so that the same scene can be photographed in another way.
"""

import argparse
import csv
import dataclasses
import io
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets_tfds.mirad.factors import FILE
from datasets_tfds.mirad_mini.defects import Defect, draw_defects
from datasets_tfds.mirad_mini.imaging import FACTORS, NODES, REFERENCE, Imaging, draw_imaging, vary
from datasets_tfds.mirad_mini.layout import Placement, lay_out
from datasets_tfds.mirad_mini.products import FAMILIES, Design, build, draw_design
from datasets_tfds.mirad_mini.render import render
from jaxad.errors import UserError, did_you_mean
from jaxad.imaging.decoding import encode_mask

VERSION = "1.0.0"  # of the pictures: the same version and settings give the same pictures

SEVERAL = 0.3  # share of frames with two products or more (MIRAD: over 30 %)
COMPOUND = 0.38  # share of defective products with several defects (MIRAD)
DESIGNS = 6  # per family, each made again and again within its tolerances (MIRAD: ten designs of rabbits)
JPEG_QUALITY = 95

IMAGING_NUMBERS = tuple(f.name for f in dataclasses.fields(Imaging) if f.type == "float" or f.type is float)

How = Callable[[np.random.Generator, int], Imaging]


@dataclass(frozen=True)
class Scene:
    """What stands in the frame; `seed` decides whatever is random about the table and the sensor."""

    designs: tuple[Design, ...]
    defects: tuple[tuple[Defect, ...], ...]
    placements: tuple[Placement, ...]
    seed: int

    @property
    def defect_kinds(self) -> list[str]:
        return sorted({defect.kind for defects in self.defects for defect in defects})


@dataclass(frozen=True)
class Part:
    """One split: `good` normal and `anomalous` anomalous images.

    Attributes:
      name: its folder's name.
      scenes: splits with the same word show the same scenes.
      imaging: (random numbers, the image's number) -> how the image is photographed.
    """

    name: str
    good: int
    anomalous: int
    scenes: str
    imaging: How


def by_nodes(rng: np.random.Generator, number: int) -> Imaging:
    """The six nodes in turn."""
    return draw_imaging(list(NODES)[number % len(NODES)], rng)


def at_reference(rng: np.random.Generator, number: int) -> Imaging:
    """The reference imaging, in which nothing varies."""
    del rng, number
    return REFERENCE


def varying(*factors: str) -> How:
    """The reference except for these factors, each varied over everything that the nodes span."""

    def imaging(rng: np.random.Generator, number: int) -> Imaging:
        del number
        drawn = REFERENCE
        for factor in factors:
            drawn = vary(drawn, factor, rng)
        return drawn

    return imaging


def mirad_parts(train: int, good: int, anomalous: int) -> list[Part]:
    """MIRAD's splits, photographed at all nodes."""
    return [Part("train", train, 0, "train", by_nodes), Part("test", good, anomalous, "test", by_nodes)]


def factor_parts(train: int, good: int, anomalous: int) -> list[Part]:
    """The same scenes under the reference imaging, with each factor varied, and with all of them varied."""
    ways: dict[str, How] = {"": at_reference, **{f"_{f}": varying(f) for f in FACTORS}, "_mixed": varying(*FACTORS)}
    training = [Part(f"train{way}", train, 0, "train", ways[way]) for way in ("", "_mixed")]
    return training + [Part(f"test{way}", good, anomalous, "test", how) for way, how in ways.items()]


def catalogue(family: str, seed: int, designs: int) -> list[Design]:
    """The designs of a family that customers have ordered, a function of the seed; [] if `designs` is 0."""
    return [draw_design(family, np.random.default_rng([seed, zlib.crc32(family.encode()), i])) for i in range(designs)]


def draw_scene(
    family: str, anomalous: bool, rng: np.random.Generator, difficulty: float = 1.0, ordered: Sequence[Design] = ()
) -> Scene:
    """One to four products of a family; in an anomalous frame one of them has defects, the others usually have none.

    Args:
      ordered: the designs that products are made to, each product with its own tolerances; () for a new design for each
        product.
    """
    count = int(rng.choice([2, 3, 4], p=[0.5, 0.3, 0.2])) if rng.random() < SEVERAL else 1
    designs = tuple(
        dataclasses.replace(ordered[int(rng.integers(len(ordered)))], seed=int(rng.integers(2**31)))
        if ordered
        else draw_design(family, rng)
        for _ in range(count)
    )
    defective = {int(rng.integers(count))} if anomalous else set()
    if anomalous and count > 1 and rng.random() < 0.25:
        defective.add(int(rng.integers(count)))
    defects = tuple(
        draw_defects(design, rng, difficulty, COMPOUND) if i in defective else () for i, design in enumerate(designs)
    )
    if anomalous and not any(defects):  # a design with no place for the kinds that were drawn
        return draw_scene(family, anomalous, rng, difficulty, ordered)
    return Scene(designs, defects, tuple(lay_out(rng, count)), int(rng.integers(2**31)))


def photograph(scene: Scene, imaging: Imaging) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 (r, r, 3), bool (r, r)): the scene as the camera sees it, and where it is defective."""
    surfaces = [build(design, defects) for design, defects in zip(scene.designs, scene.defects, strict=True)]
    return render(surfaces, scene.placements, imaging, scene.seed)


def generate(
    folder: Path, family: str, parts: Sequence[Part], seed: int = 0, difficulty: float = 1.0, designs: int = DESIGNS
) -> Path:
    """Writes the splits of one family: FOLDER/FAMILY/SPLIT/{good,anomaly}/NNN.jpg, masks in ground_truth/SPLIT/anomaly,
    and factors.csv; where only one split has masks, as in MIRAD, they are in ground_truth/anomaly.

    The family's folder gets its name only when it is complete; what a killed run left is removed.

    Args:
      difficulty: 0.5 (easy) to 2 (hard): size and contrast of the defects.
      designs: number of designs that the products are made to; 0 for a design of its own for each product.

    Returns:
      FOLDER/FAMILY.

    Raises:
      UserError: there is no such family, a setting is out of range, the family's folder exists already, or the folder
        cannot be written.
    """
    if family not in FAMILIES:
        raise UserError(
            f"there is no family {family!r}; expected {', '.join(FAMILIES)}.{did_you_mean(family, FAMILIES)}"
        )
    if difficulty <= 0 or designs < 0:
        raise UserError(
            f"difficulty is {difficulty} and designs is {designs}; expected difficulty > 0 and designs >= 0"
        )
    if not any(part.good + part.anomalous for part in parts):
        raise UserError("no images are asked for; expected at least one")
    final, unfinished = folder / family, folder / f".incomplete-{family}"
    try:
        if final.is_dir():
            raise UserError(f"{final} already exists: remove it, or name another folder")
        shutil.rmtree(unfinished, ignore_errors=True)
        ordered = catalogue(family, seed, designs)
        tasks = [task for part in parts for task in _tasks(family, part, seed, difficulty, ordered)]
        masks_by_split = len({part.name for part in parts if part.anomalous}) > 1
        rows = []
        # threads: NumPy computes outside Python's lock
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(lambda task: _save(unfinished, task, masks_by_split), tasks)
            rows.extend(tqdm(made, total=len(tasks), desc=f"rendering {family}", unit=" images"))
        with (unfinished / FILE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        unfinished.rename(final)
    except OSError as error:
        raise UserError(
            f"cannot write {unfinished} ({error.strerror or error}): name a folder with free space"
        ) from error
    return final


@dataclass(frozen=True)
class _Task:
    """One image to make: its place, its scene, its imaging."""

    split: str
    kind: str
    name: str
    scene: Scene
    imaging: Imaging


def _tasks(family: str, part: Part, seed: int, difficulty: float, ordered: Sequence[Design]) -> Iterator[_Task]:
    for kind, count in (("good", part.good), ("anomaly", part.anomalous)):
        for number in range(count):
            scene, imaging = (
                np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in (family, stream, kind)), number])
                for stream in (f"scene {part.scenes}", f"imaging {part.name}")
            )
            made = draw_scene(family, kind == "anomaly", scene, difficulty, ordered)
            # normal and anomalous images are photographed alike: both are numbered from 0, and so go through the nodes
            yield _Task(part.name, kind, f"{number:03}", made, part.imaging(imaging, number))


def _save(folder: Path, task: _Task, masks_by_split: bool) -> dict[str, str | int | float]:
    """Renders and writes one image; returns its line of factors.csv."""
    image, mask = photograph(task.scene, task.imaging)
    path = folder / task.split / task.kind / f"{task.name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    path.write_bytes(data.getvalue())
    if task.kind == "anomaly":
        truth = folder / "ground_truth" / (task.split if masks_by_split else "") / task.kind / f"{task.name}_mask.png"
        truth.parent.mkdir(parents=True, exist_ok=True)
        truth.write_bytes(encode_mask(mask))
    return {"image": path.relative_to(folder).as_posix(), **describe(task.scene, task.imaging)}


def describe(scene: Scene, imaging: Imaging) -> dict[str, str | int | float]:
    """The factors of an image: how it was photographed, and what it shows."""
    designs = [";".join(f"{name}={value}" for name, value in d.attributes().items()) for d in scene.designs]
    return {
        **_imaging_factors(imaging),
        "products": len(scene.designs),
        "defects": "+".join(scene.defect_kinds),
        "scene": scene.seed,
        "designs": " | ".join(designs),
    }


def _imaging_factors(imaging: Imaging) -> dict[str, str | int | float]:
    """MIRAD's factors in words, and every number behind them."""
    numbers = {name: value for name, value in dataclasses.asdict(imaging).items() if name in IMAGING_NUMBERS}
    side = ("right", "top", "left", "bottom")[round(imaging.light_azimuth / 90) % 4]
    tint = "warm" if imaging.light_temperature < 4500 else "neutral" if imaging.light_temperature < 6000 else "cool"
    moves = [imaging.motion_length > 0, imaging.motion_rotation > 0]
    return {
        "node": str(imaging.node or ""),
        "background": imaging.background,
        "illumination": "ambient" if imaging.ambient_mix == 1 else f"{side} {tint}",
        "view": "from above" if imaging.tilt < 10 else "tilted",
        "motion": "combined" if all(moves) else "linear" if moves[0] else "rotational" if moves[1] else "none",
        "noise": "low" if imaging.electrons > 8000 else "medium" if imaging.electrons > 3000 else "high",
        "resolution": imaging.resolution,
        **numbers,
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Writes individualised products in MIRAD's raw layout.")
    parser.add_argument("folder", type=Path, help="where to write; each family gets a folder in it")
    parser.add_argument("--family", action="append", choices=list(FAMILIES), help="may be repeated (default: all)")
    parser.add_argument("--images", type=int, default=120, help="training images per family (default %(default)s)")
    parser.add_argument("--good", type=int, default=40, help="normal test images (default %(default)s)")
    parser.add_argument("--anomalous", type=int, default=60, help="anomalous test images (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--difficulty", type=float, default=1.0, help="0.5 easy, 1, 2 hard: size and contrast of defects"
    )
    parser.add_argument("--designs", type=int, default=DESIGNS, help="designs per family; 0: each product has its own")
    parser.add_argument("--factors", action="store_true", help="make splits that each vary one imaging factor")
    given = parser.parse_args(arguments)
    parts = (factor_parts if given.factors else mirad_parts)(given.images, given.good, given.anomalous)
    for family in given.family or FAMILIES:
        print(generate(given.folder, family, parts, given.seed, given.difficulty, given.designs))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
