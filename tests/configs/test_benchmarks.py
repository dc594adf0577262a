"""The configs of whole tables: complete, and every cell can be set."""

import re
from pathlib import Path

import pytest

from jaxad.benchmark import cells_of, figures_of, model_folders
from jaxad.config import load_config
from jaxad.data import corruptions
from jaxad.errors import UserError

FOLDER = Path(__file__).parents[2] / "configs" / "benchmarks"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
HETEROGENEITY = str(FOLDER / "heterogeneity.py")
ARGUMENTS = ["", ":radl,lite", ":radl,a,lite/elpv", ":patchcore/magnetic_tile", ":musc", ":simplenet/folder/left"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_every_cell_can_be_set_and_is_drawn(path, argument):
    config = load_config(f"{path}{argument}")
    cells = cells_of(config)
    for figure in figures_of(config):
        members = [cell for cell in cells if cell.figure == figure["name"]]
        axes = ("lines", "x") if "lines" in figure else ("rows", "arms")
        places = [tuple(cell.labels[figure[axis]] for axis in axes) for cell in members]
        assert len(set(places)) == len(places) > 1
        assert any(cell.against == cell.name for cell in members)
        for cell in cells:
            corruptions.parse(cell.config.evaluation.corruptions)
    assert re.search(rf"python -m jaxad\.main --config=configs/benchmarks/{path.name}\b", path.read_text())


def test_each_factor_is_tested_after_both_kinds_of_training_and_each_node_with_and_without():
    config = load_config(f"{HETEROGENEITY}:patchcore,lite/mirad_mini/brick+button")
    cells = cells_of(config)
    assert len([cell for cell in cells if cell.figure == "factors"]) == 2 * 8
    assert {cell.config.dataset.category for cell in cells} == {"brick,button"}
    held_out = [cell for cell in cells if "!=" in cell.config.dataset.where]
    assert len(held_out) == 6
    for cell in held_out:
        assert cell.config.dataset.where.replace("!=", "=") == cell.config.evaluation.where
    # two for the factors, one on all nodes, six without one
    assert len(set(model_folders(cells, config).values())) == 9


def test_corruptions_of_another_data_set_need_one_model():
    config = load_config(f"{HETEROGENEITY}:patchcore,lite/magnetic_tile")
    cells = cells_of(config)
    assert len(cells) == 1 + 6 * 3
    assert set(model_folders(cells, config).values()) == {"base"}


def test_a_method_that_needs_no_training_has_no_training_to_compare():
    cells = cells_of(load_config(f"{HETEROGENEITY}:musc"))
    assert {cell.figure for cell in cells} == {"factors"}
    assert {cell.config.dataset.train_split for cell in cells} == {"train"}


def test_variants_belong_to_the_method():
    plain, varied = load_config(HETEROGENEITY), load_config(f"{HETEROGENEITY}:radl,lite,a/magnetic_tile")
    assert (plain.method, plain.backbone.name) == ("patchcore", "efficientnet_lite0")
    assert plain.dataset.name == "mirad_mini_factors"
    assert (varied.method, varied.backbone.name, varied.model.loss_kind) == ("radl", "efficientnet_lite0", "hinge")
    assert varied.benchmark.title == "Imaging heterogeneity: radl,lite,a on magnetic_tile"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("patchcor/magnetic_tile", r"there is no configs/patchcor\.py; expected METHOD.*Did you mean 'patchcore'"),
        ("patchcore_lite/magnetic_tile", r"Did you mean 'patchcore,lite/magnetic_tile'"),
        ("patchcore,litte", r"there is no variant 'litte'; .*Did you mean 'lite'"),
        ("patchcore/mirad_mini,lite", r"'mirad_mini,lite' has a comma; expected METHOD\[,VARIANT\.\.\.\]"),
        ("patchcore,lite/mirad_mini/brick,button", r"several categories joined by '\+'"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_was_meant(argument, message):
    with pytest.raises(UserError, match=message):
        load_config(f"{HETEROGENEITY}:{argument}")
