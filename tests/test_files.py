import os

import pytest

from jaxad.errors import UserError
from jaxad.files import replacing, write_text


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as file:
        file.write(b"new")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "folder" / "a.txt"
    write_text(path, "first")
    write_text(path, "zweite \u00fc \udcff")
    assert path.read_bytes() == "zweite \u00fc \\udcff".encode()
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_file_in_the_place_of_a_folder_is_named_in_one_line(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"runs/report\.html: cannot be written") as error:
        write_text(tmp_path / "runs" / "report.html", "")
    assert "\n" not in str(error.value)


def test_a_full_disk_is_a_user_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "map.npy"
    path.write_text("old")
    with pytest.raises(UserError, match="No space left on device"), replacing(path):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
