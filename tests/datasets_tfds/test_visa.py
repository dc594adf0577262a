"""VisA: the one-class split of its list, masks that hold type numbers, the re-arrangement, errors by line."""

import tarfile
from collections import Counter

import numpy as np
import pytest

from datasets_tfds.visa.visa_dataset_builder import PUBLISHED, Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw import mvtec_folder, photograph
from tests.data.raw_sets import move, visa


@pytest.fixture
def raw(tmp_path):
    return visa(tmp_path / "raw")


@pytest.fixture
def photographs(tmp_path):
    """The splits of a category, not prepared."""
    return lambda root, category="candle": Builder(config=category, data_dir=tmp_path / "tfds").photographs(root)


def prepared(tmp_path, root, category="candle"):
    return prepare("visa", category, data_dir=str(tmp_path / "tfds"), manual_dir=str(root))[category]


def replace_in_list(root, line: int, old: str, new: str) -> None:
    file = root / "split_csv" / "1cls.csv"
    lines = file.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    file.write_text("\n".join(lines))


def test_the_list_says_what_is_trained_on_and_what_is_tested(tmp_path, raw):
    builder = prepared(tmp_path, raw, "pcb3")
    train, test = list(builder.as_data_source("train")), list(builder.as_data_source("test"))
    assert [e["image_id"].decode() for e in train] == [f"pcb3/Data/Images/Normal/{i:04}.JPG" for i in range(1, 5)]
    assert [e["image_id"].decode() for e in test] == [
        "pcb3/Data/Images/Normal/0000.JPG",
        "pcb3/Data/Images/Anomaly/000.JPG",
        "pcb3/Data/Images/Anomaly/001.JPG",
    ]
    assert [e["label"] for e in train + test] == [0] * 5 + [1] * 2
    assert {e["category"] for e in test} == {b"pcb3"}


def test_every_mask_value_above_0_is_a_defect(tmp_path, raw):
    for example in prepared(tmp_path, raw).as_data_source("test[anomalous]"):
        want = np.zeros(example["image"].shape[:2], np.uint8)
        want[3:15, 4:20] = 255
        np.testing.assert_array_equal(example["mask"][..., 0], want)


@pytest.mark.parametrize("prefix", ["", "VisA_pytorch/1cls"])
def test_the_rearrangement_of_other_tools_is_taken(tmp_path, photographs, prefix):
    home = tmp_path / "raw" / prefix
    for category in ("candle", "fryum"):
        mvtec_folder(home / category, defects=("bad",))
    splits = photographs(tmp_path / "raw", "fryum")
    assert [p.image_id for p in splits["train"]] == [f"fryum/train/good/00{i}.png" for i in range(5)]
    assert [(p.label, p.defect_type, p.has_mask) for p in splits["test"]] == [(0, "good", True)] * 2 + [
        (1, "anomaly", True)
    ] * 2


def test_the_rearrangement_needs_masks_and_normal_training_images(tmp_path, photographs):
    home = mvtec_folder(tmp_path / "raw" / "candle", defects=("bad",))
    photograph(home / "train" / "bad" / "0.png")
    with pytest.raises(UserError, match=r"train/bad/0\.png is not a normal image"):
        photographs(tmp_path / "raw")
    move(home / "train" / "bad", tmp_path / "away")
    move(home / "ground_truth", tmp_path / "gone")
    with pytest.raises(UserError, match=r"no mask for .*test/bad/000\.png: expected one in .*ground_truth/bad"):
        photographs(tmp_path / "raw")


@pytest.mark.parametrize(
    "line, old, new, said",
    [
        (2, "candle,", "candel,", "object is 'candel'; expected one of candle, capsules"),
        (2, ",test,", ",val,", "split is 'val' and label 'normal'; expected train or test"),
        (2, ",normal,", ",good,", "split is 'test' and label 'good'; expected"),
        (7, ",test,", ",train,", "an anomaly in the training set"),
        (2, "0000.JPG", "x.JPG", r"image is 'candle/Data/Images/Normal/x\.JPG', but there is no file"),
        (7, "000.png", "", r"mask is 'candle/Data/Masks/Anomaly/', but there is no file"),
        (1, "object,", "category,", "no column 'object'"),
    ],
)
def test_errors_in_the_list_name_the_line(raw, photographs, line, old, new, said):
    replace_in_list(raw, line, old, new)
    with pytest.raises(UserError, match=rf"1cls\.csv, line {line}.*{said}"):
        photographs(raw)


def test_the_first_missing_item_is_named(tmp_path, raw, photographs):
    with pytest.raises(UserError, match=r"visa: no folder .*raw/cashew; get VisA_20220922\.tar from"):
        photographs(raw, "cashew")
    move(raw / "split_csv", tmp_path / "away")
    with pytest.raises(UserError, match=r"visa: no file .*raw/split_csv/1cls\.csv, which says what is trained on"):
        photographs(raw)


def test_a_list_without_anomalies_of_the_category_is_an_error(raw, photographs):
    file = raw / "split_csv" / "1cls.csv"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "candle,test,anomaly" not in line))
    with pytest.raises(UserError, match="visa/candle: no anomalous image in"):
        photographs(raw)


def test_the_archive_is_unpacked(tmp_path, raw, photographs):
    (tmp_path / "archives").mkdir()
    with tarfile.open(tmp_path / "archives" / "VisA_20220922.tar", "w") as archive:
        for folder in ("candle", "pcb3", "split_csv"):
            archive.add(raw / folder, folder)
    assert [p.image_id for p in photographs(tmp_path / "archives")["test"]] == [
        p.image_id for p in photographs(raw)["test"]
    ]


def test_the_published_counts_add_up_to_those_of_the_split():
    numbers = np.array(list(PUBLISHED.values()))
    assert len(numbers) == 12
    assert numbers.sum(0).tolist() == [9621, 962, 1200]
    assert (numbers[:, 0] - numbers[:, 1]).sum() == 8659


def test_other_counts_than_published_give_both_numbers(raw, photographs, caplog):
    splits = photographs(raw, "pcb3")
    assert Counter(p.label for p in splits["test"]) == {0: 1, 1: 2}
    assert "found 4 train (published: 905), 1 normal test (published: 101), 2 anomalous test (published: 100)" in (
        caplog.text
    )
