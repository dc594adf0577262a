"""The gallery's images on disk, so that a report over many categories needs no second evaluation."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxad.errors import UserError
from jaxad.files import replacing
from jaxad.report.category import Case, CategoryResult

_ARRAYS = ("image", "map", "mask", "valid")
_FACTS = ("id", "score", "label", "defect_type", "decision", "reasons")


def save_cases(path: Path, results: Sequence[CategoryResult]) -> None:
    """Writes the cases of all results to one .npz file, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    arrays, facts = {}, []
    for result in results:
        for case in result.cases:
            place = len(facts)
            facts.append({"category": result.category, **{name: getattr(case, name) for name in _FACTS}})
            found = {name: getattr(case, name) for name in _ARRAYS}
            arrays |= {f"{place}/{name}": value for name, value in found.items() if value is not None}
    with replacing(path) as file:
        np.savez_compressed(file, facts=np.array(json.dumps(facts)), **arrays)


def with_cases(results: Sequence[CategoryResult], path: Path) -> list[CategoryResult]:
    """The results together with the cases that `save_cases` wrote to `path`.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(str(arrays.pop("facts")))
        cases: dict[str, list[Case]] = {}
        for place, fact in enumerate(facts):
            pictures = {name: arrays.get(f"{place}/{name}") for name in _ARRAYS}
            category = fact.pop("category")
            cases.setdefault(category, []).append(Case(**(fact | pictures | {"reasons": tuple(fact["reasons"])})))
    except Exception as error:  # zipfile and NumPy have many errors for a damaged file
        raise UserError(f"{path}: {error}, expected the gallery of a report; evaluate the run again") from error
    return [replace(result, cases=cases.get(result.category, [])) for result in results]
