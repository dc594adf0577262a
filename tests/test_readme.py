"""What README shows does what it says."""

import re

import jaxad
import jaxad.methods
from tests import runs

README = (runs.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_method_of_the_readme_runs(tmp_path, monkeypatch):
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class MeanDistance" in block
    )
    (tmp_path / "mean_distance.py").write_text(code)
    monkeypatch.setattr(jaxad.methods, "__path__", [*jaxad.methods.__path__, str(tmp_path)])
    photographs = runs.write_photographs(tmp_path / "parts")
    places = {"dataset.path": str(photographs), "dataset.data_dir": str(tmp_path / "data")}
    settings = {**runs.PATCHCORE, **places, "method": "mean_distance"}
    results = jaxad.run(jaxad.load_config(f"{runs.ROOT}/configs/patchcore.py:folder", settings), tmp_path / "run")
    assert set(results[0].metrics) >= {"I-AUROC", "AUPRO"}
    assert len(code.splitlines()) < 36


def test_every_module_on_the_map_exists_and_none_is_missing():
    tree = re.search(r"```\n(jaxad/\n.*?)```", README, re.DOTALL)
    assert tree is not None
    named = set(re.findall(r"^  ([\w]+\.py|\w+/)", tree.group(1), re.MULTILINE)) | {"settings.py"}
    present = {p.name + "/" * p.is_dir() for p in (runs.ROOT / "jaxad").iterdir() if not p.name.startswith("_")}
    assert named | {"errors.py", "log.py"} == present


def test_every_config_file_is_in_the_table():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    present = {p.stem for p in (runs.ROOT / "configs").glob("*.py")} - {"__init__", "common"}
    assert present <= named
