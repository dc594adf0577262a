"""ManuDefect-21 as described by a list of its images, split.csv or meta.json."""

from collections.abc import Mapping
from pathlib import Path

from datasets_tfds.core import Photograph, image_id
from datasets_tfds.listing import csv_rows, json_rows, listed_file
from datasets_tfds.manudefect21.names import CATEGORIES, category_of, defect_type_of, find_mask
from jaxad.errors import UserError

FILES = ("split.csv", "meta.json")

_COLUMNS = ("category", "split", "label", "image"), ("defect", "mask")  # required, optional


def read_list(file: Path, category: str) -> dict[str, list[Photograph]]:
    """The photographs of one category by split, train and test; paths in the list are relative to its folder.

    Raises:
      UserError: something in the file is wrong; the message names the line (CSV) or the entry (JSON, counted from 0).
    """
    root = file.parent
    splits: dict[str, list[Photograph]] = {"train": [], "test": []}
    seen: dict[Path, str] = {}
    for where, row in (csv_rows if file.suffix == ".csv" else json_rows)(file, *_COLUMNS):
        listed = category_of(row["category"])
        if listed is None:
            raise UserError(f"{where}: unknown category {row['category']!r}; expected one of {', '.join(CATEGORIES)}")
        split = row["split"].strip().lower()
        if split not in splits:
            raise UserError(f"{where}: split is {row['split']!r}; expected train or test")
        defect_type = _defect_type(row, where)
        if listed != category:
            continue
        image = listed_file(root, row["image"], f"{where}: image")
        if image in seen:
            raise UserError(f"{where}: {image} was listed before, in {seen[image]}; remove one")
        seen[image] = where
        label, mask = int(defect_type != "good"), None
        if label:
            listed_mask = [listed_file(root, row["mask"], f"{where}: mask")] if row["mask"].strip() else []
            mask = find_mask(image, listed_mask, where)
        splits[split].append(Photograph(image, image_id(image, root), label, defect_type, mask))
    return splits


def _defect_type(row: Mapping[str, str], where: str) -> str:
    by_label = {"0": "good", "1": "anomaly"}.get(row["label"].strip()) or defect_type_of(row["label"], where)
    if by_label not in ("good", "anomaly"):
        raise UserError(f"{where}: label is {row['label']!r}; expected good or anomaly, 0 or 1")
    stated = row["defect"].strip()
    if by_label == "good" or not stated:
        return by_label
    if defect_type_of(stated, where) == "good":
        raise UserError(f"{where}: label is {row['label']!r} but defect is {stated!r}; expected a type of defect")
    return defect_type_of(stated, where)
