"""What every method promises, each method through the same claims; a new method joins with one line in `METHODS`."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxad
from jaxad.checkpoint import Checkpoints
from jaxad.errors import UserError
from jaxad.experiment import create_method
from jaxad.method import Train
from jaxad.models import models_of
from jaxad.trees import split_by_path
from tests import runs

UNIAD = {"backbone.taps": ("layer1", "layer2", "layer3"), "model.width": 16, "model.heads": 2, "model.feedforward": 16}
MUSC = {**runs.SMALL, "backbone.name": "clip_vit_nano14", "backbone.taps": ("block1", "block3"), "input.size": (56, 70)}

# method -> what makes its config small enough to run in seconds
METHODS: dict[str, dict[str, Any]] = {
    "patchcore": runs.PATCHCORE,
    "simplenet": {**runs.PATCHES, **runs.TRAINED},
    "radl": {**runs.PATCHES, **runs.TRAINED},
    "rd": {**runs.RESNET, **runs.TRAINED},
    "uniad": {**runs.RESNET, **runs.TRAINED, **UNIAD, "train.learning_rate": 1e-3},
    "musc": MUSC,
}
CATEGORIES = ("bolt", "nut")  # a one-class method gets the first

# the tests of a method run in one process, so that they share its undisturbed run
EACH = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS]
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("whole", EACH, indirect=True, scope="module")]


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run of one method that nothing disturbed."""

    method: str
    photographs: Path
    data_dir: Path
    workdir: Path
    results: list

    def config(self, **more: Any):
        settings = jaxad.load_config(f"{runs.ROOT}/configs/{self.method}.py:folder")
        category = "bolt" if settings.protocol == "one_class" else "all"
        given = {**METHODS[self.method], "dataset.category": category, **more}
        places = {"dataset.path": str(self.photographs), "dataset.data_dir": str(self.data_dir)}
        return jaxad.load_config(f"{runs.ROOT}/configs/{self.method}.py:folder", {**places, **given})

    def model(self, workdir: Path):
        return models_of(self.config(), CATEGORIES, workdir)[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    photographs = tmp_path_factory.mktemp("photographs")
    for name in CATEGORIES:
        runs.write_photographs(photographs / name, good=5, bad=5)
    return photographs, tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def whole(request, prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param)
    run = Whole(request.param, *prepared, workdir, [])
    run.results.extend(jaxad.run(run.config(), workdir))
    return run


class Interrupted(Exception):
    pass


def test_an_interrupted_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
    save, saved = Checkpoints.save, []

    def save_and_stop(self, variables, state, progress):
        save(self, variables, state, progress)
        saved.append(progress)
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoints, "save", save_and_stop)
        jaxad.run(whole.config(), tmp_path)
    assert saved[0].finished == (whole.method == "musc")  # which has nothing to train
    resumed = jaxad.run(whole.config(), tmp_path)
    ends = [
        Checkpoints(whole.model(workdir).folder / "checkpoints", read_only=True).restore()
        for workdir in (whole.workdir, tmp_path)
    ]
    jax.tree.map(np.testing.assert_array_equal, ends[1].variables, ends[0].variables)
    for again, before in zip(resumed, whole.results, strict=True):
        np.testing.assert_array_equal(again.scores, before.scores)
        assert (again.metrics, again.threshold) == (before.metrics, before.threshold)


