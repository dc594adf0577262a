"""MTD: the protocol, the threshold of its anti-aliased masks, the published counts."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datasets_tfds.magnetic_tile.magnetic_tile_dataset_builder import Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw import magnetic_tile


def prepared(tmp_path, manual_dir):
    return prepare("magnetic_tile", data_dir=str(tmp_path / "tfds"), manual_dir=str(manual_dir))["magnetic_tile"]


def test_every_fifth_free_tile_and_all_defective_ones_are_tested(tmp_path):
    builder = prepared(tmp_path, magnetic_tile(tmp_path / "raw"))
    assert [e["image_id"][-8:] for e in builder.as_data_source("train")] == [b"exp%d.jpg" % i for i in range(1, 5)]
    test = list(builder.as_data_source("test"))
    assert [e["image_id"][-8:] for e in test[:2]] == [b"exp0.jpg", b"exp5.jpg"]
    assert [e["label"] for e in test] == [0, 0, 1, 1, 1, 1, 1]
    assert [e["defect_type"].decode() for e in test[2:]] == [
        "MT_Blowhole",
        "MT_Break",
        "MT_Crack",
        "MT_Fray",
        "MT_Uneven",
    ]


def test_mask_values_up_to_127_are_not_defects(tmp_path):
    builder = prepared(tmp_path, magnetic_tile(tmp_path / "raw"))
    uneven = builder.as_data_source("test")[6]
    want = np.zeros((37, 52, 1), np.uint8)
    want[12:18, 12:18] = 255
    np.testing.assert_array_equal(uneven["mask"], want)


def test_a_folder_around_the_data_is_looked_into(tmp_path):
    magnetic_tile(tmp_path / "raw" / "Magnetic-tile-defect-datasets.-master")
    assert prepared(tmp_path, tmp_path / "raw").info.splits["train"].num_examples == 4


def test_other_counts_than_published_give_both_numbers(tmp_path, caplog):
    Builder(data_dir=tmp_path).photographs(magnetic_tile(tmp_path / "raw"))
    assert "found 6 defect-free (published: 952), 5 defective (published: 392)" in caplog.text


def test_missing_raw_data_says_where_to_get_it_and_where_to_put_it(tmp_path):
    with pytest.raises(
        UserError, match=rf"no raw data in {tmp_path}/tfds/downloads/manual; get github\.com/abin24.*MT_Free"
    ):
        prepared(tmp_path, "")
    with pytest.raises(UserError, match=r"config\.dataset\.manual_dir is '.*gone', which is not a folder"):
        prepared(tmp_path, tmp_path / "gone")
    (tmp_path / "raw" / "wrong").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no folder MT_Free in .*raw; get github\.com/abin24"):
        prepared(tmp_path, tmp_path / "raw")


def test_missing_mask_and_missing_type_are_named(tmp_path):
    raw = magnetic_tile(tmp_path / "raw")
    (raw / "MT_Crack" / "Imgs" / "exp0.png").unlink()
    with pytest.raises(UserError, match=r"no mask for .*MT_Crack/Imgs/exp0\.jpg"):
        prepared(tmp_path, raw)
    (raw / "MT_Crack" / "Imgs" / "exp0.jpg").unlink()
    with pytest.raises(UserError, match=r"no photograph \(NAME\.jpg\) in .*MT_Crack/Imgs"):
        prepared(tmp_path, raw)


def test_real_data_has_the_published_counts(tmp_path, caplog):
    shared = os.environ.get("JAXAD_SHARED")
    if not shared:
        pytest.skip("JAXAD_SHARED is not set")
    splits = Builder(data_dir=tmp_path).photographs(Path(shared, "data", "magnetic_tile"))
    assert len(splits["train"]) == 761
    assert Counter(p.label for p in splits["test"]) == {0: 191, 1: 392}
    assert Counter(p.defect_type for p in splits["test"] if p.label) == {
        "MT_Blowhole": 115,
        "MT_Break": 85,
        "MT_Crack": 57,
        "MT_Fray": 32,
        "MT_Uneven": 103,
    }
    assert "published" not in caplog.text
