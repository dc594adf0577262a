"""How each photograph was taken: the features of MIRAD and of data sets like it, and the file that lists them."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from datasets_tfds.core import read_bytes
from jaxad.errors import UserError, did_you_mean

FILE = "factors.csv"

IMAGING: Mapping[str, Any] = {
    "node": tfds.features.Text(doc="The place where it was photographed."),
    "background": tfds.features.Text(doc="What lies under the product."),
    "illumination": tfds.features.Text(),
    "view": tfds.features.Text(),
    "motion": tfds.features.Text(),
    "noise": tfds.features.Text(),
    "resolution": np.int32,  # pixels across the field of view
}


def unknown(factors: Mapping[str, Any] = IMAGING) -> dict[str, str | int | float]:
    """The factors of an image about which nothing is known: "" and 0."""
    return {name: _parser(feature)("") for name, feature in factors.items()}


def read_factors(
    category_folder: Path, factors: Mapping[str, Any] = IMAGING
) -> dict[str, dict[str, str | int | float]]:
    """The factors that `factors.csv` in a category's folder lists.

    The file has a header (`image` and any of `factors`) and one line per image. What it leaves out is "" or 0.

    Args:
      category_folder: holds train, test and possibly factors.csv.
      factors: the features by name: texts, or NumPy types of numbers.

    Returns:
      All factors by name, for each image by its path relative to the folder; empty where there is no such file.

    Raises:
      UserError: a column is not a factor, an image is named twice, or a value is not a number.
    """
    file = category_folder / FILE
    if not file.is_file():
        return {}
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text))
    columns = [name.strip() for name in next(reader, [])]
    known = ("image", *factors)
    for name in columns:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"{file} has a column {name!r}; expected image and any of {', '.join(factors)}.{near}")
    if len(set(columns)) < len(columns) or "image" not in columns:
        raise UserError(f"{file} has the columns {', '.join(columns)}; expected image and each factor at most once")
    found: dict[str, dict[str, str | int | float]] = {}
    for fields in reader:
        if not fields:
            continue
        line = f"{file}, line {reader.line_num}"
        if len(fields) != len(columns):
            raise UserError(f"{line}: found {len(fields)} fields, expected {len(columns)}: {', '.join(columns)}")
        row = {name: field.strip() for name, field in zip(columns, fields, strict=True)}
        image = row.pop("image")
        if image in found:
            raise UserError(f"{line}: {image} is named a second time; expected one line per image")
        found[image] = unknown(factors)
        for name, value in row.items():
            try:
                found[image][name] = _parser(factors[name])(value)
            except ValueError:
                raise UserError(f"{line}: {name} is {value!r}, expected a number") from None
    return found


def _parser(feature: Any) -> Any:
    """The function from a field's text to the feature's type; an empty field is "" or 0."""
    kind = np.dtype(getattr(feature, "np_dtype", feature))
    if np.issubdtype(kind, np.integer):
        return lambda text: int(text or 0)
    if np.issubdtype(kind, np.floating):
        return lambda text: float(text or 0)
    return str
