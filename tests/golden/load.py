"""Golden fixtures: outputs of the reference implementations, with the recipe for their inputs and weights.

@pytest.mark.parametrize("path", cases("backbones", "features"))
def test_features(path):
    case = load(path)
    taps = run(case.state_dict, case.inputs["x"], **case.settings)
    for key in case.expected:
        case.check(key, taps[key])
"""

import functools
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.fill import fill, images, uniform
from tests.golden.ops import OPS, At


def folder() -> Path:
    """The folder of fixtures: `$JAXAD_GOLDEN`, else `data` beside this file."""
    return Path(os.environ.get("JAXAD_GOLDEN") or Path(__file__).parent / "data")


def cases(method: str, kind: str) -> list:
    """The paths of all fixtures of one method and kind, as pytest parameters; one skipped when there are none."""
    params = [
        pytest.param(path, id=path.relative_to(folder()).with_suffix("").as_posix())
        for path, meta in _metas(folder())
        if (meta["method"], meta["kind"]) == (method, kind)
    ]
    reason = f"no fixture of method {method}, kind {kind}"
    return params or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))]


@functools.cache
def _metas(root: Path) -> list[tuple[Path, dict]]:
    """(path, meta) of every fixture below `root`; files without a `meta` entry are passed over."""
    metas = []
    for path in sorted(root.rglob("*.npz")):
        if not zipfile.is_zipfile(path):
            continue
        with np.load(path) as archive:
            meta = json.loads(str(archive["meta"])) if "meta" in archive.files else {}
        if {"method", "kind"} <= meta.keys():
            metas.append((path, meta))
    return metas


