"""Tiny raw data sets on disk: real image files of odd sizes."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth uint8 RGB image that depends on its seed only and stays recognisable as JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (37, 52), **save) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, *size)).save(path, **save)
    return path


def mask(
    path: Path, size: tuple[int, int] = (37, 52), value: int = 255, box: tuple[int, int, int, int] = (4, 3, 20, 15)
):
    """A mask file, `value` in the box (left, top, right, bottom) and 0 elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[box[1] : box[3], box[0] : box[2]] = value
    Image.fromarray(values).save(path)
    return path


def mvtec_folder(
    root: Path, train: int = 5, good: int = 2, defects: tuple[str, ...] = ("scratch",), seed: int = 0
) -> Path:
    """A category in MVTec AD's layout: PNG photographs, two per defect, with masks NNN_mask.png."""
    for i in range(train):
        photograph(root / "train" / "good" / f"{i:03}.png", seed + i)
    for i in range(good):
        photograph(root / "test" / "good" / f"{i:03}.png", seed + 100 + i)
    for number, defect in enumerate(defects, 2):
        for i in range(2):
            photograph(root / "test" / defect / f"{i:03}.png", seed + 100 * number + i)
            mask(root / "ground_truth" / defect / f"{i:03}_mask.png")
    return root


def magnetic_tile(root: Path, free: int = 6) -> Path:
    """MTD's layout: JPEG photographs with PNG masks beside them, anti-aliased at the border."""
    for folder, number in {
        "MT_Free": free,
        **dict.fromkeys(("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray"), 1),
    }.items():
        for i in range(number):
            size = (30 + i, 41)
            photograph(root / folder / "Imgs" / f"exp{i}.jpg", i, size)
            mask(root / folder / "Imgs" / f"exp{i}.png", size, 0 if folder == "MT_Free" else 255)
    photograph(root / "MT_Uneven" / "Imgs" / "exp0.jpg", 9)
    values = np.zeros((37, 52), np.uint8)
    values[10:20, 10:20], values[12:18, 12:18] = 127, 128
    Image.fromarray(values).save(root / "MT_Uneven" / "Imgs" / "exp0.png")
    return root


def elpv(root: Path, normal: int = 6) -> Path:
    """ELPV's layout: cells of both types, the last two of each defective."""
    lines = []
    for kind in ("mono", "poly"):
        for i in range(normal + 2):
            name = f"images/cell{len(lines):04}.png"
            photograph(root / name, len(lines))
            lines.append(f"{name} {float(i >= normal)} {kind}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def dataset_config(name: str, data_dir: Path, **fields) -> ConfigDict:
    """`config.dataset`."""
    config = ConfigDict({"name": name, "category": "all", "path": "", "manual_dir": "", "data_dir": str(data_dir)})
    config.update(fields)
    return config


def input_config(**fields) -> ConfigDict:
    """`config.input`, at 32x48."""
    config = ConfigDict(
        {
            "size": (32, 48),
            "geometry": "stretch",
            "resize": 48,
            "interpolation": "bilinear",
            "mask_interpolation": "nearest",
            "antialias": True,
            "cache_gib": 1.0,
        }
    )
    config.update(fields)
    return config
