"""ELPV from its wheel: the protocol and the published counts."""

from collections import Counter

import pytest

from datasets_tfds.elpv.elpv_dataset_builder import Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw import photograph


def raw_folder(root, labels: str):
    for line in labels.splitlines():
        photograph(root / line.split()[0])
    (root / "labels.csv").write_text(labels)
    return root


LABELS = "\n".join(
    [f"images/cell000{i}.png 0.0 mono" for i in range(7)]
    + ["images/cell0007.png 0.3333333333333333 mono", "images/cell0008.png 1.0 mono", "images/cell0009.png 1.0 poly"]
)


@pytest.mark.parametrize(
    ("category", "train", "normal", "anomalous"), [("mono", 470, 118, 313), ("poly", 736, 184, 402)]
)
def test_wheel_holds_the_published_photographs(tmp_path, category, train, normal, anomalous, caplog):
    pytest.importorskip("elpv_dataset")
    splits = Builder(config=category, data_dir=tmp_path).photographs(None)
    assert len(splits["train"]) == train
    assert Counter(p.label for p in splits["train"]) == {0: train}
    assert Counter(p.label for p in splits["test"]) == {0: normal, 1: anomalous}
    assert not {p.path for p in splits["train"]} & {p.path for p in splits["test"]}
    assert "published" not in caplog.text


def test_every_fifth_normal_cell_is_a_test_image_and_the_unsure_ones_are_left_out(tmp_path):
    raw = raw_folder(tmp_path / "raw", LABELS)
    builder = prepare("elpv", "mono", data_dir=str(tmp_path / "tfds"), manual_dir=str(raw))["mono"]
    ids = {s: [e["image_id"].decode()[-8:-4] for e in builder.as_data_source(s)] for s in ("train", "test")}
    assert ids == {"train": ["0001", "0002", "0003", "0004", "0006"], "test": ["0000", "0005", "0008"]}
    defective = builder.as_data_source("test")[2]
    assert (defective["label"], defective["has_mask"], defective["category"]) == (1, False, b"mono")


def test_other_counts_than_published_give_both_numbers(tmp_path, caplog):
    Builder(config="mono", data_dir=tmp_path).photographs(raw_folder(tmp_path / "raw", LABELS))
    assert "found 7 normal (published: 588), 1 anomalous (published: 313)" in caplog.text


def test_missing_photograph_and_bad_line_are_named(tmp_path):
    raw = raw_folder(tmp_path / "raw", LABELS)
    (raw / "images" / "cell0003.png").unlink()
    builder = Builder(config="mono", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"labels\.csv names images/cell0003\.png, which is missing"):
        builder.photographs(raw)
    (raw / "labels.csv").write_text("images/cell0001.png,1.0,mono\n")
    with pytest.raises(UserError, match=r"labels\.csv, line 1: found 'images/cell0001\.png,1\.0,mono'"):
        builder.photographs(raw)


def test_missing_raw_data_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install elpv-dataset.*config\.dataset\.manual_dir"):
        Builder(config="mono", data_dir=tmp_path).photographs(None)
