import csv
import os
from pathlib import Path

import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.report.overlay import read_map_png16
from jaxad.report.predictions import PredictionWriter, decide

IMAGE = np.full((6, 8, 3), 100, np.uint8)
MAP = np.linspace(0, 3, 48, dtype=np.float32).reshape(6, 8)


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_every_image_has_a_line_a_map_and_an_overlay(tmp_path):
    with PredictionWriter(tmp_path / "out", threshold=1.5, scale=(0.0, 1.0)) as writer:
        writer.add("photos/a.jpg", "a.jpg", IMAGE, MAP, 3.0)
        writer.add("photos/b.jpg", "b.jpg", IMAGE, MAP, 1.5)
    assert files(tmp_path / "out") == [
        "maps/a.png",
        "maps/b.png",
        "overlays/a.png",
        "overlays/b.png",
        "predictions.csv",
    ]
    assert read_rows(tmp_path / "out" / "predictions.csv") == [
        {"path": "photos/a.jpg", "score": "3.0", "threshold": "1.5", "decision": "anomalous"},
        {"path": "photos/b.jpg", "score": "1.5", "threshold": "1.5", "decision": "normal"},
    ]


def test_an_image_may_have_a_threshold_of_its_own_or_none(tmp_path):
    with PredictionWriter(tmp_path, threshold=1.5) as writer:
        writer.add("a.png", "a.png", IMAGE, MAP, 2.0)
        writer.add("b.png", "b.png", IMAGE, MAP, 2.0, threshold=2.5)
        writer.add("c.png", "c.png", IMAGE, MAP, 2.0, threshold=None)
        writer.add("d.png", "d.png", IMAGE, MAP, 2.0)
    rows = read_rows(tmp_path / "predictions.csv")
    assert [row["threshold"] for row in rows] == ["1.5", "2.5", "", "1.5"]
    assert [row["decision"] for row in rows] == ["anomalous", "normal", "", "anomalous"]


def test_weird_names_stay_unique_and_come_back_from_the_csv(tmp_path):
    names = [
        "a.jpg",
        "a.png",
        "A.jpg",
        "a_png.tif",
        "links/größe 1.jpg",
        "rechts/größe 1.jpg",
        'say "hi", twice.png',
        "line\nbreak.png",
        "部品/ひび.bmp",
        "v1.2.3.png",
        "noextension",
        "x" * 250 + ".jpg",
        "x" * 250 + ".png",
        "é" * 125 + ".jpg",
    ]
    with PredictionWriter(tmp_path, threshold=None, map_format="npy") as writer:
        for place, name in enumerate(names):
            writer.add(f"in/{name}", name, IMAGE, MAP + place, float(place))
    assert [row["path"] for row in read_rows(tmp_path / "predictions.csv")] == [f"in/{name}" for name in names]
    for kind in ("maps", "overlays"):
        found = files(tmp_path / kind)
        assert len(found) == len({name.casefold() for name in found}) == len(names)
        assert [name.count("/") for name in found].count(1) == 3
    first_values = {float(np.load(path)[0, 0]) for path in (tmp_path / "maps").rglob("*.npy")}
    assert first_values == set(map(float, range(len(names))))
    assert (tmp_path / "maps" / "links" / "größe 1.npy").exists()
    assert (tmp_path / "maps" / "v1.2.3.npy").exists()


def test_an_undecodable_name_does_not_stop_the_run(tmp_path):
    name = os.fsdecode(b"bad\xff.png")
    with PredictionWriter(tmp_path, threshold=None) as writer:
        writer.add(name, name, IMAGE, MAP, 1.0)
    assert read_rows(tmp_path / "predictions.csv")[0]["path"] == "bad\\udcff.png"


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a/../../b.png", "."])
def test_nothing_is_written_outside_of_the_folder(tmp_path, name):
    with (
        PredictionWriter(tmp_path / "out", threshold=None) as writer,
        pytest.raises(UserError, match="below the folder"),
    ):
        writer.add(name, name, IMAGE, MAP, 1.0)
    assert files(tmp_path) == ["out/predictions.csv"]


def test_a_map_beyond_the_scale_is_not_clipped(tmp_path):
    with PredictionWriter(tmp_path, threshold=None, scale=(1.0, 2.0)) as writer:
        writer.add("a.png", "a.png", IMAGE, MAP, 3.0)
    np.testing.assert_allclose(read_map_png16(tmp_path / "maps" / "a.png"), MAP, atol=5e-5)


def test_an_exception_leaves_the_old_csv(tmp_path):
    (tmp_path / "predictions.csv").write_text("old")
    with pytest.raises(RuntimeError), PredictionWriter(tmp_path, threshold=None) as writer:
        writer.add("a.png", "a.png", IMAGE, MAP, 1.0)
        raise RuntimeError
    assert (tmp_path / "predictions.csv").read_text() == "old"
    assert files(tmp_path) == ["maps/a.png", "overlays/a.png", "predictions.csv"]


def test_an_output_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(UserError, match=r"out/predictions\.csv: cannot be written"),
        PredictionWriter(tmp_path / "out", None),
    ):
        pass


def test_an_unknown_map_format_names_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="'tiff', expected 'png16' or 'npy'"):
        PredictionWriter(tmp_path, None, map_format="tiff")


def test_decision_is_anomalous_only_above_the_threshold():
    assert [decide(score, 1.0) for score in (0.5, 1.0, 1.5, float("nan"))] == ["normal", "normal", "anomalous", ""]
    assert decide(2.0, None) == ""
