"""MIRAD: its release's layout, where the place of the masks is open; imaging factors; its download."""

import os
import subprocess
import sys
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from datasets_tfds.archives import Source
from datasets_tfds.mirad.factors import IMAGING, read_factors
from datasets_tfds.mirad.mirad_dataset_builder import PUBLISHED, Builder
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw_layouts import mirad

ROOT = Path(__file__).parents[2]
NOTHING = {"node": "", "background": "", "illumination": "", "view": "", "motion": "", "noise": "", "resolution": 0}


def prepared(tmp_path: Path, manual_dir: Path, category: str = "rabbit_pendant"):
    return prepare("mirad", category, data_dir=str(tmp_path / "tfds"), manual_dir=str(manual_dir))[category]


def listed(tmp_path: Path, manual_dir: Path | None, category: str = "rabbit_pendant"):
    return Builder(data_dir=tmp_path / "tfds", config=category).photographs(manual_dir)


def test_published_numbers_add_up():
    totals = np.sum([(c.train, c.good, c.defective) for c in PUBLISHED.values()], axis=0)
    assert (len(PUBLISHED), *totals) == (10, 2398, 654, 1737)


@pytest.mark.parametrize("masks", ["{stem}.png", "{stem}_mask.png", "anomaly/{stem}.bmp", "Anomaly/{stem}_mask.png"])
def test_masks_are_found_directly_in_ground_truth_and_in_a_folder_of_it(tmp_path, masks):
    raw = mirad(tmp_path / "raw" / "MIRAD", masks=masks)
    test = list(prepared(tmp_path, tmp_path / "raw").as_data_source("test"))
    assert [e["defect_type"].decode() for e in test] == ["good"] * 3 + ["anomaly"] * 4
    for example in test[3:]:
        stem = Path(example["image_id"].decode()).stem
        (stored,) = (raw / "rabbit_pendant" / "ground_truth").rglob(f"{stem}*")
        np.testing.assert_array_equal(example["mask"][..., 0], np.asarray(Image.open(stored)))


def test_images_of_any_type_are_taken(tmp_path):
    train = listed(tmp_path, mirad(tmp_path / "raw"))["train"]
    assert [p.path.suffix for p in train] == [".jpg", ".png", ".bmp", ".jpg", ".png"]


def test_folders_named_as_on_the_page_are_found(tmp_path):
    mirad(tmp_path / "raw", ["Rabbit Pendant", "Number-Block"])
    assert len(listed(tmp_path, tmp_path / "raw")["train"]) == 5
    assert len(listed(tmp_path, tmp_path / "raw", "number_block")["train"]) == 5


def test_a_defect_without_mask_is_named(tmp_path):
    raw = mirad(tmp_path / "raw")
    (raw / "rabbit_pendant" / "ground_truth" / "002_mask.png").unlink()
    with pytest.raises(UserError, match=r"mirad/rabbit_pendant: no mask for .*test/anomaly/002\.bmp: expected .*002"):
        listed(tmp_path, raw)


def test_a_missing_category_is_named_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(UserError, match=r"mirad/chain_buckle: no folder 'chain_buckle' in .*raw; expected CATEGORY"):
        listed(tmp_path, mirad(tmp_path / "raw"), "chain_buckle")


def test_factors_are_empty_since_none_are_published(tmp_path):
    for photograph in listed(tmp_path, mirad(tmp_path / "raw"))["test"]:
        assert photograph.factors == NOTHING
    example = prepared(tmp_path, tmp_path / "raw").as_data_source("train")[0]
    assert {name: example[name] for name in NOTHING} == {n: v.encode() if v == "" else v for n, v in NOTHING.items()}


def factors_csv(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "factors.csv").write_text(text)
    return folder


