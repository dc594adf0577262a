"""CVC-ClinicDB and CVC-ColonDB: images and masks with the same names, all anomalous, for testing only."""

import numpy as np
import pytest

from datasets_tfds.cvc_clinicdb.cvc_clinicdb_dataset_builder import Builder as ClinicDB
from datasets_tfds.cvc_colondb.cvc_colondb_dataset_builder import Builder as ColonDB
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw_sets import move, polyps


@pytest.mark.parametrize(
    "name, images, masks, suffix",
    [
        ("cvc_clinicdb", "Original", "Ground Truth", ".tif"),
        ("cvc_clinicdb", "PNG/Original", "PNG/Ground Truth", ".png"),
        ("cvc_colondb", "images", "masks", ".png"),
    ],
)
def test_every_image_is_a_test_image_with_a_mask(tmp_path, name, images, masks, suffix):
    raw = polyps(tmp_path / "raw", images, masks, suffix=suffix)
    builder = prepare(name, data_dir=str(tmp_path / "tfds"), manual_dir=str(raw))[name]
    assert list(builder.info.splits) == ["test"]
    examples = list(builder.as_data_source("test"))
    assert [e["image_id"].decode().rsplit("/", 1)[1] for e in examples] == [f"{i}{suffix}" for i in (1, 2, 3)]
    for i, example in enumerate(examples, 1):
        assert (example["label"], example["defect_type"], example["has_mask"]) == (1, b"polyp", True)
        want = np.zeros((41, 55), np.uint8)
        want[6:22, 8 : 20 + i] = 255
        np.testing.assert_array_equal(example["mask"][..., 0], want)


def test_both_in_one_folder_are_told_apart(tmp_path):
    polyps(tmp_path / "raw" / "CVC-ClinicDB", "images", "masks", number=2)
    polyps(tmp_path / "raw" / "CVC-ColonDB", "images", "masks", number=4)
    assert len(ClinicDB(data_dir=tmp_path).photographs(tmp_path / "raw")["test"]) == 2
    assert len(ColonDB(data_dir=tmp_path).photographs(tmp_path / "raw")["test"]) == 4


def test_missing_folders_and_masks_are_named(tmp_path):
    builder = ClinicDB(data_dir=tmp_path)
    with pytest.raises(UserError, match=r"cvc_clinicdb: no raw data .*; register at polyp\.grand-challenge\.org"):
        builder.photographs(None)
    raw = polyps(tmp_path / "raw", "Original", "Ground Truth")
    (raw / "Ground Truth" / "2.png").unlink()
    with pytest.raises(UserError, match=r"no mask for .*Original/2\.png"):
        builder.photographs(raw)
    move(raw / "Ground Truth", tmp_path / "away")
    with pytest.raises(UserError, match=r"cvc_clinicdb: no folder .*raw/Ground Truth; register"):
        builder.photographs(raw)
    move(raw / "Original", tmp_path / "gone")
    (raw / "Original").mkdir()
    (raw / "Ground Truth").mkdir()
    with pytest.raises(UserError, match=r"cvc_clinicdb: no image in .*raw/Original"):
        builder.photographs(raw)


def test_other_counts_than_published_give_both_numbers(tmp_path, caplog):
    ColonDB(data_dir=tmp_path).photographs(polyps(tmp_path / "raw", "images", "masks"))
    assert "found 3 images (published: 380)" in caplog.text
