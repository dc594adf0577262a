"""A zero-shot method that is trained on auxiliary data: one model, evaluated on every category of the target."""

import json
import textwrap

import numpy as np
import pytest

import jaxad
import jaxad.methods
from jaxad import experiment, inference
from jaxad.models import models_of
from tests import runs

# per category name a learned level of grey: the score is the distance from the level of the image's category
PROMPTED = '''
from dataclasses import dataclass

import jax.numpy as jnp

from jaxad.method import Method, Prediction, Train, UNIT_NORMALIZATION
from jaxad.optimizers import sgd

monitored = []


@dataclass(frozen=True)
class Prompted(Method):
    categories: tuple[str, ...]
    uses_category = True
    normalization = UNIT_NORMALIZATION

    def init(self, key):
        return {"params": {"scale": jnp.ones(())}}

    def lengths(self, batch):
        """What the prompts say: the length of the category's name."""
        return jnp.asarray([len(name) for name in self.categories])[batch["category"]]

    def loss(self, variables, batch, key):
        assert {"mask", "has_mask", "label"} <= set(batch)
        level = batch["image"].mean((1, 2, 3)) * self.lengths(batch)
        value = jnp.mean((variables["params"]["scale"] * level - batch["label"]) ** 2)
        return value, ({}, {"longest": jnp.max(self.lengths(batch)).astype(jnp.float32)})

    def monitor(self, variables, batches):
        monitored.append(sum(float(batch["weight"].sum()) for batch in batches))
        return float(variables["params"]["scale"])

    def stages(self):
        return [
            Train("prompts", self.loss, lambda steps: sgd(0.01, steps), lambda path: True, epochs=2, batch_size=4,
                  data="auxiliary", monitor=self.monitor)
        ]

    def predict(self, variables, batch):
        scores = variables["params"]["scale"] * batch["image"].mean((1, 2, 3)) * self.lengths(batch)
        return Prediction(batch["image"].mean(-1), scores)


def create(config, categories):
    return Prompted(tuple(categories))
'''


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    for name in ("bolt", "washer"):
        runs.write_photographs(root / "target" / name, train=1)
    return root / "target", runs.write_photographs(root / "screwdriver", good=8, bad=8), root / "prepared"


@pytest.fixture
def config(folders, tmp_path, monkeypatch):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "prompted.py").write_text(textwrap.dedent(PROMPTED))
    monkeypatch.setattr(jaxad.methods, "__path__", [*jaxad.methods.__path__, str(tmp_path / "methods")])
    # the auxiliary data is another data set: the folder's builder under a second name would be refused
    for module in (experiment, inference):
        monkeypatch.setattr(module, "check_settings", lambda config: None)
    target, auxiliary, data_dir = folders
    fields = {
        "dataset.path": str(target),
        "dataset.data_dir": str(data_dir),
        "auxiliary.name": "folder",
        "auxiliary.path": str(auxiliary),
        "auxiliary.data_dir": str(data_dir),
        "auxiliary.holdout": 0.25,
        "method": "prompted",
        "protocol": "zero_shot",
    }
    return jaxad.load_config(f"{runs.ROOT}/configs/radl.py:folder", {**runs.PATCHES, **fields})


def test_one_model_is_trained_on_auxiliary_data_and_evaluated_on_every_category(config, tmp_path):
    results = jaxad.run(config, tmp_path / "run")
    assert [result.category for result in results] == ["bolt", "washer"]
    folders = {path.parent.name for path in (tmp_path / "run").glob("*/checkpoints")}
    assert folders == {"zero_shot"}
    assert {path.parent.name for path in (tmp_path / "run").glob("*/cases.npz")} == {"bolt", "washer"}
    log = [json.loads(line) for line in (tmp_path / "run" / "zero_shot" / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in log if "prompts/loss" in record]
    assert {record["prompts/longest"] for record in trained} == {float(len("screwdriver"))}  # the auxiliary's own name
    assert len([record for record in log if "prompts/monitor" in record]) == 2
    assert all("zero-shot model" in result.no_threshold for result in results)
    from jaxad.methods import prompted  # type: ignore[attr-defined]

    assert set(prompted.monitored) == {4.0}  # the auxiliary data's held-out quarter


def test_finished_categories_are_kept_and_a_missing_one_is_evaluated_without_training(config, tmp_path, monkeypatch):
    first = jaxad.run(config, tmp_path)
    (tmp_path / "washer" / "cases.npz").unlink()
    before = (tmp_path / "bolt" / "cases.npz").stat().st_mtime_ns
    again = jaxad.run(config, tmp_path)
    assert (tmp_path / "bolt" / "cases.npz").stat().st_mtime_ns == before
    np.testing.assert_array_equal(again[1].scores, first[1].scores)


def test_photographs_need_the_name_of_their_category_where_predictions_depend_on_it(config, folders, tmp_path):
    jaxad.run(config, tmp_path)
    photographs = folders[0] / "bolt" / "test"
    with pytest.raises(jaxad.UserError, match=r"config\.dataset\.category is 'all'; expected .* one of bolt, washer"):
        list(jaxad.predict(config, tmp_path, photographs))
    scores = {}
    for name in ("bolt", "washer", "nail"):  # a zero-shot model takes any name
        config.dataset.category = name
        scores[name] = np.array([found.score for found in jaxad.predict(config, tmp_path, photographs)])
    np.testing.assert_allclose(scores["washer"] / scores["bolt"], 6 / 4, rtol=1e-5)
    np.testing.assert_allclose(scores["nail"], scores["bolt"], rtol=1e-5)


def test_without_auxiliary_data_the_field_that_brings_it_is_named(config, tmp_path):
    config.auxiliary.name = ""
    with pytest.raises(jaxad.UserError, match=r"needs 'auxiliary' images .* config\.auxiliary\.name"):
        jaxad.run(config, tmp_path)


def test_models_by_protocol(config, tmp_path):
    names = {}
    for protocol in ("one_class", "multi_class", "zero_shot"):
        config.protocol = protocol
        models = models_of(config, ["bolt", "washer"], tmp_path)
        names[protocol] = [(model.name, model.categories) for model in models]
    assert names["one_class"] == [("bolt", ("bolt",)), ("washer", ("washer",))]
    assert names["multi_class"] == [("multi_class", ("bolt", "washer"))]
    assert names["zero_shot"] == [("zero_shot", ("bolt", "washer"))]
