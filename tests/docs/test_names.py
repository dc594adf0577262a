"""Names in the documentation exist: files, modules and what is in them, config files, their variants and fields.

Names with a word in capitals (NAME, PHOTOS), with <this> or with {this} stand for others and are left out, and so are
the files that a page of docs/ has its reader write.
"""

import functools
import importlib
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from jaxad.config import Config, fields, load_config
from jaxad.data.preparation import dataset_names
from jaxad.errors import UserError
from tests import runs
from tests.docs.test_adding import PAGES, new_files

FOLDERS = ("jaxad", "configs", "datasets_tfds", "tests", "benchmarks", "docs", "launch")
PACKAGES = ("jaxad", "configs", "datasets_tfds", "benchmarks")
TEXTS = ("README.md", "docs/*.md", "launch/**/*.*", "datasets_tfds/*/README.md", "Makefile", "pyproject.toml")

_FOLDER = rf"(?<![\w./\-<]|\}})(?:{'|'.join(FOLDERS)})"
PATH = re.compile(rf"{_FOLDER}/[\w./*<>{{}}-]*")
DOTTED = re.compile(rf"{_FOLDER}(?:\.[A-Za-z_]\w*)+(?![\w/])")
IN_ADER = re.compile(r"configs/benchmark/\w+$")  # whose settings ours follow
LINK = re.compile(r"\]\(([^()#\s:]+)\)")
# a config file, after a colon the data set, and variants behind commas; a field
COMMAND = re.compile(r"(?<![\w/}.])(--config[= ])?(configs/[\w/]+\.py)(:[\w/+,<>{}]*\w)?|--config\.([\w.]*\w)")
IN_PROSE = re.compile(r"`config\.([a-z_]+(?:\.[a-z_]+)*)(?:=[^`]*)?`")
STANDS_FOR_OTHERS = re.compile(r"(?<![A-Za-z])[A-Z]{2,}(?:_[A-Z]+)*(?![A-Za-z]|\.(?:md|txt|bib))|[<>{}]")


def texts() -> dict[str, str]:
    """What is read: by a file's name its text, of Python files the comments and strings only."""
    patterns = (*TEXTS, *(f"{package}/**/*.py" for package in PACKAGES))
    paths = [path for pattern in patterns for path in sorted(runs.ROOT.glob(pattern)) if path.is_file()]
    whole = {path: path.read_text(encoding="utf-8") for path in paths}
    return {
        str(path.relative_to(runs.ROOT)): comments_and_strings(text) if path.suffix == ".py" else text
        for path, text in whole.items()
    }


def comments_and_strings(code: str) -> str:
    """The lines of Python code without all the rest."""
    lines = [""] * len(code.splitlines())
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for place, line in enumerate(token.string.splitlines(), token.start[0] - 1):
                lines[place] += f" {line}"
    return "\n".join(lines)


def wrong_names(name: str, text: str) -> list[str]:
    """A line for each name in the text of the file `name` that does not exist."""
    found, own = {}, new_files(text) if runs.ROOT / name in PAGES.values() else set()
    for number, line in enumerate(joined(text), 1):
        for wrong, why in wrong_in_line(line, Path(name).suffix, (runs.ROOT / name).parent):
            if not any(wrong.startswith(word) for file in own for word in spellings(file)):
                found.setdefault(wrong, f"{name}, line {number}: {wrong}: {why}")
    return list(found.values())


def joined(text: str) -> list[str]:
    """The lines; one that ends with a backslash has the next ones in it, too."""
    lines = text.splitlines()
    for place in reversed(range(len(lines) - 1)):
        if lines[place].endswith("\\"):
            lines[place] = lines[place][:-1] + lines[place + 1]
    return lines


def spellings(file: str) -> Iterator[str]:
    """How a text may name a file, or a package or data set that begins with it."""
    yield file
    yield file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if file.endswith("/__init__.py"):
        yield str(Path(file).parent)


def wrong_in_line(line: str, suffix: str, folder: Path) -> Iterator[tuple[str, str]]:
    for match in PATH.finditer(line):
        path = match[0].rstrip("./-")
        named = STANDS_FOR_OTHERS.search(path) or IN_ADER.match(path)
        if not named and not any([*runs.ROOT.glob(path), *runs.ROOT.glob(f"configs/{path}.py")]):
            yield path, "there is no such file or folder"
    for match in DOTTED.finditer(line):
        if not STANDS_FOR_OTHERS.search(match[0]) and not resolves(match[0]):
            yield match[0], "there is no such module, nor such a name in one"
    for piece in line.split("`"):
        yield from wrong_in_command(piece)
    if suffix == ".md":
        for field in IN_PROSE.findall(line):
            if not is_field(field):
                yield f"config.{field}", "no config has this field"
        for link in LINK.findall(line):
            if not (folder / link).exists():
                yield link, "the link leads nowhere"