def test_evaluation_from_the_checkpoint_repeats_the_results(whole):
    again = jaxad.run(whole.config(), whole.workdir, "evaluate")
    assert [r.category for r in again] == list(whole.model(whole.workdir).categories)
    for one, other in zip(again, whole.results, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        assert (one.metrics, one.threshold, one.no_threshold) == (other.metrics, other.threshold, other.no_threshold)


def test_a_threshold_or_the_reason_why_there_is_none(whole):
    for result in whole.results:
        assert (result.threshold is None) == bool(result.no_threshold)
    page = (whole.workdir / "report.html").read_text(encoding="utf-8")
    assert all(result.no_threshold in page for result in whole.results)


def test_eight_devices_give_the_scores_of_one_from_the_same_checkpoint(whole, tmp_path):
    shutil.copytree(whole.workdir, tmp_path / "run")
    fields = [f"--config.{name}={value}" for name, value in METHODS[whole.method].items()]
    places = [f"--config.dataset.path={whole.photographs}", f"--config.dataset.data_dir={whole.data_dir}"]
    category = f"--config.dataset.category={whole.config().dataset.category}"
    config = f"--config={runs.ROOT}/configs/{whole.method}.py:folder"
    options = [config, f"--workdir={tmp_path / 'run'}", *fields, *places, category, "--mode=evaluate"]
    done = runs.start(options, devices=8)
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["categories"]
    for one, other in zip(stored, whole.results, strict=True):
        np.testing.assert_allclose(one["scores"], other.scores, rtol=1e-4, atol=1e-5)


def test_predictions_do_not_depend_on_batch_mates_or_batch_size(whole):
    test = whole.photographs / "bolt" / "test"
    config = partial(whole.config, **{"dataset.category": "bolt"})
    together = list(jaxad.predict(config(), whole.workdir, test))
    if whole.results[0].no_threshold.startswith("MuSc"):  # scores of a set: no photograph can be left out of it
        apart = list(jaxad.predict(config(**{"evaluation.batch_size": 3}), whole.workdir, test))
    else:
        files = sorted(test.rglob("*.png"))
        apart = [next(iter(jaxad.predict(config(), whole.workdir, file))) for file in files]
    assert [p.path for p in together] == [p.path for p in apart]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.map, other.map, rtol=1e-4, atol=1e-5)
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-5)
    by_id = dict(zip(whole.results[0].ids, whole.results[0].scores, strict=True))
    scores = [by_id[str(Path(p.path).relative_to(whole.photographs))] for p in together]
    np.testing.assert_allclose([p.score for p in together], scores, rtol=1e-4, atol=1e-5)


def test_the_program_of_an_update_does_not_depend_on_the_number_of_steps(whole):
    method = create_method(whole.config(), CATEGORIES)
    params = jax.eval_shape(method.init, jax.random.key(0)).get("params", {})
    for stage in method.stages():
        if isinstance(stage, Train):
            trained, _ = split_by_path(params, stage.trainable)
            programs = []
            for steps in (218, 250):
                optimizer = stage.optimizer(steps)
                state = jax.eval_shape(optimizer.init, trained)
                programs.append(jax.jit(optimizer.update).lower(trained, state, trained).as_text())
            assert programs[0] == programs[1]


def test_a_wrong_value_of_any_setting_names_its_field(whole):
    config = whole.config()
    method = create_method(config, CATEGORIES)
    names = {field.name for field in dataclasses.fields(method)}  # type: ignore[arg-type]
    fields = [f"{group}.{name}" for group in ("model", "train") if group in config for name in config[group]]
    assert {field.split(".")[1] for field in fields} <= names | {"pretrain_dim", "target_dim"}, "fields nobody reads"
    for field in [*fields, "backbone.name", "backbone.taps", "dtype"]:
        *groups, leaf = field.split(".")
        wrong = whole.config().copy_and_resolve_references().unlock()
        node = wrong
        for group in groups:
            node = node[group]
        with node.ignore_type():
            node[leaf] = "no such value"
        with pytest.raises(UserError, match=rf"config\.{field}|config\.model\.(pretrain|target)_dim"):
            create_method(wrong, CATEGORIES)


def test_weights_of_another_network_are_refused_by_name(whole):
    method = create_method(whole.config(), CATEGORIES)
    with pytest.raises(UserError, match=r"weights of \w+: "):
        method.from_torch({"some.other.weight": np.zeros((3, 3), np.float32)})


def test_the_log_has_the_learning_rate_and_the_gradient_norm_of_every_trained_stage(whole):
    stages = create_method(whole.config(), CATEGORIES).stages()
    trained = [stage.name for stage in stages if hasattr(stage, "loss")]
    path = whole.model(whole.workdir).folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if trained else []
    for name in trained:
        of_stage = [record for record in records if f"{name}/loss" in record]
        assert of_stage
        for record in of_stage:
            assert record[f"{name}/gradient_norm"] >= 0
            assert [key for key in record if key.startswith(f"{name}/learning_rate")]
