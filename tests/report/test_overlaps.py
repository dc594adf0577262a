import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.metrics.resampling import OverlapProfile
from jaxad.report.overlaps import OVERLAPS, read_overlaps, save_overlaps


def profile(seed):
    draw = np.random.default_rng(seed)
    return OverlapProfile(
        normal=draw.integers(0, 9, (4, 5)).astype(np.int32),
        normal_pixels=np.full(4, 9, np.int32),
        overlap=draw.random((2, 5)).astype(np.float32),
        image=np.array([1, 3], np.int32),
    )


def test_profiles_of_several_models_come_back_by_category(tmp_path):
    save_overlaps(tmp_path / "one", {"brick": profile(0), "pièce/2": profile(1)})
    save_overlaps(tmp_path / "two", {"button": profile(2)})
    found = read_overlaps(tmp_path)
    assert list(found) == ["brick", "pièce/2", "button"]
    for seed, one in enumerate(found.values()):
        np.testing.assert_array_equal(one.normal, profile(seed).normal)
        np.testing.assert_array_equal(one.overlap, profile(seed).overlap)
        np.testing.assert_array_equal(one.image, [1, 3])


def test_no_file_is_no_profile(tmp_path):
    assert read_overlaps(tmp_path) == {}


def test_a_damaged_file_is_named(tmp_path):
    save_overlaps(tmp_path / "one", {"brick": profile(0)})
    path = tmp_path / "one" / OVERLAPS
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=OVERLAPS):
        read_overlaps(tmp_path)
