"""Preparation happens once, completely or not at all, and never through TensorFlow."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from jaxad.data import preparation
from jaxad.data.preparation import dataset_names, prepare
from jaxad.errors import UserError
from tests.data.raw import elpv, magnetic_tile, mvtec_folder

ROOT = Path(__file__).parents[2]


def run(code: str, *arguments: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_every_builder_follows_the_conventions_of_tfds():
    of_papers = ["mirad", "manudefect21", "mvtec_ad", "visa", "btad", "mpdd", "dtd", "hsp", "small_part"]
    others = ["cvc_clinicdb", "cvc_colondb", "elpv", "folder", "magnetic_tile", "mirad_mini", "mirad_mini_factors"]
    assert dataset_names() == sorted(of_papers + others)
    for name in dataset_names():
        package = ROOT / "datasets_tfds" / name
        names = {p.name for p in package.iterdir()}
        assert {f"{name}_dataset_builder.py", "README.md", "CITATIONS.bib", "TAGS.txt", "__init__.py"} <= names
        tags = (package / "TAGS.txt").read_text().split()
        assert tags and set(tags) <= set(dataset_metadata.valid_tags())


def test_preparing_and_reading_never_imports_tensorflow(tmp_path):
    code = """
import sys
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata
from jaxad.data.batches import evaluation_batches
from jaxad.data.split import load_split
from tests.data.raw import dataset_config, input_config, magnetic_tile
from pathlib import Path
root = Path(sys.argv[1])
config = dataset_config("magnetic_tile", root / "tfds", manual_dir=str(magnetic_tile(root / "raw")))
split = load_split(config, input_config(), "train")
assert sum(int(b["weight"].sum()) for b in evaluation_batches(split, 3)) == 4
source = tfds.data_source("magnetic_tile", data_dir=str(root / "tfds"), split="test")
assert source[0]["image"].ndim == 3
print(sorted(m for m in sys.modules if m.split(".")[0] in ("tensorflow", "torch")))
"""
    output, _ = run(code, tmp_path).communicate(timeout=60)
    assert output.splitlines()[-1] == "[]"


def test_killed_preparation_is_not_taken_for_whole_and_its_remains_go(tmp_path):
    raw = mvtec_folder(tmp_path / "raw", train=12)
    code = """
import os, signal, sys
from datasets_tfds import core
from jaxad.data import preparation
from jaxad.data.preparation import prepare
decode, calls = core.decode, []
def dying_decode(data, name):
    calls.append(name)
    if len(calls) == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, name)
core.decode = dying_decode
prepare("folder", data_dir=sys.argv[2], path=sys.argv[1])
"""
    process = run(code, raw, tmp_path / "tfds")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (remains,) = (tmp_path / "tfds" / "folder").glob("raw-*/*incomplete*")
    assert list(remains.glob("*train*"))
    (builder,) = prepare("folder", data_dir=str(tmp_path / "tfds"), path=str(raw)).values()
    assert [builder.info.splits[s].num_examples for s in ("train", "test")] == [12, 4]
    assert not remains.exists()


def test_processes_that_start_together_prepare_once(tmp_path):
    raw = mvtec_folder(tmp_path / "raw", train=30)
    code = """
