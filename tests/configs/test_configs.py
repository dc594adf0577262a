"""Every config file loads, is complete, and describes a method that can be made."""

import importlib
import re
from pathlib import Path

import pytest

from jaxad.config import load_config

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_makes_its_method_and_is_one_screen_with_a_command(path):
    config = load_config(str(path))
    method = importlib.import_module(f"jaxad.methods.{config.method}").create(config)
    assert method.stages(100) or config.protocol == "zero_shot"  # some need no training at all
    text = path.read_text()
    assert re.search(rf"python -m jaxad\.main --config=configs/{path.name}\b", text)
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_data_set_and_category_come_from_the_argument(path):
    config = load_config(f"{path}:folder/left,right")
    assert (config.dataset.name, config.dataset.category) == ("folder", "left,right")


@pytest.mark.parametrize(
    ("file", "field", "value"), [("radl", "train.clip_norm", 1.0), ("patchcore_lite", "model.projection_dim", 64)]
)
def test_fields_that_are_none_can_be_set(file, field, value):
    config = load_config(str(FOLDER / f"{file}.py"), {field: value})
    method = importlib.import_module(f"jaxad.methods.{config.method}").create(config)
    assert getattr(method, field.split(".")[1]) == value


def test_demo_covers_both_kinds_of_cells():
    config = load_config(str(FOLDER / "demo.py"))
    assert (config.dataset.name, config.dataset.category, config.protocol) == ("elpv", "all", "one_class")
