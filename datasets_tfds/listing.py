"""The lists of files, in CSV or JSON, that come with some data sets; every error names the line."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datasets_tfds.core import read_bytes
from jaxad.errors import UserError


def csv_rows(file: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of each line of a CSV file with a header; "" where an optional column or a value is missing.

    Raises:
      UserError: the file is not CSV in UTF-8, or a required column is missing.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(file).decode("utf-8-sig"), newline=""), strict=True)
        header = reader.fieldnames or []
        for name in required:
            if name not in header:
                raise UserError(f"{file}, line 1: no column {name!r}; expected {', '.join((*required, *optional))}")
        for row in reader:
            yield f"{file}, line {reader.line_num}", {name: row.get(name) or "" for name in (*required, *optional)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is not a CSV file in UTF-8 ({error}): save it as such, or copy it again") from error


def json_rows(
    file: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of each entry of a JSON list of objects, with its values as a CSV file would have them.

    Raises:
      UserError: the file is not such a list, or a required name is missing.
    """
    try:
        entries = json.loads(read_bytes(file))
    except ValueError as error:
        raise UserError(f"{file} is not a JSON file ({error}): save it as such, or copy it again") from error
    names = ", ".join((*required, *optional))
    if not isinstance(entries, list):
        raise UserError(f"{file}: expected a list of objects with {names}")
    for number, entry in enumerate(entries):
        for name in required:
            if not isinstance(entry, dict) or name not in entry:
                raise UserError(f"{file}, entry {number}: no {name!r}; expected {names}")
        yield f"{file}, entry {number}", {name: _text(entry.get(name)) for name in (*required, *optional)}


def listed_file(root: Path, name: str, what: str) -> Path:
    """The file below `root` that a list names, with separators of Unix or of Windows.

    Args:
      what: the place in the list, for errors.

    Raises:
      UserError: the path is absolute or leaves `root`, or there is no such file.
    """
    relative = PurePosixPath(name.strip().replace("\\", "/"))
    if not relative.parts or relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{what} is {name!r}; expected a path relative to {root}, and below it")
    if not (root / relative).is_file():
        raise UserError(f"{what} is {name!r}, but there is no file {root / relative}")
    return root / relative


def _text(value: Any) -> str:
    """The value as text: "" for null, "0" and "1" for false and true."""
    return "" if value is None else str(int(value) if isinstance(value, bool) else value)
