"""BTAD: folders ok and ko, BMP and PNG mixed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_tfds.btad.btad_dataset_builder import PUBLISHED, Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw_layouts import btad


def test_published_numbers_add_up():
    totals = np.sum([(c.train, c.good, c.defective) for c in PUBLISHED.values()], axis=0)
    assert (*PUBLISHED, *totals) == ("01", "02", "03", 1799, 451, 290)


@pytest.mark.parametrize(
    ("category", "types"), [("01", (".bmp", ".png")), ("02", (".png", ".png")), ("03", (".bmp", ".bmp"))]
)
def test_images_and_masks_of_either_type_are_prepared(tmp_path, category, types):
    raw = btad(tmp_path / "raw" / "BTech_Dataset_transformed")
    places = {"data_dir": str(tmp_path / "tfds"), "manual_dir": str(tmp_path / "raw")}
    test = list(prepare("btad", category, **places)[category].as_data_source("test"))
    assert [e["defect_type"].decode() for e in test[:4]] == ["good"] * 3 + ["ko"]
    for example in test[3:]:
        path = raw / example["image_id"].decode()
        stored = raw / category / "ground_truth" / "ko" / f"{path.stem}{types[1]}"
        assert path.suffix == types[0]
        np.testing.assert_array_equal(example["image"], np.asarray(Image.open(path)))
        np.testing.assert_array_equal(example["mask"][..., 0], np.asarray(Image.open(stored)))


def test_missing_folders_go_by_their_published_names(tmp_path):
    raw = btad(tmp_path / "raw")
    (raw / "01" / "train" / "ok").rename(raw / "01" / "train" / "elsewhere")
    with pytest.raises(UserError, match=r"btad/01: no folder 'ok' in .*01/train; expected 01, 02 and 03, each with"):
        Builder(data_dir=tmp_path, config="01").photographs(raw)


def test_a_download_is_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match=r"the download of https://avires\S+/btad\.zip failed \(.*\); .*manual_dir"):
        Builder(data_dir=tmp_path, config="02").photographs(Path(tmp_path))
