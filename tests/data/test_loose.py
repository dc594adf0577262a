"""Loose photographs for prediction: all found, broken ones listed and the rest predicted."""

import numpy as np
import pytest

from jaxad.data.batches import evaluation_batches
from jaxad.data.geometry import Geometry
from jaxad.data.loose import ArraySplit, FileSplit, image_files
from jaxad.errors import UserError
from tests.data.raw import photograph, pixels


def test_images_of_a_folder_are_found_below_it_in_order(tmp_path, caplog):
    want = [photograph(tmp_path / name) for name in ("b.PNG", "ä ö/1.jpg", "ä ö/2.bmp")]
    photograph(tmp_path / ".hidden" / "x.png")
    (tmp_path / "notes.txt").write_text("not a photograph")
    assert image_files(tmp_path) == want
    assert "skipped 1 files that are not images" in caplog.text
    assert image_files(want[0]) == [want[0]]


def test_nothing_to_predict_is_an_error_that_names_the_path(tmp_path):
    (tmp_path / "notes.txt").write_text("not a photograph")
    with pytest.raises(UserError, match=r"notes\.txt, which is not an image"):
        image_files(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="holds no image"):
        image_files(tmp_path)
    with pytest.raises(UserError, match=r"gone', which does not exist"):
        image_files(tmp_path / "gone")


def test_broken_files_are_listed_and_the_rest_goes_on(tmp_path):
    files = [photograph(tmp_path / f"{i}.jpg", i, (40, 30)) for i in range(5)]
    files[1].write_bytes(b"")
    files[3].write_bytes(files[3].read_bytes()[:300])
    source = FileSplit(files, Geometry("pad", (16, 16)))
    batches = list(evaluation_batches(source, 2))
    assert np.concatenate([b["weight"] for b in batches]).tolist() == [1, 0, 1, 0, 1, 0]
    assert sorted(source.errors) == [1, 3]
    assert "1.jpg is empty" in source.errors[1]
    assert "3.jpg is damaged" in source.errors[3]
    np.testing.assert_array_equal(source.original_sizes[[0, 1, 2]], [[40, 30], [0, 0], [40, 30]])
    assert not batches[0]["valid"][1].any()
    assert batches[1]["valid"][0].sum() == 16 * 12


def test_original_of_a_file_is_its_own_size(tmp_path):
    source = FileSplit([photograph(tmp_path / "a.png", size=(40, 30))], Geometry())
    assert source.original(0).shape == (40, 30, 3)


def test_arrays_are_taken_as_they_are_and_wrong_ones_named():
    images = [pixels(0, 40, 30), pixels(1, 40, 30)[..., 0], pixels(2, 20, 60) / 255]
    source = ArraySplit(images, Geometry("stretch", (16, 16)))
    (batch,) = evaluation_batches(source, 3)
    assert batch["weight"].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(source.original(0), images[0])
    assert source.errors[1] == "image 1 is uint8 of shape (40, 30); expected uint8 of shape (h, w, 3)"
    assert source.errors[2].startswith("image 2 is float64")
