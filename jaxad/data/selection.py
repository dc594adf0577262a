"""Selects images by their properties, as in `config.dataset.where`: `node!=3,background=wood|paper,label=normal`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxad.errors import UserError, did_you_mean

_CONDITION = re.compile(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")
_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
_LABELS = ("normal", "anomalous")


def select(where: str, index: Mapping[str, Sequence[Any]], field: str) -> Bool[np.ndarray, " n"]:
    """Which images of an index (`datasets_tfds.core.read_index`) meet every condition.

    Args:
      where: conditions separated by commas: NAME=VALUE, NAME=VALUE|VALUE, NAME!=VALUE, and <, <=, >, >= for numbers.
        A name is `label` (normal, anomalous), `defect_type`, `image_id` or a factor of the data set; "" is all images.
      field: the config field that `where` comes from, for errors.

    Raises:
      UserError: a condition is malformed, a name is unknown, texts are compared by size, or no image has a value.
    """
    columns = {name: values for name, values in index.items() if name not in ("size", "has_mask")}
    columns["label"] = [_LABELS[label] for label in index["label"]]
    chosen = np.ones(len(index["label"]), bool)
    for condition in where.split(",") if where.strip() else []:
        found = _CONDITION.fullmatch(condition)
        if found is None:
            expected = "expected NAME=VALUE, NAME!=VALUE or NAME<NUMBER"
            raise UserError(f"{field}: {condition!r} is not a condition; {expected}")
        name, sign, value = found.groups()
        if name not in columns:
            near = did_you_mean(name, columns)
            raise UserError(f"{field}: images have no {name!r}; expected one of {', '.join(columns)}.{near}")
        values = columns[name]
        numeric = all(isinstance(one, int | float) for one in values)
        if sign in _COMPARE:
            chosen &= _COMPARE[sign](values, _number(value, field, condition)) if numeric else _no_order(field, name)
            continue
        wanted = [_number(one, field, condition) if numeric else one.strip() for one in value.split("|")]
        if unknown := [one for one in wanted if one not in values]:
            known = sorted(set(values))
            shown = ", ".join(map(str, known[:12])) + ", ..." * (len(known) > 12)
            raise UserError(f"{field}: no image has {name}={unknown[0]}; there are {shown}")
        chosen &= np.array([one in wanted for one in values], bool) == (sign == "=")
    return chosen


def _number(text: str, field: str, condition: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{field}: {condition.strip()!r} compares a number with {text!r}") from None


def _no_order(field: str, name: str):
    raise UserError(f"{field}: {name} is text, which has no order; expected {name}=VALUE or {name}!=VALUE")
