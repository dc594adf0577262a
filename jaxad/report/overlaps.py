"""Overlap profiles on disk, so that the AUPROs of two evaluations can be compared without their anomaly maps."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from jaxad.errors import UserError
from jaxad.files import replacing
from jaxad.metrics.resampling import OverlapProfile

OVERLAPS = "overlaps.npz"


def save_overlaps(folder: Path, profiles: Mapping[str, OverlapProfile]) -> None:
    """Writes the profiles of a model's categories to one file in `folder`, whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {
        f"{place}/{field.name}": getattr(profile, field.name)
        for place, profile in enumerate(profiles.values())
        for field in fields(profile)
    }
    with replacing(folder / OVERLAPS) as file:
        np.savez_compressed(file, categories=np.array(json.dumps(list(profiles))), **arrays)


def read_overlaps(folder: Path) -> dict[str, OverlapProfile]:
    """The profiles of all models below `folder`, by category.

    Raises:
      UserError: a file is damaged.
    """
    profiles = {}
    for path in sorted(folder.glob(f"*/{OVERLAPS}")):
        try:
            with np.load(path, allow_pickle=False) as stored:
                for place, category in enumerate(json.loads(str(stored["categories"]))):
                    arrays = {field.name: stored[f"{place}/{field.name}"] for field in fields(OverlapProfile)}
                    profiles[category] = OverlapProfile(**arrays)
        except Exception as error:  # zipfile and NumPy have many errors for a damaged file
            raise UserError(f"{path}: {error}, expected what an evaluation wrote; evaluate the run again") from error
    return profiles
