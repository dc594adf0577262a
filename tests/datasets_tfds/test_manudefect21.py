"""ManuDefect-21: every layout gives the same data set, masks are there or named, the splits, the published counts."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_tfds.core import Photograph
from datasets_tfds.manudefect21.manudefect21_dataset_builder import PUBLISHED, Builder, _check_counts, hold_out
from datasets_tfds.manudefect21.names import CATEGORIES, category_of
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw import mask, photograph
from tests.data.raw_sets import manudefect21, move


@pytest.fixture(scope="module")
def raw_once(tmp_path_factory):
    """One miniature for the tests that do not change it."""
    return manudefect21(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def raw(tmp_path):
    return manudefect21(tmp_path / "raw")


@pytest.fixture
def photographs(tmp_path):
    """The splits of a category, not prepared."""
    return lambda root, category="BGA": Builder(config=category, data_dir=tmp_path / "tfds").photographs(root)


def prepared(tmp_path, root, category="BGA"):
    return prepare("manudefect21", category, data_dir=str(tmp_path / "tfds"), manual_dir=str(root))[category]


def made_up(good: int, anomalous: int) -> list[Photograph]:
    return [
        Photograph(Path(f"{i}.png"), f"{i}.png", int(i >= good), "good" if i < good else "missing")
        for i in range(good + anomalous)
    ]


def test_both_splits_hold_good_and_defective_images_with_masks(tmp_path, raw_once):
    builder = prepared(tmp_path, raw_once)
    assert {s: builder.info.splits[s].num_examples for s in ("train", "validation", "test")} == {
        "train": 16,
        "validation": 2,
        "test": 6,
    }
    train = list(builder.as_data_source("train"))
    assert [e["label"] for e in train] == [0] * 11 + [1] * 5
    assert all(e["mask"].any() == bool(e["label"]) and e["has_mask"] for e in train)
    assert {e["defect_type"] for e in train if e["label"]} == {b"cold_joint", b"missing"}
    assert {e["category"] for e in train} == {b"BGA"}
    assert [e["label"] for e in builder.as_data_source("train[normal]")] == [0] * 11
    assert [e["label"] for e in builder.as_data_source("train[anomalous]")] == [1] * 5


def test_any_mask_value_above_0_is_a_defect(tmp_path, raw_once):
    values = set()
    for example in prepared(tmp_path, raw_once).as_data_source("train[anomalous]"):
        np.testing.assert_array_equal(np.unique(example["mask"]), [0, 255])
        rows, columns = np.nonzero(example["mask"][..., 0])
        assert (rows.min(), rows.max(), columns.min()) == (3, 11, 4)
        assert columns.max() + 1 in range(10, 15)
        values.add(example["mask"].shape)
    assert len(values) > 1


def test_the_black_of_jpeg_masks_is_no_defect(tmp_path, raw):
    png = raw / "BGA" / "ground_truth" / "test" / "missing" / "000_mask.png"
    size = Image.open(png).size
    png.unlink()
    mask(png.with_suffix(".jpg"), (size[1], size[0]), box=(9, 9, 21, 21))
    test = list(prepared(tmp_path, raw).as_data_source("test[anomalous]"))
    (found,) = [e["mask"][..., 0] for e in test if e["defect_type"] == b"missing"]
    want = np.zeros(found.shape, np.uint8)
    want[9:21, 9:21] = 255
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("layout", ["B", "csv", "json"])
def test_other_layouts_give_the_same_photographs(tmp_path, raw_once, photographs, layout):
    def content(splits):
        together = splits["train"] + splits["validation"]  # the ids differ, and so do those held out
        return [
            sorted((p.path.read_bytes(), p.label, p.defect_type, p.mask and p.mask.read_bytes()) for p in each)
            for each in (together, splits["test"])
        ]

    other = manudefect21(tmp_path / layout, layout=layout)
    for category in ("BGA", "ALUMINUM_CAPACITOR"):
        assert content(photographs(other, category)) == content(photographs(raw_once, category))


@pytest.mark.parametrize("place", ["ground_truth", "train/ground_truth", "beside"])
def test_masks_are_found_in_every_documented_place(raw, photographs, place):
    for file in sorted((raw / "BGA" / "ground_truth" / "train").rglob("*.png")):
        kind, name = file.parts[-2:]
        move(file, raw / "BGA" / ("train" if place == "beside" else place) / kind / name)
    for kind in ("cold_joint", "missing"):
        (raw / "BGA" / "ground_truth" / "train" / kind).rmdir()
    splits = photographs(raw)
    assert len(splits["train"] + splits["validation"]) == 18
    for p in splits["train"]:
        assert p.mask is None or p.mask.name == f"{p.path.stem}_mask.png"


def test_the_more_specific_folder_of_masks_is_used(raw, photographs):
    mask(raw / "BGA" / "ground_truth" / "missing" / "000.png")
    assert all("ground_truth/train" in str(p.mask) for p in photographs(raw)["train"] if p.label)


def test_labelme_polygons_are_the_mask_where_there_is_no_image_of_it(tmp_path, raw):
    image = raw / "BGA" / "train" / "missing" / "zz.png"
    photograph(image, 5, (37, 52))
    shapes = [
        {"points": [[10, 5], [20, 5], [20, 9], [10, 9]], "shape_type": "polygon"},
        {"points": [[35, 30], [30, 20]], "shape_type": "rectangle"},
        {"points": [[45, 10], [47, 10]], "shape_type": "circle"},
    ]
    image.with_suffix(".json").write_text(json.dumps({"shapes": shapes, "imageHeight": 37, "imageWidth": 52}))
    examples = list(prepared(tmp_path, raw).as_data_source("train+validation"))
    (found,) = [e["mask"][..., 0] for e in examples if e["image_id"].endswith(b"zz.png")]
    want = np.zeros((37, 52), np.uint8)
    want[5:10, 10:21], want[20:31, 30:36] = 255, 255
    np.testing.assert_array_equal(found[:, :40], want[:, :40])
    assert found[10, 43] and found[12, 45] and not found[12, 47] and not found[10, 42]


@pytest.mark.parametrize(
    "content, said",
    [
        ("{", "is not a LabelMe file"),
        ("[]", "is not a LabelMe file"),
        ('{"shapes": [{"points": [[1, 2], [NaN, 3], [4, 5]]}]}', "is not a LabelMe file .*not a finite number"),
        (
            '{"shapes": [{"points": [[1, 2]], "shape_type": "point"}]}',
            "shape 'point' with 1 points: expected polygons",
        ),
        ('{"shapes": [], "imageHeight": 5, "imageWidth": 6}', r"drawn on an image of 6x5 pixels, but .* has 52x37"),
    ],
)
def test_labelme_files_that_give_no_mask_are_named(tmp_path, raw, content, said):
    image = photograph(raw / "BGA" / "train" / "missing" / "zz.png")
    image.with_suffix(".json").write_text(content)
    with pytest.raises(UserError, match=rf"zz\.json.*{said}"):
        prepared(tmp_path, raw)


def test_a_defective_image_without_a_mask_is_named(raw, photographs):
    (raw / "BGA" / "ground_truth" / "train" / "missing" / "001_mask.png").unlink()
    with pytest.raises(
        UserError, match=r"no mask for .*BGA/train/missing/001\.png: looked in .*BGA/ground_truth/train/missing"
    ):
        photographs(raw)


def test_two_masks_of_an_image_are_named(raw, photographs):
    folder = raw / "BGA" / "ground_truth" / "test" / "missing"
    mask(folder / "000.png")
    with pytest.raises(UserError, match=r"two masks for .*test/missing/000\.png: .*000\.png and .*000_mask\.png"):
        photographs(raw)


def test_a_mask_of_another_size_is_an_error(tmp_path, raw):
    mask(raw / "BGA" / "ground_truth" / "test" / "missing" / "000_mask.png", (9, 10))
    with pytest.raises(UserError, match=r"mask .*test/missing/000_mask\.png is 10x9 pixels, but its image"):
        prepared(tmp_path, raw)


@pytest.mark.parametrize(
    "written", ["Aluminium Capacitors", "al-capacitor", "aluminum_capacitor", "ALUMINUM_CAPACITORS", "Al_Capacitor"]
)
def test_categories_are_found_as_people_write_them(raw, photographs, written):
    move(raw / "ALUMINUM_CAPACITOR", raw / "x")  # a file system may ignore the case
    move(raw / "x", raw / written)
    splits = photographs(raw, "ALUMINUM_CAPACITOR")
    assert len(splits["train"]) == 16
    assert splits["train"][0].image_id.startswith(f"{written}/train/good/")


def test_every_published_category_is_its_own():
    assert [category_of(name) for name in CATEGORIES] == list(CATEGORIES)
    assert set(PUBLISHED) == set(CATEGORIES) == set(Builder.builder_configs)
    assert [category_of(name) for name in ("bgas", "QFN ", "CAP", "")] == ["BGA", "QFN", None, None]


def test_two_folders_of_one_category_are_an_error(raw, photographs):
    photograph(raw / "bgas" / "train" / "good" / "0.png")
    with pytest.raises(UserError, match=r"two folders of the category BGA: .*BGA and .*bgas"):
        photographs(raw)


def test_normal_and_unspecific_folders_have_many_names(raw, photographs):
    for folder in (raw / "BGA" / "train", raw / "BGA" / "test"):
        move(folder / "good", folder / "OK")
        move(folder / "missing", folder / "NG")
    truth = raw / "BGA" / "ground_truth"
    move(truth / "train" / "missing", truth / "train" / "defect")
    move(truth / "test" / "missing", truth / "test" / "NG")
    splits = photographs(raw)
    assert Counter(p.defect_type for p in splits["test"]) == {"good": 4, "cold_joint": 1, "anomaly": 1}
    assert Counter(p.label for p in splits["train"] + splits["validation"]) == {0: 12, 1: 6}


@pytest.mark.parametrize("name", ["positive", "Negative"])
def test_positive_and_negative_are_refused(raw, photographs, name):
    move(raw / "BGA" / "train" / "good", raw / "BGA" / "train" / name)
    with pytest.raises(UserError, match=rf"{name} calls images '{name}'.*name normal ones good"):
        photographs(raw)


def test_a_tenth_of_each_label_is_held_out_and_one_of_two():
    for good, anomalous, held_out in ((30, 9, (3, 1)), (19, 2, (1, 1)), (5, 1, (1, 0)), (100, 25, (10, 2))):
        train, validation = hold_out(made_up(good, anomalous))
        counts = Counter(p.label for p in validation)
        assert (counts[0], counts[1]) == held_out
        assert len(train) + len(validation) == good + anomalous
        assert [p.label for p in train] == sorted(p.label for p in train)


def test_what_is_held_out_depends_on_nothing_but_the_ids():
    photographs = made_up(40, 20)
    want = hold_out(photographs)
    assert hold_out(photographs[::-1]) == want
    without = [p for p in photographs if p not in want[1][:1]]
    assert hold_out(without)[1] == want[1][1:]  # the others stay


@pytest.mark.parametrize("layout", ["csv", "json"])
@pytest.mark.parametrize(
    "field, value, said",
    [
        ("category", "cpu", r"unknown category 'cpu'; expected one of ALUMINUM_CAPACITOR, BGA"),
        ("split", "val", r"split is 'val'; expected train or test"),
        ("label", "maybe", r"label is 'maybe'; expected good or anomaly"),
        ("label", "negative", r"calls images 'negative'"),
        ("image", "images/none.png", r"image is 'images/none.png', but there is no file"),
        ("image", "../x.png", r"image is '../x.png'; expected a path relative to"),
        ("image", "", r"image is ''; expected a path"),
        ("mask", "masks/none.png", r"mask is 'masks/none.png', but there is no file"),
        ("mask", "", r"no mask for .*png: looked in .*(line 14|entry 12)"),
        ("defect", "good", r"label is 'anomaly' but defect is 'good'"),
    ],
)
def test_errors_in_a_list_name_the_line(tmp_path, photographs, layout, field, value, said):
    root = manudefect21(tmp_path / "raw", layout=layout)
    file = root / ("split.csv" if layout == "csv" else "meta.json")
    columns = ["category", "split", "label", "defect", "image", "mask"]
    if layout == "csv":
        lines = file.read_text().splitlines()
        row = lines[13].split(",")
        row[columns.index(field)] = value
        lines[13] = ",".join(row)
        file.write_text("\n".join(lines))
    else:
        rows = json.loads(file.read_text())
        rows[12][field] = value
        file.write_text(json.dumps(rows))
    where = r"split\.csv, line 14" if layout == "csv" else r"meta\.json, entry 12"
    with pytest.raises(UserError, match=said) as error:
        photographs(root)
    assert where.replace("\\", "") in str(error.value)


def test_a_list_without_a_column_an_image_twice_and_no_list_at_all_are_named(tmp_path, photographs):
    root = manudefect21(tmp_path / "raw", layout="csv")
    text = (root / "split.csv").read_text()
    (root / "split.csv").write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(UserError, match=r"line 50: .*0001\.png was listed before, in .*line 2"):
        photographs(root)
    (root / "split.csv").write_text(text.replace("label", "lable", 1))
    with pytest.raises(UserError, match=r"line 1: no column 'label'"):
        photographs(root)
    (root / "split.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        photographs(root)
    (root / "split.csv").unlink()
    (root / "meta.json").write_text("{}")
    with pytest.raises(UserError, match="expected a list of objects"):
        photographs(root)


def test_lists_of_numbers_and_of_truth_values_are_read(tmp_path, photographs):
    root = manudefect21(tmp_path / "raw", layout="json")
    rows = json.loads((root / "meta.json").read_text())
    for i, row in enumerate(rows):
        row["label"] = (row["label"] == "anomaly") if i % 2 else int(row["label"] == "anomaly")
        row["mask"] = row["mask"] or None
    (root / "meta.json").write_text(json.dumps(rows))
    assert Counter(p.label for p in photographs(root)["test"]) == {0: 4, 1: 2}


def test_missing_raw_data_category_and_split_are_named(tmp_path, raw, photographs):
    with pytest.raises(UserError, match=r"manudefect21: no raw data.*CATEGORY/\{train,test\}"):
        prepared(tmp_path, "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no raw data in .*empty.*the categories are ALUMINUM_CAPACITOR, BGA"):
        photographs(tmp_path / "empty")
    with pytest.raises(UserError, match=r"SOT: no folder .*SOT/train or .*train/SOT; found ALUMINUM_CAPACITOR, BGA in"):
        photographs(raw, "SOT")
    move(raw / "BGA" / "test", tmp_path / "gone")
    with pytest.raises(UserError, match=r"BGA: no folder .*BGA/test; found ground_truth, train in .*BGA"):
        photographs(raw)
    (raw / "BGA" / "test").mkdir()
    with pytest.raises(UserError, match=r"BGA: no image of the split test in"):
        photographs(raw)


def test_a_folder_around_the_data_is_looked_into(tmp_path, photographs):
    (tmp_path / "raw" / "Another").mkdir(parents=True)
    (tmp_path / "raw" / "Another" / "meta.json").write_text("{}")
    for number, layout in enumerate(("B", "csv")):
        manudefect21(tmp_path / "raw" / "ManuDefect-21", layout=layout)
        assert len(photographs(tmp_path / "raw")["test"]) == 6
        move(tmp_path / "raw" / "ManuDefect-21", tmp_path / f"away{number}")


def test_other_counts_than_published_are_one_warning_with_both_numbers(raw_once, photographs, caplog):
    photographs(raw_once)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "found 12 good train (published: 611), 6 anomalous train (published: 183), 4 good test (published: 262)" in (
        record.getMessage()
    )


@pytest.mark.parametrize("good", [3285, 3825])
def test_both_counts_of_soic_are_as_published_and_what_does_not_add_up_is_logged(good, caplog):
    caplog.set_level(logging.INFO)
    _check_counts("SOIC", {"train": made_up(good, 463), "test": made_up(1640, 199)})
    assert [r.levelno for r in caplog.records] == [logging.INFO] * 2
    assert "4288 training images, but its 3285 good and 463 anomalous ones are 3748; with 3825 good" in caplog.text
    assert f"{good} good train" in caplog.text


def test_only_soic_does_not_add_up():
    assert [name for name, (train, good, bad, *_) in PUBLISHED.items() if good + bad != train] == ["SOIC"]
    sums = np.sum(list(PUBLISHED.values()), axis=0).tolist()
    assert sums == [31050, 23953 - 540, 7097, 10272, 3049]