def test_factors_of_the_user_are_prepared(tmp_path):
    raw = mirad(tmp_path / "raw")
    images = [p.image_id.partition("/")[2] for split in listed(tmp_path, raw).values() for p in split]
    lines = [f"{name}, wood,{i % 6},{200 + i}" for i, name in enumerate(images)]
    factors_csv(raw / "rabbit_pendant", "\n".join(["image,background,node,resolution", *lines]))
    test = list(prepared(tmp_path, raw).as_data_source("test"))
    assert [(e["background"], e["node"], int(e["resolution"]), e["motion"]) for e in test[:2]] == [
        (b"wood", b"5", 205, b""),
        (b"wood", b"0", 206, b""),
    ]
    factors_csv(raw / "rabbit_pendant", "image,node\ntrain/good/000.jpg,1\n")
    with pytest.raises(UserError, match=r"factors\.csv has no line for train/good/001\.png; expected one for each"):
        listed(tmp_path, raw)


def test_factors_of_other_data_sets_are_parsed_by_their_types(tmp_path):
    folder = factors_csv(tmp_path, '\ufeffimage,light,node\n"a, b.png",1.5,x\n\nc.png,,\n')
    assert read_factors(folder, {**IMAGING, "light": np.float32}) == {
        "a, b.png": {**NOTHING, "light": 1.5, "node": "x"},
        "c.png": {**NOTHING, "light": 0.0},
    }
    assert read_factors(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,ilumination\n", r"factors\.csv has a column 'ilumination'; .*Did you mean 'illumination'"),
        ("node,background\n", r"has the columns node, background; expected image and each factor at most once"),
        ("image,node,node\n", r"expected image and each factor at most once"),
        ("", r"expected image and each factor at most once"),
        ("image,resolution\na.png,big\n", r"line 2: resolution is 'big', expected a number"),
        ("image,node\na.png,1\na.png,2\n", r"line 3: a\.png is named a second time"),
        ("image,node\na.png\n", r"line 2: found 1 fields, expected 2: image, node"),
    ],
)
def test_a_wrong_file_of_factors_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_factors(factors_csv(tmp_path, text))


def test_without_network_the_drive_link_and_the_way_without_it_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError) as caught:
        listed(tmp_path, None)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("1-4aMEtiTvk77Oo-oNW6WdPPuxpfHRKwq", "failed", "config.dataset.manual_dir", "unpack it", "wu33learn"):
        assert part in message


def test_the_download_becomes_the_data_set(tmp_path, monkeypatch):
    raw = mirad(tmp_path / "raw" / "MIRAD")
    (tmp_path / "served").mkdir()
    with zipfile.ZipFile(tmp_path / "served" / "MIRAD.zip", "w") as file:
        for path in raw.rglob("*"):
            file.write(path, path.relative_to(raw.parent))

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/MIRAD.zip"
    monkeypatch.setattr(Builder, "SOURCE", Source("MIRAD.zip", url))
    (builder,) = prepare("mirad", "number_block", data_dir=str(tmp_path / "tfds")).values()
    server.shutdown()
    server.server_close()
    assert len(builder.as_data_source("test")) == 7
    (other,) = prepare("mirad", "rabbit_pendant", data_dir=str(tmp_path / "tfds")).values()  # the server is gone
    assert len(other.as_data_source("test")) == 7


def test_tfds_alone_prepares_and_reads_it_without_tensorflow(tmp_path):
    code = """
import sys
import datasets_tfds.mirad
import tensorflow_datasets as tfds
manual, data_dir = sys.argv[1:]
builder = tfds.builder("mirad/rabbit_pendant", data_dir=data_dir)
builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
source = tfds.data_source("mirad/rabbit_pendant", split="train", data_dir=data_dir)
print(len(source), source[0]["image"].ndim, sorted({m.split(".")[0] for m in sys.modules} & {"tensorflow", "torch"}))
"""
    run = [sys.executable, "-c", code, str(mirad(tmp_path / "raw")), str(tmp_path / "tfds")]
    output = subprocess.check_output(run, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, timeout=60)
    assert output.splitlines()[-1] == "5 3 []"
