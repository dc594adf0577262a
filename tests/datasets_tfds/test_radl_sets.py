"""RADL's private data sets: the stated layout and counts; masks where there are any."""

import importlib
import logging
import shutil

import pytest

from datasets_tfds.layout import Counts
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw_layouts import private

NAMES = ("hsp", "small_part")


def prepared(tmp_path, name, manual_dir):
    return prepare(name, data_dir=str(tmp_path / "tfds"), manual_dir=str(manual_dir))[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", ["the category", "around it", "two around it"])
def test_the_folder_is_found(tmp_path, name, given):
    folder = {"the category": "any name", "around it": name, "two around it": f"sets/{name.upper()}"}[given]
    manual_dir = private(tmp_path / "raw" / folder) if given == "the category" else tmp_path / "raw"
    private(tmp_path / "raw" / folder)
    test = list(prepared(tmp_path, name, manual_dir).as_data_source("test"))
    assert [int(e["label"]) for e in test] == [0] * 3 + [1] * 3
    assert all(e["mask"].any() for e in test[3:])
    assert test[0]["image_id"].decode().endswith("/test/good/000.jpg")


@pytest.mark.parametrize("name", NAMES)
def test_without_masks_there_is_a_warning(tmp_path, name, caplog):
    raw = private(tmp_path / name)
    shutil.rmtree(raw / "ground_truth")
    test = list(prepared(tmp_path, name, raw).as_data_source("test"))
    assert [bool(e["has_mask"]) for e in test] == [True] * 3 + [False] * 3
    assert f"{name}/{name}: pixel metrics leave out 3 images without a mask" in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_one_missing_mask_of_many_is_an_error(tmp_path, name):
    raw = private(tmp_path / name)
    (raw / "ground_truth" / "defect" / "001.png").unlink()
    with pytest.raises(UserError, match=rf"{name}/{name}: no mask for .*test/defect/001\.jpg"):
        prepared(tmp_path, name, raw)


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_paper(tmp_path, name, caplog):
    module = importlib.import_module(f"datasets_tfds.{name}.{name}_dataset_builder")
    assert {name: Counts(200, 50, 50)} == module.PUBLISHED
    with caplog.at_level(logging.WARNING):
        module.Builder(data_dir=tmp_path).photographs(private(tmp_path / name))
    assert "found 5 training (published: 200), 3 normal test (published: 50), 3 anomalous test (published: 50)" in (
        caplog.text
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_owners_are_named_where_there_is_no_data(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}: no raw data in .*belong to the authors of RADL.*not published"):
        prepared(tmp_path, name, "")
