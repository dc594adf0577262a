"""Miniatures of raw data in MVTec AD's layout: real image files of odd sizes, a mask for each defect."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.raw import pixels


def image_file(path: Path, seed: int, size: tuple[int, int], grey: bool = False) -> Path:
    """A photograph of (height, width) pixels, of the file type that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels(seed, *size))
    (image.convert("L") if grey else image).save(path)
    return path


def mask_file(path: Path, seed: int, size: tuple[int, int], value: int = 255) -> Path:
    """A mask whose defect lies in a different place for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    top, left = seed % 7, seed % 5 + 3
    values[top : top + 4 + seed % 3, left : left + 6] = value
    Image.fromarray(values).save(path)
    return path


def category(
    root: Path,
    *,
    train: int = 5,
    good: int = 3,
    defects: Mapping[str, int],
    normal: str = "good",
    suffixes: Sequence[str] = (".png",),
    grey: bool = False,
    masks: str = "{defect}/{stem}_mask.png",
    value: int = 255,
    seed: int = 0,
) -> Path:
    """One category's folder.

    Args:
      root: the folder.
      train: number of training images.
      good: number of normal test images.
      defects: number of test images by type.
      normal: name of the folders of normal images.
      suffixes: file types, in turn.
      grey: whether the photographs are grey.
      masks: path of a mask below ground_truth.
      value: value of the defects in the masks.
      seed: another seed gives other images.
    """
    parts = {f"train/{normal}": train, f"test/{normal}": good, **{f"test/{d}": n for d, n in defects.items()}}
    for number, (part, count) in enumerate(parts.items()):
        for i in range(count):
            one = seed + 100 * number + i
            size = (33 + 2 * (one % 4), 47 + one % 3)
            image_file(root / part / f"{i:03}{suffixes[i % len(suffixes)]}", one, size, grey)
            if number > 1:
                path = masks.format(defect=part.removeprefix("test/"), stem=f"{i:03}")
                mask_file(root / "ground_truth" / path, one, size, value)
    return root


def mvtec_ad(root: Path) -> Path:
    """Two categories, one of them grey."""
    category(root / "metal_nut", defects={"bent": 2, "scratch": 3}, value=1)
    category(root / "grid", defects={"glue": 2}, grey=True, seed=1000)
    return root


def mpdd(root: Path) -> Path:
    """One category; PNG."""
    category(root / "bracket_black", defects={"hole": 1, "scratches": 2})
    return root


def btad(root: Path) -> Path:
    """The three products: BMP with PNG masks, PNG, and BMP with BMP masks."""
    category(root / "01", defects={"ko": 3}, normal="ok", suffixes=[".bmp"], masks="{defect}/{stem}.png")
    category(root / "02", defects={"ko": 2}, normal="ok", masks="{defect}/{stem}.png", seed=1000)
    category(root / "03", defects={"ko": 2}, normal="ok", suffixes=[".bmp"], masks="{defect}/{stem}.bmp", seed=2000)
    return root


def mirad(
    root: Path, categories: Sequence[str] = ("rabbit_pendant", "number_block"), masks: str = "{stem}_mask.png"
) -> Path:
    """MIRAD: JPEG, PNG and BMP photographs, masks where `masks` says below ground_truth."""
    for number, name in enumerate(categories):
        suffixes = [".jpg", ".png", ".bmp"]
        category(root / name, defects={"anomaly": 4}, suffixes=suffixes, masks=masks, seed=1000 * number)
    return root


def private(root: Path, masks: str = "{defect}/{stem}.png") -> Path:
    """The folder of RADL's HSP or small parts."""
    return category(root, defects={"defect": 3}, suffixes=[".jpg"], masks=masks)
