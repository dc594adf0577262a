"""Tiny raw data of ManuDefect-21, VisA, DTD, CVC-ClinicDB and CVC-ColonDB: image files of odd sizes, some grey."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tests.data.raw import mask, photograph

_COLUMNS = ("category", "split", "label", "defect", "image", "mask")


def grey_photograph(path: Path, seed: int = 0, size: tuple[int, int] = (37, 52)) -> Path:
    photograph(path, seed, size)
    Image.open(path).convert("L").save(path)
    return path


def labelled_pair(image: Path, mask_file: Path | None, seed: int) -> None:
    """An image of an odd size, every third one grey, and a mask of the same size if `mask_file` is given."""
    size = (31 + 2 * (seed % 4), 45 - 2 * (seed % 3))
    (grey_photograph if seed % 3 == 0 else photograph)(image, seed, size)
    if mask_file:
        mask(mask_file, size, value=1 + 127 * (seed % 3), box=(4, 3, 10 + seed % 5, 12))


def manudefect21(root: Path, good: int = 12, defective: int = 3, layout: str = "A") -> Path:
    """ManuDefect-21: two categories with two types of defects.

    Args:
      root: where to put it; made by the function.
      good: normal images of the training set; a third as many are tested.
      defective: training images of each type of defect; one of each is tested.
      layout: A, CATEGORY/SPLIT/TYPE; B, SPLIT/CATEGORY/TYPE; csv or json, a list of files.
    """
    rows, seed = [], 0
    for category in ("BGA", "ALUMINUM_CAPACITOR"):
        for split in ("train", "test"):
            numbers = {"good": good, "cold_joint": defective, "missing": defective}
            if split == "test":
                numbers = {"good": good // 3, "cold_joint": 1, "missing": 1}
            for kind, number in numbers.items():
                for i in range(number):
                    seed += 1
                    image = Path(category, split, kind, f"{i:03}.png")
                    truth = None if kind == "good" else Path(category, "ground_truth", split, kind, f"{i:03}_mask.png")
                    if layout == "B":
                        image = Path(split, category, kind, f"{i:03}.png")
                        truth = truth and Path("ground_truth", split, category, kind, f"{i:03}.png")
                    elif layout in ("csv", "json"):
                        image, truth = Path("images", f"{seed:04}.png"), truth and Path("masks", f"{seed:04}.png")
                    labelled_pair(root / image, truth and root / truth, seed)
                    label, defect = ("normal", "") if kind == "good" else ("anomaly", kind)
                    values = (category, split, label, defect, image.as_posix(), truth.as_posix() if truth else "")
                    rows.append(dict(zip(_COLUMNS, values, strict=True)))
    if layout == "csv":
        write_csv(root / "split.csv", rows)
    if layout == "json":
        (root / "meta.json").write_text(json.dumps(rows))
    return root


def visa(root: Path, categories: tuple[str, ...] = ("candle", "pcb3"), normal: int = 5, anomalous: int = 2) -> Path:
    """VisA as published: every fifth normal image is a test image, mask values are small type numbers."""
    rows = []
    for number, category in enumerate(categories):
        for i in range(normal):
            image = Path(category, "Data", "Images", "Normal", f"{i:04}.JPG")
            photograph(root / image, 100 * number + i, (40 + i, 53))
            split = "train" if i % 5 else "test"
            rows.append((category, split, "normal", image.as_posix(), ""))
        for i in range(anomalous):
            image = Path(category, "Data", "Images", "Anomaly", f"{i:03}.JPG")
            truth = Path(category, "Data", "Masks", "Anomaly", f"{i:03}.png")
            photograph(root / image, 100 * number + 50 + i, (40 + i, 53))
            mask(root / truth, (40 + i, 53), value=1 + i)
            rows.append((category, "test", "anomaly", image.as_posix(), truth.as_posix()))
    header = ("object", "split", "label", "image", "mask")
    write_csv(root / "split_csv" / "1cls.csv", [dict(zip(header, row, strict=True)) for row in rows])
    return root


def dtd(root: Path, classes: Sequence[str], number: int = 2) -> Path:
    """DTD's archive, unpacked: dtd/images/CLASS/CLASS_NNNN.jpg."""
    for seed, name in enumerate(classes):
        for i in range(number):
            make = grey_photograph if i == 1 else photograph
            make(root / "dtd" / "images" / name / f"{name}_{i:04}.jpg", seed + 100 * i, (43 + 6 * i, 67 - seed % 5))
    return root


def polyps(root: Path, images: str, masks: str, number: int = 3, suffix: str = ".png") -> Path:
    """A folder of images and one of masks with the same names: CVC-ClinicDB (Original, Ground Truth), CVC-ColonDB."""
    for i in range(1, number + 1):
        photograph(root / images / f"{i}{suffix}", i, (41, 55))
        mask(root / masks / f"{i}{suffix}", (41, 55), box=(8, 6, 20 + i, 22))
    return root


def write_csv(file: Path, rows: list[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
