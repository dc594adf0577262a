"""The fixture loader makes the same numbers everywhere, and its comparisons can fail."""

import json

import numpy as np
import pytest

from tests.golden.fill import fill, images, uniform
from tests.golden.load import cases, compare, load

UNIFORM = [0.15064040167436343, 0.8848788586602001, -0.2597139258758445]
CONV = np.array([-1.0851306, -1.1051123, -1.1683434, 1.1827077], np.float32)
VARIANCE = np.array([1.3471307, 1.3360546], np.float32)
IMAGE = np.array([-0.2920413, 0.37416503, 0.26389882, 0.50087756], np.float32)


def test_random_values_are_those_the_references_ran_with():
    np.testing.assert_array_equal(uniform("x", (3,), "golden"), UNIFORM)
    np.testing.assert_array_equal(fill("conv1.weight", (2, 1, 1, 2), "golden").ravel(), CONV)
    np.testing.assert_array_equal(fill("bn1.running_var", (2,), "golden"), VARIANCE)
    np.testing.assert_array_equal(images("x", (1, 1, 12, 10), "golden")[0, 0, 5, ::3], IMAGE)


@pytest.fixture
def fixture(tmp_path, monkeypatch):
    meta = {
        "method": "toy",
        "case": "one",
        "kind": "sum",
        "salt": "golden",
        "settings": {},
        "external_weights": None,
        "subsample": {"big": [2, [1]]},
        "inputs": {
            "_mask": {"maker": "uniform", "name": "m", "shape": [4], "ops": [["gt", 0]], "dtype": "bool"},
            "x": {"maker": "stored", "name": "in/x", "shape": [4], "ops": [["mul_input", "_mask"]], "dtype": "float32"},
        },
        "state_dict": [["a.weight", [2, 3], "float32"], ["a.bias", [2], "float32"]],
        "state_dict_rules": [{"match": "^a", "min_ndim": 2, "ops": [["constant", 7]]}],
        "tolerance": {
            "default": {"kind": "exact"},
            "keys": [{"match": "^f", "kind": "relmax", "tol": 0.1, "float64": True}],
        },
    }
    arrays = {"in/x": np.arange(4.0), "out/big": np.array([1, 21]), "out/f": np.ones(2)}
    (tmp_path / "sub").mkdir()
    np.savez(tmp_path / "sub" / "one.npz", meta=np.array(json.dumps(meta)), **arrays)
    np.savez(tmp_path / "not_a_fixture.npz", x=np.zeros(1))
    (tmp_path / "broken.npz").write_bytes(b"")
    monkeypatch.setenv("JAXAD_GOLDEN", str(tmp_path))
    return tmp_path / "sub" / "one.npz"


def test_cases_finds_fixtures_in_subfolders_and_passes_over_other_files(fixture):
    assert [param.values[0] for param in cases("toy", "sum")] == [fixture]


def test_cases_without_a_fixture_is_one_skipped_parameter(fixture):
    (only,) = cases("toy", "product")
    assert only.marks[0].name == "skip"


def test_inputs_and_weights_follow_their_recipe(fixture):
    case = load(fixture)
    assert list(case.inputs) == ["x"]
    np.testing.assert_array_equal(case.inputs["x"], np.arange(4.0) * (uniform("m", (4,), "golden") > 0))
    assert list(case.state_dict) == ["a.weight", "a.bias"]
    assert case.state_dict["a.weight"].dtype == np.float32
    assert np.all(case.state_dict["a.weight"] == 7)
    np.testing.assert_array_equal(case.state_dict["a.bias"], fill("a.bias", (2,), "golden"))


def test_check_takes_whole_or_thinned_outputs_and_names_what_is_wrong(fixture):
    case = load(fixture)
    case.check("big", np.arange(40).reshape(4, 10))
    case.check("big", np.array([1, 21]))
    with pytest.raises(AssertionError, match="toy/one: big: 1 of 2 entries differ"):
        case.check("big", np.array([1, 22]))
    with pytest.raises(AssertionError, match="shape"):
        case.check("big", np.array([1]))
    assert case.needs_float64("f")
    assert not case.needs_float64("big")


@pytest.mark.parametrize(
    ("tolerance", "near", "far"),
    [
        ({"kind": "allclose", "rtol": 0.1, "atol": 0.0}, [1.05, 2, np.nan], [1.2, 2, np.nan]),
        ({"kind": "allclose", "rtol": [0, 1, 0], "atol": [0, 0, 0]}, [1, 3.9, np.nan], [1.1, 2, np.nan]),
        ({"kind": "relmax", "tol": 0.1}, [1.2, 2, np.nan], [1.3, 2, np.nan]),
        ({"kind": "relmax", "tol": 0.1}, [1, 2, np.nan], [1, 2, 3]),
        ({"kind": "relmax", "tol": 0.1}, [1, 2, np.nan], [1, np.nan, np.nan]),
        ({"kind": "exact", "mismatches": 1}, [1, 5, np.nan], [4, 5, np.nan]),
        ({"kind": "exact", "ignore": [0]}, [9, 2, np.nan], [1, 5, np.nan]),
        ({"kind": "prefix", "first": 1}, [1, 5, 6], [2, 2, np.nan]),
        ({"kind": "set"}, [2, 1, np.nan], [2, 2, np.nan]),
    ],
)
def test_each_kind_of_tolerance_passes_near_and_fails_far(tolerance, near, far):
    want = np.array([1, 2, np.nan])
    assert compare(np.array(near, float), want, tolerance)[0]
    assert not compare(np.array(far, float), want, tolerance)[0]
