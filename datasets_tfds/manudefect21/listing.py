"""ManuDefect-21 by a list of its images, split.csv or meta.json."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from datasets_tfds.core import Photograph, image_id, read_bytes
from datasets_tfds.manudefect21.names import CATEGORIES, category_of, defect_type_of, find_mask
from jaxad.errors import UserError

FILES = ("split.csv", "meta.json")

_REQUIRED, _OPTIONAL = ("category", "split", "label", "image"), ("defect", "mask")


def read_list(file: Path, category: str) -> dict[str, list[Photograph]]:
    """The photographs of one category by split, train and test; paths in the list are relative to its folder.

    Raises:
      UserError: what is wrong with the file, by line (CSV) or entry (JSON, from 0).
    """
    root = file.parent
    splits: dict[str, list[Photograph]] = {"train": [], "test": []}
    seen: dict[Path, str] = {}
    for where, row in _csv_rows(file) if file.suffix == ".csv" else _json_rows(file):
        listed = category_of(row["category"])
        if listed is None:
            raise UserError(f"{where}: unknown category {row['category']!r}; expected one of {', '.join(CATEGORIES)}")
        split = row["split"].strip().lower()
        if split not in splits:
            raise UserError(f"{where}: split is {row['split']!r}; expected train or test")
        defect_type = _defect_type(row, where)
        if listed != category:
            continue
        image = _existing(root, row["image"], f"{where}: image")
        if image in seen:
            raise UserError(f"{where}: {image} was listed before, in {seen[image]}; remove one")
        seen[image] = where
        label, mask = int(defect_type != "good"), None
        if label:
            listed_mask = [_existing(root, row["mask"], f"{where}: mask")] if row["mask"].strip() else []
            mask = find_mask(image, listed_mask, where)
        splits[split].append(Photograph(image, image_id(image, root), label, defect_type, mask))
    return splits


def _defect_type(row: Mapping[str, str], where: str) -> str:
    by_label = {"0": "good", "1": "anomaly"}.get(row["label"].strip()) or defect_type_of(row["label"], where)
    if by_label not in ("good", "anomaly"):
        raise UserError(f"{where}: label is {row['label']!r}; expected good or anomaly, 0 or 1")
    told = row["defect"].strip()
    if by_label == "good" or not told:
        return by_label
    if defect_type_of(told, where) == "good":
        raise UserError(f"{where}: label is {row['label']!r} but defect is {told!r}; expected a type of defect")
    return defect_type_of(told, where)


def _existing(root: Path, name: str, what: str) -> Path:
    relative = PurePosixPath(name.strip().replace("\\", "/"))
    if not relative.parts or relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{what} is {name!r}; expected a path relative to {root}, and below it")
    if not (root / relative).is_file():
        raise UserError(f"{what} is {name!r}, but there is no file {root / relative}")
    return root / relative


def _csv_rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        text = read_bytes(file).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = reader.fieldnames or []
        for column in _REQUIRED:
            if column not in header:
                raise UserError(f"{file}, line 1: no column {column!r}; expected {', '.join((*_REQUIRED, *_OPTIONAL))}")
        for row in reader:
            yield f"{file}, line {reader.line_num}", {name: row.get(name) or "" for name in (*_REQUIRED, *_OPTIONAL)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is no CSV file in UTF-8 ({error}): save it as such") from error


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        entries = json.loads(read_bytes(file))
    except ValueError as error:
        raise UserError(f"{file} is no JSON file ({error}): save it as such") from error
    if not isinstance(entries, list):
        raise UserError(f"{file}: expected a list of objects with {', '.join((*_REQUIRED, *_OPTIONAL))}")
    for number, entry in enumerate(entries):
        where = f"{file}, entry {number}"
        for name in _REQUIRED:
            if not isinstance(entry, dict) or name not in entry:
                raise UserError(f"{where}: no {name!r}; expected {', '.join((*_REQUIRED, *_OPTIONAL))}")
        yield where, {name: _text(entry.get(name)) for name in (*_REQUIRED, *_OPTIONAL)}


def _text(value: Any) -> str:
    """As the CSV file would have it: nothing for null, 0 and 1 for false and true."""
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)