class Made(Mapping):
    """A read-only mapping in a fixed order; each value is made when asked for and not kept."""

    def __init__(self, make: Callable[[str], np.ndarray], keys: Iterable[str]):
        self._make, self._keys = make, dict.fromkeys(keys)

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._keys:
            raise KeyError(key)
        return self._make(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@dataclass(frozen=True)
class Case:
    """One fixture: its `meta`, and the file's arrays by their names there (`out/KEY`, `in/NAME`, `sd/KEY`)."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.meta['method']}/{self.meta['case']}"

    @property
    def settings(self) -> dict[str, Any]:
        return self.meta["settings"]

    @property
    def subsample(self) -> dict[str, list]:
        """What is stored of each output, per leading axis: a stride n, an index [i] or a slice [start, stop, step]."""
        return self.meta["subsample"]

    @property
    def external_weights(self) -> dict[str, Any] | None:
        """Package, file and sha256 of real weights; `state_dict` is then empty."""
        return self.meta["external_weights"]

    @functools.cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """The reference's outputs, thinned as `subsample` says."""
        return {key.removeprefix("out/"): v for key, v in self.arrays.items() if key.startswith("out/")}

    @functools.cached_property
    def inputs(self) -> Made:
        """The inputs by name; the recipe's steps with a leading underscore are not inputs."""
        return Made(self._input, [key for key in self.meta["inputs"] if not key.startswith("_")])

    @functools.cached_property
    def state_dict(self) -> Made:
        """The weights under PyTorch's names, in its layouts and order."""
        entries = {key: (shape, dtype) for key, shape, dtype in self.meta["state_dict"]}
        return Made(lambda key: self._weight(key, *entries[key]), [] if self.external_weights else entries)

    def tolerance(self, key: str) -> dict[str, Any]:
        """The first rule whose expression matches the output's key, or else the default."""
        rules = self.meta["tolerance"]
        return next((rule for rule in rules["keys"] if re.search(rule["match"], key)), rules["default"])

    def needs_float64(self, key: str) -> bool:
        """Whether the expected output is that of a float64 run, which a float32 run cannot reach."""
        return self.tolerance(key).get("float64", False)

    def thin(self, key: str, whole: np.ndarray) -> np.ndarray:
        """The part of a whole output that the file holds."""

        def index(step):
            if isinstance(step, int):
                return slice(None, None, step)
            return step[0] if len(step) == 1 else slice(*step)

        return whole[tuple(index(step) for step in self.subsample.get(key, []))]

    def check(self, key: str, got) -> None:
        """Raises AssertionError (key, error, tolerance) unless `got`, whole or thinned, equals `expected[key]`."""
        got, want, tolerance = np.asarray(got), self.expected[key], self.tolerance(key)
        if got.shape != want.shape and got.ndim >= len(self.subsample.get(key, [])):
            got = self.thin(key, got)
        if got.shape != want.shape:
            passes, outcome = False, f"shape {got.shape}, expected {want.shape}"
        else:
            passes, outcome = compare(got, want, tolerance)
        if not passes:
            raise AssertionError(f"{self.name}: {key}: {outcome}; tolerance {tolerance}")

    def _input(self, key: str) -> np.ndarray:
        spec = self.meta["inputs"][key]
        name, shape = spec["name"], spec["shape"]
        begin = {"images": images, "uniform": uniform}.get(spec["maker"])
        value = begin(name, shape, self.meta["salt"]) if begin else self.arrays[name]
        return np.array(self._apply(spec["ops"], value, name, shape).astype(spec["dtype"]), order="C")

    def _weight(self, key: str, shape: list[int], dtype: str) -> np.ndarray:
        value = fill(key, shape, self.meta["salt"])
        for rule in self.meta["state_dict_rules"]:
            if re.search(rule["match"], key) and len(shape) >= rule.get("min_ndim", 0):
                value = self._apply(rule["ops"], value, key, shape)
                break
        return np.array(value.astype(dtype).reshape(shape), order="C")

    def _apply(self, ops: list, value: np.ndarray, name: str, shape: list[int]) -> np.ndarray:
        at = At(name, tuple(shape), self.meta["salt"], self.arrays, self._input)
        for op, *arguments in ops:
            value = OPS[op](value, at, *arguments)
        return np.asarray(value)


def load(path: str | Path) -> Case:
    """Read one fixture file."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    return Case(json.loads(str(arrays.pop("meta"))), arrays)


def compare(got: np.ndarray, want: np.ndarray, tolerance: dict[str, Any]) -> tuple[bool, str]:
    """(whether two arrays of one shape agree, a message about their differences). NaN agrees with NaN."""
    kind = tolerance["kind"]
    if kind == "skip":
        return True, "not compared"
    if kind not in ("allclose", "relmax", "exact", "prefix", "set"):
        raise ValueError(f"unknown tolerance kind {kind!r}")
    keep: Any = ...
    if "ignore" in tolerance:
        keep = np.setdiff1d(np.arange(len(want)), tolerance["ignore"])
    got, want = got[keep], want[keep]
    if kind == "prefix":
        got, want = got[: tolerance["first"]], want[: tolerance["first"]]
    if kind == "set":
        got, want = np.sort(got, axis=-1), np.sort(want, axis=-1)
    same = (got == want) | (np.not_equal(got, got) & np.not_equal(want, want))
    if kind in ("exact", "prefix", "set"):
        wrong = int(np.sum(~same))
        return wrong <= tolerance.get("mismatches", 0), f"{wrong} of {same.size} entries differ"

    got, want = np.where(same, 0.0, got.astype(np.float64)), want.astype(np.float64)
    error = np.abs(got - np.where(same, 0.0, want))
    error = np.where(np.isnan(error), np.inf, error)
    if kind == "relmax":
        allowed = tolerance["tol"] * np.max(np.abs(np.nan_to_num(want)), initial=0.0)
    else:
        allowed = _per_step(tolerance["atol"], keep, want) + _per_step(tolerance["rtol"], keep, want) * np.abs(want)
    allowed = np.nan_to_num(np.broadcast_to(allowed, want.shape))
    too_far = ~same & (error > allowed)
    if not np.any(too_far):
        return True, f"largest error {np.max(error, initial=0.0):.3g}"
    worst = np.unravel_index(np.argmax(np.where(same, -np.inf, error - allowed)), error.shape)
    return False, (
        f"{np.sum(too_far)} of {error.size} entries too far, worst at {tuple(map(int, worst))}: got {got[worst]:.8g}, "
        f"expected {want[worst]:.8g}, error {error[worst]:.3g}, allowed {allowed[worst]:.3g}"
    )


def _per_step(bound: float | list[float], keep, want: np.ndarray) -> np.ndarray:
    """A single bound as it is; a list holds one for each index of the first axis."""
    numbers = np.asarray(bound)
    return numbers if numbers.ndim == 0 else numbers[keep].reshape(-1, *[1] * (want.ndim - 1))
