"""The pages docs/adding_*.md, each followed to the letter on a copy of the packages.

A page says what to write in four forms: "In `FILE`:" before a block is a new file, and before inline code a new file of
one line; "At the end of `FILE`:" before a block adds the block; "In `FILE`, after `TEXT` add `NEW`" puts NEW behind the
only TEXT of the file, on a line of its own after "the line". What begins with `python -m` is a command.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests import runs

PAGES = {path.stem.removeprefix("adding_a_"): path for path in sorted((runs.ROOT / "docs").glob("adding_*.md"))}
COPIED = ("jaxad", "configs", "datasets_tfds", "tests")
LIMIT = 40  # lines of a page

FENCE = re.compile(r"^```\w*\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
OF_A_BLOCK = re.compile(r"(In|At the end of) `([^`]+)`")
EDIT = re.compile(
    r"In `(?P<file>[^`]+)`(?:: `(?P<line>[^`]+)`|,)|after (?P<whole>the line )?`(?P<old>[^`]+)` add `(?P<new>[^`]+)`"
)
COMMAND = re.compile(r"(?:^ *|`)(python -m [^`\"\n]*(?:\"[^\"\n`]*\"[^`\"\n]*)*)", re.MULTILINE)


@pytest.fixture
def copy(tmp_path):
    """The packages without the stored numbers of the golden tests."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        return {"__pycache__"} | ({"data"} if Path(folder).name == "golden" else set())

    for name in COPIED:
        shutil.copytree(runs.ROOT / name, tmp_path / "copy" / name, ignore=left_out)
    shutil.copy(runs.ROOT / "pyproject.toml", tmp_path / "copy")
    return tmp_path / "copy"


def follow(page: str, root: Path) -> set[str]:
    """Writes and changes the files below `root` as the page says; returns their names."""
    parts = FENCE.split(page)
    changed = set()
    for place, text in enumerate(parts):
        if place % 2 == 0:
            changed |= _edit(text, root)
            continue
        how, name = OF_A_BLOCK.findall(parts[place - 1].rstrip().splitlines()[-1])[-1]
        if how == "In":
            _create(root / name, text)
        else:
            (root / name).write_text((root / name).read_text(encoding="utf-8") + "\n\n" + text, encoding="utf-8")
        changed.add(name)
    return changed


def new_files(page: str) -> set[str]:
    """The files that a page has its reader write."""
    parts = FENCE.split(page)
    heads = [OF_A_BLOCK.findall(prose.rstrip().splitlines()[-1])[-1] for prose in parts[:-1:2]]
    lines = [found["file"] for prose in parts[::2] for found in EDIT.finditer(prose) if found["line"]]
    return {name for how, name in heads if how == "In"} | set(lines)


def _create(path: Path, text: str) -> None:
    assert not path.exists(), f"the page says to write {path.name}, which exists already"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _edit(prose: str, root: Path) -> set[str]:
    name, changed = "", set()
    for found in EDIT.finditer(prose):
        name = found["file"] or name
        if found["line"]:
            _create(root / name, found["line"] + "\n")
        elif found["old"]:
            whole = (root / name).read_text(encoding="utf-8")
            assert whole.count(found["old"]) == 1, f"{name} has {found['old']!r} {whole.count(found['old'])} times"
            behind = found["old"] + found["new"]
            if found["whole"]:
                (line,) = (line for line in whole.splitlines() if found["old"] in line)
                assert line.strip() == found["old"], f"{name}: {line!r} is not the line that the page names"
                behind = found["old"] + "\n" + line.replace(found["old"], found["new"])
            (root / name).write_text(whole.replace(found["old"], behind), encoding="utf-8")
        else:
            continue
        changed.add(name)
    return changed


def execute(page: str, root: Path, **words: Path) -> str:
    """Runs the page's commands in the copy, with paths in place of words such as PHOTOS; returns what they print."""
    commands, printed = COMMAND.findall(page), []
    for command in commands:
        for word, path in words.items():
            command = re.sub(rf"\b{word}\b", str(path), command)
        printed.append(start(shlex.split(command)[1:], root))
    assert commands
    return "\n".join(printed)


def start(arguments: list[str], root: Path) -> str:
    settings = {"PYTHONPATH": str(root), "TFDS_DATA_DIR": str(root / "prepared"), "HF_HUB_OFFLINE": "1"}
    command, environment = [sys.executable, *arguments], runs.environment(1, **settings)
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def followed(name: str, root: Path, **words: Path) -> str:
    """Follows a page and runs its commands; the linter finds nothing afterwards. Returns what the commands printed."""
    page = PAGES[name].read_text(encoding="utf-8")
    written = sorted(name for name in follow(page, root) if name.endswith(".py"))
    printed = execute(page, root, **words)
    start(["-m", "ruff", "check", *written], root)
    start(["-m", "ruff", "format", "--check", *written], root)
    return printed


def categories(workdir: Path) -> list[dict]:
    return json.loads((workdir / "results.json").read_text(encoding="utf-8"))["categories"]


def columns(workdir: Path) -> dict[str, str]:
    """What the only row of the report's table says, by the column's name."""
    html = (workdir / "report.html").read_text(encoding="utf-8")
    names = re.findall(r'<th scope="col">(.*?)</th>', html.split("</thead>")[0])
    row = html.split("<tbody>")[1].split("</tr>")[0]
    return dict(zip(names[1:], re.findall(r"<td>(.*?)</td>", row), strict=True))


