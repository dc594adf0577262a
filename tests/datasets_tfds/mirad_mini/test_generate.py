"""Generated data sets: layout, shares, the same scenes in several splits, nothing half-made."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_tfds.mirad_mini import generate
from datasets_tfds.mirad_mini.contact_sheet import OUTLINE, SIDE, contact_sheet
from datasets_tfds.mirad_mini.generate import Part, at_reference, by_nodes, draw_scene, varying
from jaxad.data.preparation import prepare
from jaxad.errors import UserError

ROOT = Path(__file__).parents[3]
PARTS = [
    Part("train", 6, 0, "train", by_nodes),
    Part("test", 1, 3, "test", at_reference),
    Part("test_noise", 1, 3, "test", varying("noise")),
    Part("test_view", 0, 1, "test", varying("view")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return generate.generate(tmp_path_factory.mktemp("generated"), "button", PARTS, seed=3)


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "factors.csv").open(encoding="utf-8", newline="") as file:
        return {row.pop("image"): row for row in csv.DictReader(file)}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_image_has_a_line_of_factors_and_every_anomalous_one_a_mask(made):
    images = {p.relative_to(made).as_posix() for p in made.rglob("*.jpg")}
    assert images == set(table(made))
    assert len(images) == 15
    for split, number in (("test", 3), ("test_noise", 3), ("test_view", 1)):
        masks = sorted((made / "ground_truth" / split / "anomaly").iterdir())
        assert [m.name for m in masks] == [f"{i:03}_mask.png" for i in range(number)]
        for mask in masks:
            image = made / split / "anomaly" / mask.name.replace("_mask.png", ".jpg")
            assert pixels(mask).shape == pixels(image).shape[:2]
            assert pixels(mask).any() and not pixels(mask).all()


def test_the_nodes_take_turns_and_have_their_own_resolutions(made):
    rows = table(made)
    training = [rows[f"train/good/{i:03}.jpg"] for i in range(6)]
    assert [row["node"] for row in training] == list("123456")
    assert len({row["background"] for row in training}) == 5
    sizes = [pixels(made / f"train/good/{i:03}.jpg").shape[0] for i in range(6)]
    assert sizes == [int(row["resolution"]) for row in training]
    assert set(sizes) == {600, 300, 200}


def test_splits_of_the_same_scenes_differ_by_the_varied_factor_only(made):
    rows = table(made)
    for i in range(3):
        one, other = (rows[f"{split}/anomaly/{i:03}.jpg"] for split in ("test", "test_noise"))
        changed = {name for name in one if one[name] != other[name]}
        assert changed and changed <= {"noise", "electrons", "read_noise", "lens_blur"}
        masks = [pixels(made / "ground_truth" / s / "anomaly" / f"{i:03}_mask.png") for s in ("test", "test_noise")]
        np.testing.assert_array_equal(*masks)
    assert rows["test_view/anomaly/000.jpg"]["scene"] == rows["test/anomaly/000.jpg"]["scene"]
    assert rows["test_view/anomaly/000.jpg"]["tilt"] != rows["test/anomaly/000.jpg"]["tilt"]
    assert len({row["scene"] for row in rows.values()}) == 6 + 4


def test_three_frames_in_ten_hold_several_products():
    counts = [len(draw_scene("button", False, np.random.default_rng([1, i])).designs) for i in range(400)]
    assert 0.25 < np.mean(np.array(counts) > 1) < 0.36
    assert set(counts) == {1, 2, 3, 4}


def test_products_are_made_to_the_designs_that_were_ordered_with_tolerances_of_their_own():
    ordered = generate.catalogue("pendant", 1, 3)
    made = [d for i in range(60) for d in draw_scene("pendant", False, np.random.default_rng(i), 1, ordered).designs]
    assert {(d.colour, d.shape, d.symbol) for d in made} == {(d.colour, d.shape, d.symbol) for d in ordered}
    assert len({d.seed for d in made}) == len(made)
    assert generate.catalogue("pendant", 1, 3) == ordered != generate.catalogue("pendant", 2, 3)
    free = [draw_scene("pendant", False, np.random.default_rng(i)).designs[0] for i in range(20)]
    assert len({(d.colour, d.shape, d.pattern, d.symbol, d.size_mm) for d in free}) == 20


def test_only_anomalous_scenes_have_defects():
    for i in range(6):
        rng = np.random.default_rng([2, i])
        assert bool(draw_scene("brick", i % 2 == 1, rng).defect_kinds) == (i % 2 == 1)


def test_the_same_seed_gives_the_same_files_and_another_one_others(tmp_path):
    part = [Part("test", 0, 1, "test", at_reference)]
    folders = [generate.generate(tmp_path / str(n), "brick", part, seed) for n, seed in enumerate((5, 5, 6))]
    bytes_of = [[p.read_bytes() for p in sorted(f.rglob("*.*"))] for f in folders]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]


def test_a_family_that_is_there_or_unknown_is_one_clear_line(made):
    with pytest.raises(UserError, match=r"button already exists: remove it, or name another folder"):
        generate.generate(made.parent, "button", PARTS)
    with pytest.raises(UserError, match=r"there is no family 'buton'.*Did you mean 'button'"):
        generate.generate(made.parent, "buton", PARTS)
    with pytest.raises(UserError, match="difficulty is 0 and designs is 6; expected difficulty > 0"):
        generate.generate(made.parent, "brick", PARTS, difficulty=0)


@pytest.mark.slow
def test_a_killed_generation_is_never_taken_for_whole(tmp_path):
    command = [sys.executable, "-m", "datasets_tfds.mirad_mini.generate", str(tmp_path), "--family", "button"]
    command += ["--images", "4", "--good", "1", "--anomalous", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.rglob("*.jpg")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "button").exists()
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    assert len(table(tmp_path / "button")) == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["button"]


def small(monkeypatch):
    for module, numbers in (("mirad_mini", (2, 1, 1)), ("mirad_mini_factors", (1, 1, 1))):
        builder = f"datasets_tfds.{module}.{module}_dataset_builder"
        for name, number in zip(("TRAIN", "GOOD", "ANOMALOUS"), numbers, strict=True):
            monkeypatch.setattr(f"{builder}.{name}", number)


def test_the_data_set_is_generated_and_carries_its_factors(tmp_path, monkeypatch):
    small(monkeypatch)
    builder = prepare("mirad_mini", "pendant", data_dir=str(tmp_path))["pendant"]
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2, "test": 2}
    anomalous, normal = builder.as_data_source("test")
    assert (normal["label"], anomalous["label"]) == (0, 1)
    assert not normal["mask"].any() and anomalous["mask"].any()
    defects = anomalous["defects"].decode().split("+")
    assert anomalous["defect_type"].decode() == (defects[0] if len(defects) == 1 else "compound")
    assert normal["node"] == anomalous["node"] == b"1"
    assert normal["resolution"] == normal["image"].shape[0] == 600
    assert 2 <= normal["tilt"] <= 8
    assert b"colour=" in normal["designs"]


def test_a_folder_that_the_user_generated_is_read_and_a_missing_line_is_named(tmp_path, monkeypatch):
    generate.main([str(tmp_path / "mine"), "--family", "brick", "--images", "1", "--good", "1", "--anomalous", "1"])
    splits = prepare("mirad_mini", "brick", data_dir=str(tmp_path / "a"), manual_dir=str(tmp_path / "mine"))["brick"]
    assert splits.info.splits["train"].num_examples == 1
    file = tmp_path / "mine" / "brick" / "factors.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=r"factors\.csv does not name test/anomaly/000\.jpg"):
        prepare("mirad_mini", "brick", data_dir=str(tmp_path / "b"), manual_dir=str(tmp_path / "mine"))


@pytest.mark.slow
def test_the_factors_data_set_has_a_split_for_each_factor(tmp_path, monkeypatch):
    small(monkeypatch)
    builder = prepare("mirad_mini_factors", "button", data_dir=str(tmp_path))["button"]
    factors = ("view", "illumination", "resolution", "background", "motion", "noise", "mixed")
    assert set(builder.info.splits) == {"train", "train_mixed", "test", *(f"test_{factor}" for factor in factors)}
    scenes = {name: [e["scene"] for e in builder.as_data_source(name)] for name in builder.info.splits}
    assert all(numbers == scenes["test"] for name, numbers in scenes.items() if name.startswith("test"))
    assert scenes["train"] == scenes["train_mixed"]


def test_a_contact_sheet_shows_every_family_at_every_node(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_tfds.mirad_mini.contact_sheet.FAMILIES", ("button",))
    parts = [Part("test", 6, 6, "test", by_nodes)]
    folder = generate.generate(tmp_path, "button", parts).parent
    sheet = contact_sheet(folder)
    assert sheet.size == (6 * SIDE, 2 * SIDE)
    outlined = (np.asarray(sheet) == OUTLINE).all(-1)
    assert outlined[SIDE:].any() and not outlined[:SIDE].any()
    (folder / "button" / "factors.csv").write_text("image,node\n")
    with pytest.raises(UserError, match="no image test/good of node 1; generate more images"):
        contact_sheet(folder)