def resolves(name: str) -> bool:
    """Whether the dotted name is a module, or something that a module has: a function, a class, a field of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        try:
            if importlib.util.find_spec(module) is None:
                continue
        except ModuleNotFoundError:  # what comes before the last dot is no package
            continue
        owner = importlib.import_module(module) if parts[end:] else None
        for part in parts[end:]:
            if not hasattr(owner, part):
                return part in getattr(owner, "__dataclass_fields__", {})
            owner = getattr(owner, part)
        return True
    return False


def wrong_in_command(command: str) -> Iterator[tuple[str, str]]:
    """Config files, variants, data sets and fields of a command, or of a part of one."""
    config = None
    for flag, file, argument, field in COMMAND.findall(command):
        spec = file + argument
        if field and not STANDS_FOR_OTHERS.search(field) and not is_field(field, config):
            yield f"--config.{field}", "no config has this field" if config is None else "this config has no such field"
        if not spec or not (flag or argument) or STANDS_FOR_OTHERS.search(spec):
            continue
        try:
            config = load_config(f"{runs.ROOT}/{spec}")
        except UserError as error:
            yield spec, str(error).replace(f"{runs.ROOT}/", "")
            continue
        for one in config.dataset.name.split("+"):
            if one not in dataset_names():
                yield f"datasets_tfds/{one}", f"there is no such data set (in {spec})"


def is_field(name: str, config: Config | None = None) -> bool:
    """Whether the config has the field, or group of fields; without a config, whether any has."""
    return name in (known_fields() if config is None else with_groups(fields(config)))


def with_groups(names: Iterable[str]) -> frozenset[str]:
    names = frozenset(names)
    return names | {name.rsplit(".", 1)[0] for name in names}


@functools.cache
def known_fields() -> frozenset[str]:
    """The fields of all configs."""
    files = [file for file in (runs.ROOT / "configs").rglob("*.py") if file.stem not in ("__init__", "common")]
    return with_groups(name for file in files for name in fields(load_config(str(file))))


def test_every_name_in_the_documentation_exists():
    wrong = [line for name, text in texts().items() for line in wrong_names(name, text)]
    assert not wrong, f"{len(wrong)} names do not exist:\n" + "\n".join(wrong)


def test_all_kinds_of_texts_are_read():
    assert {"README.md", "launch/README.md", "configs/patchcore.py", "configs/benchmarks/heterogeneity.py"} <= set(
        texts()
    )
    assert comments_and_strings('x = jaxad.no(1)  # jaxad/no.py\n"""a\nb"""') == ' # jaxad/no.py\n """a\n b"""'
    assert {str(page.relative_to(runs.ROOT)) for page in PAGES.values()} <= set(texts())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see `jaxad/methd.py`, `jaxad/method.py` and tests/golden/.", ["jaxad/methd.py"]),
        ("all of docs/adding_*.md, none of docs/removing_*.md", ["docs/removing_*.md"]),
        ("datasets_tfds/NAME/README.md, configs/<method>.py, https://x.org/tests/none.py, runs/tests/none.py", []),
        ("datasets_tfds/btad/READ.md", ["datasets_tfds/btad/READ.md"]),
        ("`jaxad.data.corruptions`, `jaxad.run`, `jaxad.method.Train.loss`, `configs.NAME`", []),
        ("`jaxad.data.corruption`, `jaxad.walk`", ["jaxad.data.corruption", "jaxad.walk"]),
        ("`jaxad.method.Train.lost`", ["jaxad.method.Train.lost"]),
        ("python -m jaxad.mian --config=configs/rd.py:elpv", ["jaxad.mian"]),
        ("x --config=configs/patchcore.py:elpv+magnetic_tile,lite --config.model.neighbours=3", []),
        ("x --config=configs/patchcore.py:elvp", ["datasets_tfds/elvp"]),
        ("`configs/benchmark/rd`, `benchmarks/heterogeneity`, configs/benchmark/rd.py", ["configs/benchmark/rd.py"]),
        ('load_config("configs/rd.py:elpv,light")', ["configs/rd.py:elpv,light"]),
        ("x --config=configs/patchcore.py:elpv,light", ["configs/patchcore.py:elpv,light"]),
        ("x --config=configs/rd.py:folder --config.model.neighbours=3", ["--config.model.neighbours"]),
        ("x --config configs/rd.py:folder \\\n    --config.train.epoch=3", ["--config.train.epoch"]),
        ("`--config.model.neighbours=3`, `--config.FIELD`, `config.threshold`, `config.train.epochs`", []),
        ("`--config.model.neighbour=3`, `config.thresholds`", ["--config.model.neighbour", "config.thresholds"]),
        ("[tests](tests), [what](nothing.md), [part](#part), [far](https://x.org/y)", ["nothing.md"]),
    ],
)
def test_a_wrong_name_is_reported(text, wrong):
    assert [line.split(": ")[1] for line in wrong_names("README.md", text)] == wrong


def test_what_a_page_has_its_reader_write_may_be_missing():
    page = str(PAGES["method"].relative_to(runs.ROOT))
    text = "In `configs/mine.py`:\n```python\n```\npython -m jaxad.main --config=configs/mine.py:elpv, configs/yours.py"
    assert [line.split(": ")[1] for line in wrong_names(page, text)] == ["configs/yours.py"]
    assert len(wrong_names("README.md", text)) > 1
