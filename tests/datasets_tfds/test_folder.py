"""A user's own folders: accepted as documented, everything wrong with them named in one line."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from datasets_tfds.folder.folder_dataset_builder import folder_configs
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw import mask, mvtec_folder, photograph


@pytest.fixture
def raw(tmp_path):
    return mvtec_folder(tmp_path / "räw data" / "Käse röd")


@pytest.fixture
def prepared(tmp_path):
    """Prepares a folder."""
    return lambda path, category="all": prepare("folder", category, data_dir=str(tmp_path / "tfds"), path=str(path))


def examples(builder, split: str) -> dict[str, dict]:
    return {example["image_id"].decode(): example for example in builder.as_data_source(split)}


def test_examples_hold_image_mask_label_category_and_defect_type(raw, prepared):
    (builder,) = prepared(raw).values()
    train, test = examples(builder, "train"), examples(builder, "test")
    assert list(train) == [f"train/good/00{i}.png" for i in range(5)]
    assert list(test) == [f"test/{kind}/00{i}.png" for kind in ("good", "scratch") for i in range(2)]
    good, scratch = test["test/good/001.png"], test["test/scratch/001.png"]
    assert (good["label"], scratch["label"]) == (0, 1)
    assert good["has_mask"] and scratch["has_mask"]
    assert (good["defect_type"], scratch["defect_type"]) == (b"good", b"scratch")
    assert scratch["category"].decode() == "Käse röd"
    assert scratch["image"].shape == (37, 52, 3)
    assert not good["mask"].any()
    np.testing.assert_array_equal(scratch["mask"][3:15, 4:20], 255)
    assert scratch["mask"].sum() == 255 * 12 * 16


def test_photographs_are_stored_as_they_are(tmp_path, prepared):
    raw = mvtec_folder(tmp_path / "raw")
    file = photograph(raw / "train" / "good" / "zz.jpg", quality=30)
    (builder,) = prepared(raw).values()
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert source[len(source) - 1]["image"] == file.read_bytes()


def test_index_lists_the_labels_in_the_order_of_the_records(raw, prepared):
    (builder,) = prepared(raw).values()
    index = json.loads((builder.data_path / "index.json").read_text())["test"]
    assert index["image_id"] == list(examples(builder, "test"))
    assert index["label"] == [0, 0, 1, 1]
    assert index["size"] == [[37, 52]] * 4


def test_folder_of_categories_gives_one_builder_each(tmp_path, prepared):
    for name in ("bolt", "nut"):
        mvtec_folder(tmp_path / "raw" / name)
    builders = prepared(tmp_path / "raw")
    assert list(builders) == ["bolt", "nut"]
    assert "nut/train/good/000.png" in examples(builders["nut"], "train")
    assert list(prepared(tmp_path / "raw", "nut, bolt")) == ["nut", "bolt"]


@pytest.mark.parametrize("name", ["ok", "Normal"])
def test_other_names_for_normal_are_accepted(tmp_path, prepared, name):
    raw = mvtec_folder(tmp_path / "raw")
    for split in ("train", "test"):
        (raw / split / "good").rename(raw / split / name)
    (builder,) = prepared(raw).values()
    assert sum(e["label"] == 0 for e in examples(builder, "test").values()) == 2


def test_mask_may_be_named_like_its_image(tmp_path, prepared):
    raw = mvtec_folder(tmp_path / "raw")
    (raw / "ground_truth" / "scratch" / "001_mask.png").rename(raw / "ground_truth" / "scratch" / "001.bmp")
    (builder,) = prepared(raw).values()
    assert examples(builder, "test")["test/scratch/001.png"]["mask"].any()


def test_any_mask_value_above_0_is_a_defect_but_not_the_noise_of_jpeg(tmp_path, prepared):
    raw = mvtec_folder(tmp_path / "raw")
    mask(raw / "ground_truth" / "scratch" / "000_mask.png", value=1)
    (raw / "ground_truth" / "scratch" / "001_mask.png").unlink()
    mask(raw / "ground_truth" / "scratch" / "001_mask.jpg", value=255, box=(8, 8, 24, 24))
    (builder,) = prepared(raw).values()
    found = examples(builder, "test")
    assert found["test/scratch/000.png"]["mask"].sum() == 255 * 12 * 16
    assert found["test/scratch/001.png"]["mask"].sum() == 255 * 16 * 16


def test_missing_mask_is_named(raw, prepared):
    (raw / "ground_truth" / "scratch" / "001_mask.png").unlink()
    with pytest.raises(UserError, match=r"no mask for .*test/scratch/001\.png: expected .*001_mask\.png"):
        prepared(raw)


def test_two_masks_for_one_image_are_named(raw, prepared):
    mask(raw / "ground_truth" / "scratch" / "001.png")
    with pytest.raises(UserError, match=r"two masks for .*test/scratch/001\.png: .*001\.png and .*001_mask\.png"):
        prepared(raw)


def test_mask_without_image_is_left_out_with_a_warning(raw, prepared, caplog):
    mask(raw / "ground_truth" / "scratch" / "777_mask.png")
    prepared(raw)
    assert "1 masks belong to no image of" in caplog.text and "777_mask.png" in caplog.text


def test_mask_of_another_size_is_named_with_both_sizes(raw, prepared):
    file = mask(raw / "ground_truth" / "scratch" / "001_mask.png", (74, 104))
    with pytest.raises(UserError, match=rf"mask {file} is 104x74 pixels, but its image .*001\.png is 52x37"):
        prepared(raw)


def test_defect_without_ground_truth_counts_at_image_level_only(raw, prepared, caplog):
    photograph(raw / "test" / "dent" / "000.png")
    (builder,) = prepared(raw).values()
    found = examples(builder, "test")
    assert found["test/dent/000.png"]["label"] == 1
    assert not found["test/dent/000.png"]["has_mask"]
    assert found["test/scratch/000.png"]["has_mask"]
    warnings = [r.getMessage() for r in caplog.records if "no masks for dent" in r.getMessage()]
    assert len(warnings) == 1 and "leave these 1 images out" in warnings[0]


def test_mask_without_any_defect_is_warned_about(raw, prepared, caplog):
    mask(raw / "ground_truth" / "scratch" / "001_mask.png", value=0)
    prepared(raw)
    assert "1 masks of defective images hold no value above 0" in caplog.text and "001_mask.png" in caplog.text


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_category_is_named(raw, prepared, split):
    for file in (raw / split).rglob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match=rf"category 'Käse röd' is empty: no image in .*Käse röd/{split}"):
        prepared(raw)


def test_defects_among_the_training_photographs_are_refused(raw, prepared):
    photograph(raw / "train" / "scratch" / "000.png")
    with pytest.raises(UserError, match=r"train has the folder 'scratch'.*move defective ones to"):
        prepared(raw)


@pytest.mark.parametrize(
    ("break_file", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:500]), "is damaged"),
        (lambda f: f.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda f: f.write_text("no image"), "is not an image"),
    ],
)
@pytest.mark.parametrize("where", ["train/good/000.jpg", "test/scratch/000.jpg"])
def test_broken_file_is_named_and_nothing_is_left_behind(tmp_path, raw, prepared, where, break_file, message):
    file = photograph((raw / where).with_name("000.jpg"))
    (raw / where).with_suffix(".png").unlink()
    break_file(file)
    with pytest.raises(UserError, match=rf"^{file} {message}[^\n]*$"):
        prepared(raw)
    assert not list((tmp_path / "tfds").rglob("*.json"))
    photograph(file)
    assert prepared(raw)


def test_files_of_other_kinds_are_ignored_with_one_warning(raw, prepared, caplog):
    (raw / "train" / "good" / "notes.txt").write_text("x")
    (raw / "train" / "good" / "._000.png").write_bytes(b"a hidden file")
    prepared(raw)
    assert caplog.text.count("ignored 1 files that are not images") == 1


def test_unchanged_folder_is_reused_and_a_changed_one_prepared_again(tmp_path, raw, prepared):
    first = prepared(raw)["Käse röd"].data_dir
    assert prepared(raw)["Käse röd"].data_dir == first
    photograph(raw / "train" / "good" / "zzz.png")
    second = prepared(raw)["Käse röd"]
    assert second.data_dir != first
    assert second.info.splits["train"].num_examples == 6


def test_paths_that_hold_no_category_are_explained(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"no folder 'train' in .*photos.*expected PATH/train/good"):
        folder_configs(tmp_path / "photos")
    with pytest.raises(UserError, match=r"config\.dataset\.path is '.*gone', which is not a folder"):
        folder_configs(tmp_path / "gone")


def test_misspelt_category_gets_the_near_match(tmp_path, prepared):
    mvtec_folder(tmp_path / "raw" / "bottle")
    with pytest.raises(UserError, match=r"no category 'botle'.*Did you mean 'bottle'"):
        prepared(tmp_path / "raw", "botle")


def test_empty_path_is_explained(prepared):
    with pytest.raises(UserError, match=r"config\.dataset\.path is empty"):
        prepared("")
