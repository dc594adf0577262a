"""MVTec AD: prepared as published; what is missing in a wrong or half-unpacked folder is named."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_tfds.mvtec_ad.mvtec_ad_dataset_builder import PUBLISHED, Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw_layouts import mvtec_ad

ROOT = Path(__file__).parents[2]


def prepared(tmp_path: Path, manual_dir: Path, category: str = "metal_nut"):
    return prepare("mvtec_ad", category, data_dir=str(tmp_path / "tfds"), manual_dir=str(manual_dir))[category]


def listed(tmp_path: Path, manual_dir: Path | None, category: str = "metal_nut"):
    return Builder(data_dir=tmp_path / "tfds", config=category).photographs(manual_dir)


def test_published_numbers_add_up():
    assert len(PUBLISHED) == 15
    assert sum(c.train for c in PUBLISHED.values()) == 3629
    assert sum(c.good for c in PUBLISHED.values()) == 467
    assert sum(c.defective for c in PUBLISHED.values()) == 1258


def test_images_types_and_masks_are_those_of_the_files(tmp_path):
    raw = mvtec_ad(tmp_path / "raw")
    builder = prepared(tmp_path, raw)
    assert len(builder.as_data_source("train")) == 5
    test = list(builder.as_data_source("test"))
    assert [e["defect_type"].decode() for e in test] == ["good"] * 3 + ["bent"] * 2 + ["scratch"] * 3
    assert [int(e["label"]) for e in test] == [0] * 3 + [1] * 5
    for example in test:
        path = raw / example["image_id"].decode()
        np.testing.assert_array_equal(example["image"], np.asarray(Image.open(path)))
        assert example["has_mask"]
        if example["label"]:
            stored = raw / "metal_nut" / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            np.testing.assert_array_equal(example["mask"][..., 0], 255 * np.asarray(Image.open(stored)))  # they hold 1
        else:
            assert not example["mask"].any()


def test_grey_images_stay_prepared_with_their_masks(tmp_path):
    builder = prepared(tmp_path, mvtec_ad(tmp_path / "raw"), "grid")
    example = list(builder.as_data_source("test"))[-1]
    assert example["image"].shape[:2] == example["mask"].shape[:2]
    assert example["mask"].any()


@pytest.mark.parametrize("name", ["Metal Nut", "METAL_NUT", "metal-nut"])
def test_category_folders_are_found_however_they_are_written(tmp_path, name):
    mvtec_ad(tmp_path / "raw")
    (tmp_path / "raw" / "metal_nut").rename(tmp_path / "raw" / name)
    splits = listed(tmp_path, tmp_path / "raw")
    assert splits["train"][0].image_id == f"{name}/train/good/000.png"
    (tmp_path / "raw" / name / "train" / "good").rename(tmp_path / "raw" / name / "train" / "Good")
    assert len(listed(tmp_path, tmp_path / "raw")["train"]) == 5


def test_the_folder_of_the_category_itself_may_be_given(tmp_path):
    splits = listed(tmp_path, mvtec_ad(tmp_path / "raw") / "metal_nut")
    assert splits["test"][0].image_id == "metal_nut/test/good/000.png"


def test_categories_may_lie_in_several_folders(tmp_path):
    mvtec_ad(tmp_path / "raw" / "one")
    shutil.move(tmp_path / "raw" / "one" / "metal_nut", tmp_path / "raw" / "two" / "metal_nut")
    for category in ("grid", "metal_nut"):
        assert len(listed(tmp_path, tmp_path / "raw", category)["train"]) == 5


def test_other_counts_than_published_give_both_numbers_in_one_warning(tmp_path, caplog):
    listed(tmp_path, mvtec_ad(tmp_path / "raw"))
    (warning,) = caplog.records
    assert "mvtec_ad/metal_nut: found 5 training (published: 220), 3 normal test (published: 22), 5 anomalous test" in (
        warning.message
    )


MISSING = {
    "metal_nut": r"no folder 'metal_nut' in .*raw",
    "metal_nut/train": r"no folder 'train' in .*raw/metal_nut",
    "metal_nut/train/good": r"no folder 'good' in .*metal_nut/train",
    "metal_nut/train/good/*": r"no image in .*metal_nut/train/good",
    "metal_nut/test": r"no folder 'test' in .*raw/metal_nut",
    "metal_nut/test/good": r"no folder 'good' in .*metal_nut/test",
    "metal_nut/test/good/*": r"no image in .*metal_nut/test/good",
    "metal_nut/test/bent/*": r"no image in .*metal_nut/test/bent",
    "metal_nut/ground_truth": r"no folder ground_truth in .*metal_nut",
    "metal_nut/ground_truth/bent": r"no mask in .*metal_nut/ground_truth/bent",
    "metal_nut/ground_truth/scratch/*": r"no mask in .*metal_nut/ground_truth/scratch",
    "metal_nut/ground_truth/scratch/001_mask.png": (
        r"no mask for .*metal_nut/test/scratch/001\.png: expected .*ground_truth/scratch/001_mask\.png"
    ),
}


@pytest.mark.parametrize("missing", MISSING)
def test_the_first_missing_item_is_named(tmp_path, missing):
    raw = mvtec_ad(tmp_path / "raw")
    for path in raw.glob(missing):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"mvtec_ad/metal_nut: {MISSING[missing]}") as caught:
        prepared(tmp_path, raw)
    assert "expected CATEGORY/train/good" in str(caught.value) and "mvtec_anomaly_detection.tar.xz" in str(caught.value)
    assert not list((tmp_path / "tfds" / "mvtec_ad").rglob("*.array_record*"))


def test_a_test_folder_without_defects_is_refused(tmp_path):
    raw = mvtec_ad(tmp_path / "raw")
    for defect in ("bent", "scratch"):
        shutil.rmtree(raw / "metal_nut" / "test" / defect)
    with pytest.raises(UserError, match=r"no folder of defective images in .*metal_nut/test"):
        listed(tmp_path, raw)


def test_defective_training_images_are_refused(tmp_path):
    raw = mvtec_ad(tmp_path / "raw")
    shutil.copytree(raw / "metal_nut" / "test" / "bent", raw / "metal_nut" / "train" / "bent")
    with pytest.raises(UserError, match=r"found images in .*train/bent, expected training images in 'good' only"):
        listed(tmp_path, raw)


def test_missing_raw_data_says_where_to_get_it_and_where_to_put_it(tmp_path):
    expected = r"no raw data in .*, and it cannot be downloaded .*www\.mvtec\.com.*config\.dataset\.manual_dir"
    with pytest.raises(UserError, match=expected):
        listed(tmp_path, None)
    (tmp_path / "wrong" / "folder").mkdir(parents=True)
    with pytest.raises(UserError, match=expected):
        listed(tmp_path, tmp_path / "wrong")


def archive(tmp_path: Path) -> Path:
    """mvtec_anomaly_detection.tar.xz in the folder `manual`."""
    raw = mvtec_ad(tmp_path / "raw")
    (tmp_path / "manual").mkdir()
    with tarfile.open(tmp_path / "manual" / "mvtec_anomaly_detection.tar.xz", "w:xz") as file:
        file.add(raw, "mvtec_anomaly_detection")
    return tmp_path / "manual"


def test_the_published_archive_is_enough(tmp_path, capsys):
    manual = archive(tmp_path)
    for category, number in (("metal_nut", 8), ("grid", 5)):
        assert len(prepared(tmp_path, manual, category).as_data_source("test")) == number
    assert capsys.readouterr().out.count("unpacking") == 1


DIES_IN = {
    "unpacking": "import shutil as module; name = 'copyfileobj'; last = 7",
    "preparing": "from datasets_tfds import core as module; name = 'decode'; last = 7",
}


@pytest.mark.parametrize("phase", DIES_IN)
def test_a_killed_run_is_not_taken_for_whole(tmp_path, phase):
    manual = archive(tmp_path)
    code = f"""
import os, signal, sys
{DIES_IN[phase]}
work, calls = getattr(module, name), []
def die(*arguments):
    calls.append(arguments)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(*arguments)
setattr(module, name, die)
from jaxad.data.preparation import prepare
prepare("mvtec_ad", "metal_nut", data_dir=sys.argv[1], manual_dir=sys.argv[2])
"""
    run = [sys.executable, "-c", code, str(tmp_path / "tfds"), str(manual)]
    killed = subprocess.run(run, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    extracted = tmp_path / "tfds" / "downloads" / "extracted"
    prepared_data = tmp_path / "tfds" / "mvtec_ad" / "metal_nut"
    assert [p.suffix for p in extracted.iterdir()] == ([".part"] if phase == "unpacking" else [""])
    assert not (prepared_data / "1.0.0").exists()
    builder = prepared(tmp_path, manual)
    assert [len(builder.as_data_source(split)) for split in ("train", "test")] == [5, 8]
    assert len(list(extracted.iterdir())) == 1
    assert [p.name for p in prepared_data.iterdir() if not p.name.startswith(".")] == ["1.0.0"]