def test_there_is_a_page_for_each_kind_of_part():
    assert list(PAGES) == ["backbone", "data_set", "method", "metric"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short_and_says_how_to_try_it_and_what_completes_it(name):
    page = PAGES[name].read_text(encoding="utf-8")
    assert len(page.splitlines()) < LIMIT
    assert "python -m jaxad.main " in page
    assert "python -m pytest " in page
    assert re.search(r"\bcompletes? it\b", page)
    assert all(len(line) <= 140 for block in FENCE.findall(page) for line in block.splitlines())


@pytest.mark.slow
def test_a_method_is_trained_and_evaluated_and_keeps_what_every_method_promises(copy, tmp_path):
    printed = followed("method", copy, PHOTOS=runs.write_photographs(tmp_path / "parts"))
    (result,) = categories(copy / "runs" / "mean")
    assert result["category"] == "parts"
    assert result["metrics"]["I-AUROC"] == 1  # a bright blot is far from the mean of stripes
    assert result["metrics"]["P-AUROC"] > 0.9
    assert result["threshold"] is not None
    assert columns(copy / "runs" / "mean")["I-AUROC"] == "100.0"
    passed = re.findall(r"(\d+) passed", printed)
    claims = re.findall(r"^def test_", (copy / "tests" / "methods" / "test_claims.py").read_text(), re.MULTILINE)
    assert passed and int(passed[0]) > len(claims)  # and the tests of configs


def write_commutators(root: Path) -> set[str]:
    """KolektorSDD's layout: two photographs of each of eleven commutators; returns the names of the cracked ones."""
    draw, cracked = np.random.default_rng(3), {"kos02/Part1.jpg", "kos07/Part0.jpg", "kos10/Part1.jpg"}
    for number in range(1, 12):
        for part in range(2):
            name = f"kos{number:02}/Part{part}.jpg"
            mask = np.zeros((60, 40), np.uint8)
            if name in cracked:
                mask[20:24, 5:30] = 255
            image = np.where(mask[..., None] > 0, 230, 90 + 20 * draw.random((60, 40, 3))).astype(np.uint8)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name, quality=95)
            Image.fromarray(mask).save((root / name).with_name(f"Part{part}_label.bmp"))
    return cracked


@pytest.mark.slow
def test_a_data_set_is_prepared_read_and_trained_on(copy, tmp_path):
    cracked = write_commutators(tmp_path / "raw" / "KolektorSDD")
    printed = followed("data_set", copy, RAW=tmp_path / "raw")
    assert "found 22 all (published: 399), 3 cracked (published: 52)" in printed

    normal = {f"kos{number}/Part{part}.jpg" for number in ("05", "10") for part in (0, 1)} - cracked
    (result,) = categories(copy / "runs" / "kolektor_sdd")
    assert result["category"] == "kolektor_sdd"
    assert dict(zip(result["ids"], result["labels"], strict=True)) == {
        **dict.fromkeys(normal, False),
        **dict.fromkeys(cracked, True),
    }
    assert result["metrics"]["I-AUROC"] == 1 and result["metrics"]["AUPRO"] > 0.5

    stored = copy / "prepared" / "kolektor_sdd" / "kolektor_sdd" / "1.0.0"
    splits: Any = tfds.builder_from_directory(stored).as_data_source()
    assert {name: len(split) for name, split in splits.items()} == {"train": 22 - 4 - 3 + 1, "test": 4 + 3 - 1}
    for example in splits["test"]:
        raw = tmp_path / "raw" / "KolektorSDD" / example["image_id"].decode()
        np.testing.assert_array_equal(example["image"], np.asarray(Image.open(raw)))
        mask = np.asarray(Image.open(raw.with_name(f"{raw.stem}_label.bmp")))
        np.testing.assert_array_equal(example["mask"][..., 0], mask)
        assert example["label"] == mask.any()


# 38 of the 40 anomalous scores 1, 2, ... 40 are at least 3; so are 3 of the 5 normal ones
BY_HAND = """
    import numpy as np
    from jaxad import metrics, report

    labels, scores = np.arange(45) < 40, np.array([*range(1, 41), 0, 2.5, 3, 10, 50.0])
    values = metrics.compute(scores[:, None, None], scores, metrics.GroundTruth(labels))
    ids, types = [f"{i}.png" for i in range(45)], ["good", "dent"]
    types = [types[int(label)] for label in labels]
    report.write("by_hand", [report.CategoryResult("parts", values, ids, scores, labels, types)], {})
"""


@pytest.mark.slow
def test_a_metric_is_in_the_results_and_the_report(copy, tmp_path):
    printed = followed("metric", copy, PHOTOS=runs.write_photographs(tmp_path / "parts", good=6, bad=6))
    assert "1 passed" in printed
    (result,) = categories(copy / "runs" / "patchcore")
    scores, labels = np.array(result["scores"]), np.array(result["labels"])
    found = scores[~labels] >= scores[labels].min()  # 95 % of six are all of them
    assert result["metrics"]["I-FPR95"] == found.mean()

    start(["-c", textwrap.dedent(BY_HAND)], copy)
    (result,) = categories(copy / "by_hand")
    assert result["metrics"]["I-FPR95"] == 0.6
    shown = columns(copy / "by_hand")
    assert list(shown) == ["I-AUROC", "I-AP", "I-F1max", "I-FPR95"]
    assert shown["I-FPR95"] == "60.0"


@pytest.mark.slow
def test_a_backbone_feeds_patchcore(copy, tmp_path):
    followed("backbone", copy, PHOTOS=runs.write_photographs(tmp_path / "parts"))
    stored = json.loads((copy / "runs" / "vgg" / "results.json").read_text(encoding="utf-8"))
    assert stored["run"]["config"]["backbone"]["name"] == "vgg11"
    (result,) = stored["categories"]
    assert set(result["metrics"]) >= {"I-AUROC", "AUPRO"}
    assert np.ptp(result["scores"]) > 0
