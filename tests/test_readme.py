"""What README shows does what it says."""

import re

from tests import runs

README = (runs.ROOT / "README.md").read_text(encoding="utf-8")


def test_every_module_on_the_map_exists_and_none_is_missing():
    tree = re.search(r"```\n(jaxad/\n.*?)```", README, re.DOTALL)
    assert tree is not None
    named = set()
    for line in tree.group(1).splitlines():
        if found := re.match(r"  ((?:\w+\.py(?:, )?)+|\w+/)", line):
            named |= set(found[1].split(", "))
    present = {p.name + "/" * p.is_dir() for p in (runs.ROOT / "jaxad").iterdir() if not p.name.startswith("_")}
    assert named == present


def test_the_design_page_is_one_screen():
    assert len((runs.ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines()) <= 45


def test_every_config_file_is_in_the_table():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    present = {p.stem for p in (runs.ROOT / "configs").glob("*.py")} - {"__init__", "common"}
    assert present <= named
