"""MPDD: MVTec AD's layout, six metal parts."""

import shutil

import numpy as np
import pytest

from datasets_tfds.mpdd.mpdd_dataset_builder import PUBLISHED, Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw_layouts import mpdd


def test_published_numbers_add_up():
    totals = np.sum([(c.train, c.good, c.defective) for c in PUBLISHED.values()], axis=0)
    assert (len(PUBLISHED), *totals) == (6, 888, 176, 282)


def test_defects_and_masks_are_prepared(tmp_path):
    raw = mpdd(tmp_path / "raw" / "MPDD").parent
    builders = prepare("mpdd", "bracket_black", data_dir=str(tmp_path / "tfds"), manual_dir=str(raw))
    test = list(builders["bracket_black"].as_data_source("test"))
    assert [e["defect_type"].decode() for e in test] == ["good"] * 3 + ["hole"] + ["scratches"] * 2
    assert [bool(e["mask"].any()) for e in test] == [False] * 3 + [True] * 3


def test_counts_of_the_release_are_compared(tmp_path, caplog):
    Builder(data_dir=tmp_path, config="bracket_black").photographs(mpdd(tmp_path / "raw"))
    assert "mpdd/bracket_black: found 5 training (published: 289)" in caplog.text


def test_a_type_without_masks_and_missing_data_are_named(tmp_path):
    raw = mpdd(tmp_path / "raw")
    shutil.rmtree(raw / "bracket_black" / "ground_truth" / "hole")
    builder = Builder(data_dir=tmp_path, config="bracket_black")
    with pytest.raises(UserError, match=r"mpdd/bracket_black: no mask in .*ground_truth/hole; .*stepanje/MPDD"):
        builder.photographs(raw)
    with pytest.raises(UserError, match=r"mpdd: no raw data in .*MPDD\.zip with a browser from .*stepanje/MPDD"):
        builder.photographs(None)