import sys
from jaxad.data import preparation
from jaxad.data.preparation import prepare
(builder,) = prepare("folder", data_dir=sys.argv[2], path=sys.argv[1]).values()
print(len(builder.as_data_source("train")))
"""
    processes = [run(code, raw, tmp_path / "tfds") for _ in range(3)]
    outputs = [p.communicate(timeout=60)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0]
    assert [o.splitlines()[-1] for o in outputs] == ["30"] * 3
    assert sorted("Preparing" in o for o in outputs) == [False, False, True]


def test_data_that_another_process_finishes_in_between_is_read(tmp_path, monkeypatch):
    make = preparation._builders

    def make_and_be_overtaken(*arguments):
        builders = make(*arguments)
        for other in make(*arguments).values():
            other.download_and_prepare()
        return builders

    monkeypatch.setattr(preparation, "_builders", make_and_be_overtaken)
    (builder,) = prepare("folder", data_dir=str(tmp_path / "tfds"), path=str(mvtec_folder(tmp_path / "raw"))).values()
    assert len(builder.as_data_source("train")) == 5


def test_second_run_says_that_it_reuses_the_data(tmp_path, capsys):
    raw = mvtec_folder(tmp_path / "raw")
    (builder,) = prepare("folder", data_dir=str(tmp_path / "tfds"), path=str(raw)).values()
    assert f"Preparing folder/raw in {builder.data_dir}" in capsys.readouterr().out
    prepare("folder", data_dir=str(tmp_path / "tfds"), path=str(raw))
    assert f"Reusing prepared data in {builder.data_dir}" in capsys.readouterr().out


def test_data_dir_comes_from_the_environment_when_the_config_names_none(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from environment"))
    (builder,) = prepare("folder", path=str(mvtec_folder(tmp_path / "raw"))).values()
    assert Path(builder.data_dir).is_relative_to(tmp_path / "from environment")


def test_misspelt_data_set_gets_the_near_match(tmp_path):
    with pytest.raises(UserError, match=r"config\.dataset\.name is 'magnetic_tyle'.*Did you mean 'magnetic_tile'"):
        prepare("magnetic_tyle", data_dir=str(tmp_path))


def test_misspelt_category_gets_the_near_match(tmp_path):
    with pytest.raises(UserError, match=r"'elpv' has no category 'momo'; expected all, or some of mono, poly"):
        prepare("elpv", "momo", data_dir=str(tmp_path))


def test_several_data_sets_are_one_with_the_categories_of_all(tmp_path):
    elpv(tmp_path / "raw" / "elpv")
    magnetic_tile(tmp_path / "raw" / "tiles")
    places = {"data_dir": str(tmp_path / "tfds"), "manual_dir": str(tmp_path / "raw")}
    builders = prepare("elpv+magnetic_tile", **places)
    assert [(b.name, category) for category, b in builders.items()] == [
        ("elpv", "mono"),
        ("elpv", "poly"),
        ("magnetic_tile", "magnetic_tile"),
    ]
    assert list(prepare("elpv+magnetic_tile", "magnetic_tile,mono", **places)) == ["magnetic_tile", "mono"]


def test_one_manual_dir_leaves_the_other_data_set_to_its_wheel(tmp_path):
    pytest.importorskip("elpv_dataset")
    raw, data_dir = magnetic_tile(tmp_path / "raw"), str(tmp_path / "tfds")
    mono, tiles = prepare("elpv+magnetic_tile", "mono,magnetic_tile", data_dir=data_dir, manual_dir=str(raw)).values()
    assert [len(builder.as_data_source("train")) for builder in (mono, tiles)] == [470, 4]


def test_a_category_of_two_data_sets_is_refused(tmp_path):
    raw = mvtec_folder(tmp_path / "mono")
    with pytest.raises(UserError, match=r"'elpv\+folder': elpv and folder both have a category 'mono'"):
        prepare("elpv+folder", data_dir=str(tmp_path), path=str(raw))


def test_misspelt_data_set_among_several_is_the_one_that_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no data set 'elvp'.*joined by \+\. Did you mean 'elpv'"):
        prepare("magnetic_tile+elvp", data_dir=str(tmp_path))


def test_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file/folder/raw-.* cannot be written \(Not a directory\)"):
        prepare("folder", data_dir=str(tmp_path / "file"), path=str(mvtec_folder(tmp_path / "raw")))


def test_full_disk_is_named(tmp_path, monkeypatch):
    def fail(self, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError, match=r"raw-.* is full: set config\.dataset\.data_dir"):
        prepare("folder", data_dir=str(tmp_path / "tfds"), path=str(mvtec_folder(tmp_path / "raw")))
