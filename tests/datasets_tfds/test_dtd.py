"""DTD: every texture is a normal example of the split `train`, with its class."""

import subprocess
import sys
import tarfile
from collections import Counter

import pytest

from datasets_tfds.dtd.dtd_dataset_builder import TEXTURES, Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw_sets import dtd, move


@pytest.fixture(scope="module")
def raw_once(tmp_path_factory):
    """One miniature for the tests that do not change it."""
    return dtd(tmp_path_factory.mktemp("raw"), TEXTURES)


def test_every_texture_is_normal_and_has_its_class(tmp_path, raw_once):
    builder = prepare("dtd", data_dir=str(tmp_path / "tfds"), manual_dir=str(raw_once))["dtd"]
    assert list(builder.info.splits) == ["train"]
    examples = list(builder.as_data_source("train"))
    assert Counter(e["texture"].decode() for e in examples) == dict.fromkeys(TEXTURES, 2)
    assert {(e["label"], e["defect_type"], e["mask"].any()) for e in examples} == {(0, b"good", False)}
    assert all(e["texture"] in e["image_id"] for e in examples)
    assert len({e["image"].shape for e in examples}) > 2


def test_there_are_47_classes():
    assert len(set(TEXTURES)) == 47
    assert list(TEXTURES) == sorted(TEXTURES)


def test_the_archive_is_unpacked_and_the_counts_are_compared(tmp_path, raw_once, caplog):
    (tmp_path / "manual").mkdir()
    with tarfile.open(tmp_path / "manual" / "dtd-r1.0.1.tar.gz", "w:gz") as archive:
        archive.add(raw_once / "dtd", "dtd")
    splits = Builder(data_dir=tmp_path / "tfds").photographs(tmp_path / "manual")
    assert len(splits["train"]) == 94
    assert "found 47 classes (published: 47), 94 textures (published: 5640)" in caplog.text


def test_the_first_class_that_is_missing_is_named(tmp_path):
    raw = dtd(tmp_path / "raw", TEXTURES, number=1)
    move(raw / "dtd" / "images" / "grid", tmp_path / "away")
    with pytest.raises(UserError, match=r"dtd: no image in .*dtd/images/grid; get dtd-r1\.0\.1\.tar\.gz"):
        Builder(data_dir=tmp_path / "tfds").photographs(raw)


def test_the_builder_can_be_made_after_tfds_used_its_own_of_that_name(tmp_path):
    code = (
        "import tensorflow_datasets as tfds; theirs = tfds.builder_cls('dtd'); import datasets_tfds.dtd as ours; "
        "assert theirs.__module__.startswith('tensorflow_datasets') and ours.Builder is not theirs; "
        f"print(ours.Builder(data_dir={str(tmp_path)!r}).data_dir)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == f"{tmp_path}/dtd/dtd/1.0.0", run.stderr
