"""The whole path from photographs to report and predictions, with small real runs."""

import csv
import json
import math
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxad
from jaxad import backbones, experiment, inference, metrics
from jaxad.calibration import conformal_threshold
from jaxad.model_run import ModelRun
from tests import runs

pytestmark = pytest.mark.slow


def config(path, data_dir, method="radl", **more):
    settings = runs.RADL if method == "radl" else runs.PATCHCORE
    places = {"dataset.path": str(path), "dataset.data_dir": str(data_dir)}
    return jaxad.load_config(f"{runs.ROOT}/configs/{method}.py:folder", {**settings, **places, **more})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return runs.write_photographs(tmp_path_factory.mktemp("photographs") / "teile für prüfung")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def trained(photographs, data_dir, tmp_path_factory):
    """(config, workdir, results) of a finished run; the folder's name has a space and letters beyond ASCII."""
    workdir = tmp_path_factory.mktemp("run")
    settings = config(photographs, data_dir)
    return settings, workdir, jaxad.run(settings, workdir)


def test_a_run_leaves_results_report_and_logs(trained):
    _, workdir, results = trained
    assert [r.category for r in results] == ["teile für prüfung"]
    assert set(results[0].metrics) == {*metrics.IMAGE_METRICS, *metrics.PIXEL_METRICS}
    stored = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    assert stored["categories"][0]["metrics"]["I-AUROC"] == pytest.approx(results[0].metrics["I-AUROC"])
    assert "teile für prüfung" in (workdir / "report.html").read_text(encoding="utf-8")
    assert "I-AUROC" in (workdir / "results.md").read_text(encoding="utf-8")
    model = workdir / "teile für prüfung"
    first = json.loads((model / "metrics.jsonl").read_text().splitlines()[0])
    assert math.isfinite(first["discriminator/loss"])
    assert list((model / "tensorboard").glob("events*"))


def test_evaluation_from_the_checkpoint_gives_the_same_results(trained, tmp_path):
    settings, workdir, results = trained
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "teile für prüfung" / "cases.npz").unlink()
    again = jaxad.run(settings, copy, "evaluate")
    np.testing.assert_array_equal(again[0].scores, results[0].scores)
    assert again[0].metrics == results[0].metrics


def test_a_finished_run_is_not_computed_again(trained, monkeypatch):
    settings, workdir, results = trained
    monkeypatch.setattr(ModelRun, "train", lambda self: pytest.fail("trained again"))
    monkeypatch.setattr(ModelRun, "evaluate", lambda self, *_: pytest.fail("evaluated again"))
    again = jaxad.run(settings, workdir)
    assert again[0].metrics == pytest.approx(results[0].metrics)
    assert len(again[0].cases) == len(results[0].cases) > 0


def test_predictions_as_arrays_equal_those_of_the_evaluation(trained, photographs):
    settings, workdir, results = trained
    found = list(jaxad.predict(settings, workdir, photographs / "test"))
    assert [f.map.shape for f in found] == [(48, 64)] * 8
    np.testing.assert_allclose([f.score for f in found], results[0].scores, rtol=1e-5, atol=1e-6)
    assert [f.decision for f in found] == [bool(f.score > results[0].threshold) for f in found]
    arrays = [np.asarray(Image.open(f.path).convert("RGB")) for f in found[:3]]
    again = list(jaxad.predict(settings, workdir, arrays))
    np.testing.assert_array_equal([f.score for f in again], [f.score for f in found[:3]])


@pytest.mark.parametrize("map_format", ["png16", "npy"])
def test_predict_writes_maps_overlays_and_a_line_an_image_and_goes_on_after_a_broken_one(
    trained, photographs, tmp_path, map_format, caplog
):
    settings, workdir, _ = trained
    folder = tmp_path / "neue bilder"
    shutil.copytree(photographs / "test" / "blot", folder / "a")
    (folder / "a" / "broken.png").write_bytes((photographs / "test" / "blot" / "000.png").read_bytes()[:300])
    Image.new("L", (40, 30), 90).save(folder / "grey.png")
    table = inference.predict_files(settings, workdir, str(folder), str(tmp_path / "out"), map_format)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert "broken.png" in caplog.text
    suffix = "npy" if map_format == "npy" else "png"
    assert len(list((tmp_path / "out" / "maps").rglob(f"*.{suffix}"))) == 5
    assert len(list((tmp_path / "out" / "overlays").rglob("*.png"))) == 5
    assert {row["decision"] for row in rows} <= {"normal", "anomalous"}


def test_predict_of_a_cropping_model_leaves_what_it_never_saw_unmarked(photographs, data_dir, tmp_path):
    settings = config(photographs, data_dir, **{"input.geometry": "crop", "input.resize": 72, "train.epochs": 1})
    jaxad.run(settings, tmp_path / "run")
    found = next(iter(jaxad.predict(settings, tmp_path / "run", photographs / "test")))
    assert np.isnan(found.map).any()
    assert np.isfinite(found.map).any()
    assert inference.predict_files(settings, tmp_path / "run", str(photographs / "test")).exists()


def test_without_masks_only_image_metrics_are_reported(data_dir, tmp_path):
    path = runs.write_photographs(tmp_path / "plain", masks=False)
    results = jaxad.run(config(path, data_dir, **{"train.epochs": 1}), tmp_path / "run")
    assert set(results[0].metrics) == set(metrics.IMAGE_METRICS)


def test_one_model_for_all_categories_reports_each(data_dir, tmp_path):
    for name in ("one", "two"):
        runs.write_photographs(tmp_path / "both" / name)
    settings = config(tmp_path / "both", data_dir, **{"protocol": "multi_class", "train.epochs": 1})
    results = jaxad.run(settings, tmp_path / "run")
    assert [r.category for r in results] == ["one", "two"]
    assert (tmp_path / "run" / "multi_class" / "checkpoints").is_dir()


def test_metrics_during_training_keep_the_best_checkpoint(photographs, data_dir, tmp_path):
    more = {
        "train.epochs": 4,
        "evaluation.every_epochs": 1,
        "checkpoint.keep_best": "I-AUROC",
        "checkpoint.keep_last": 1,
    }
    jaxad.run(config(photographs, data_dir, **more), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / photographs.name / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["test/I-AUROC"] for line in lines if "test/I-AUROC" in line}
    assert len(measured) == 3  # the last epoch is evaluated at the end
    kept = {int(p.name.split("_")[1]) for p in (tmp_path / photographs.name / "checkpoints").glob("step_*")}
    assert kept & {step for step, value in measured.items() if value == max(measured.values())}
    assert len(kept) <= 2


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_images(photographs, data_dir, tmp_path):
    settings = config(photographs, data_dir, **{"train.discriminator_learning_rate": 1e38})
    with pytest.raises(jaxad.UserError, match=r"the loss is (nan|inf) at step \d+, images train/good/\d+\.png"):
        jaxad.run(settings, tmp_path)


def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_after_it(photographs, data_dir, tmp_path):
    """On a file system of 8 MiB, where there is the right to mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    settings = {**runs.RADL, "model.pretrain_dim": 512, "model.target_dim": 512, "checkpoint.every_steps": 1}
    command = runs.arguments("radl", photographs, small / "run", data_dir, settings)
    try:
        done = runs.start(command)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "jaxad: error: cannot write" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=400m", small], check=True)
        assert runs.start(command).returncode == 0
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("method", ["radl", "patchcore"])
def test_features_that_are_not_finite_name_the_image(method, photographs, data_dir, tmp_path):
    network = backbones.create("resnet18", ("layer2", "layer3"))
    variables = network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    weights = {name: np.asarray(value) for name, value in backbones.to_torch(variables).items()}
    weights["conv1.weight"] = np.full_like(weights["conv1.weight"], np.nan)
    np.savez(tmp_path / "broken.npz", **weights)
    settings = config(photographs, data_dir, method, **{"backbone.weights": str(tmp_path / "broken.npz")})
    with pytest.raises(jaxad.UserError, match=r"features of .*train/good/\d+\.png"):
        jaxad.run(settings, tmp_path / "run")


def test_a_read_only_workdir_is_one_clear_line(photographs, data_dir, tmp_path):
    """On a file system that is mounted read-only, where there is the right to mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        with pytest.raises(jaxad.UserError, match=r"cannot write in the workdir .*Read-only"):
            jaxad.run(config(photographs, data_dir), tmp_path / "run")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_another_false_alarm_rate_needs_no_new_training(trained, photographs, tmp_path):
    settings, workdir, results = trained
    copy = shutil.copytree(workdir, tmp_path / "copy")
    other = config(photographs, settings.dataset.data_dir, **{"threshold.false_alarm_rate": 0.6})
    again = jaxad.run(other, copy)
    assert again[0].false_alarm_rate == 0.6
    assert again[0].threshold <= results[0].threshold
    np.testing.assert_array_equal(again[0].scores, results[0].scores)


def test_the_threshold_is_the_conformal_quantile():
    scores = np.arange(1, 20, dtype=np.float32)  # n = 19
    assert conformal_threshold(scores, 0.05) == 19
    assert conformal_threshold(scores, 0.1) == 18
    assert conformal_threshold(scores, 0.5) == 10
    assert conformal_threshold(scores, 0.01) == 19  # too few images: the largest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config={configs}/radl.py:magnetic_tyle"], "Did you mean 'magnetic_tile'"),
        (["--config={configs}/radl.py:elpv/poli"], "Did you mean 'poly'"),
        (["--config={configs}/radl.py", "--config.train.bach_size=4"], "Did you mean 'train.batch_size'"),
        (["--config={configs}/radl.py", "--config.method=radle"], "Did you mean 'radl'"),
        (["--config={configs}/radl.py", "--config.train.batch_size=four"], "batch_size=four"),
        (["--config={configs}/radll.py"], "there is no config file"),
        (["--config={configs}/radl.py:folder"], "config.dataset.path is empty"),
        (["--config={configs}/radl.py:folder", "--mode=predict"], "--images"),
        (["--config={configs}/radl.py:folder", "--mode=predict", "--images=."], "there is no trained model"),
        (["--config={configs}/radl.py:folder", "--config.dataset.path=nowhere"], "nowhere"),
        ([], "--config is missing"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_line(options, message, tmp_path):
    filled = [option.format(configs=runs.ROOT / "configs") for option in options]
    more = {"TFDS_DATA_DIR": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1"}
    done = runs.start([*filled, f"--workdir={tmp_path / 'run'}"], **more)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("jaxad: error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr


def test_a_workdir_that_cannot_be_made_is_one_clear_line(photographs, data_dir, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(jaxad.UserError, match="cannot write in the workdir"):
        jaxad.run(config(photographs, data_dir), tmp_path / "file" / "run")


def test_help_imports_no_jax():
    code = "import sys, jaxad.main; sys.exit('jax' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, check=False).returncode == 0


def test_another_evaluation_of_the_same_model_has_a_folder_of_its_own(trained, photographs, tmp_path):
    settings, workdir, results = trained
    copy = shutil.copytree(workdir, tmp_path / "copy")
    before = (copy / "results.json").read_bytes()
    for more, folder in (
        ({"evaluation.where": "image_id!=test/good/000.png"}, "image_id!=test_good_000.png"),
        ({"evaluation.split": "train", "evaluation.name": "seen"}, "seen"),
        ({"evaluation.corruptions": "noise:5"}, "noise_5"),
    ):
        found = jaxad.run(config(photographs, settings.dataset.data_dir, **more), copy, "evaluate")
        stored = json.loads((copy / "evaluations" / folder / "results.json").read_text(encoding="utf-8"))
        assert stored["categories"][0]["ids"] == found[0].ids
        assert found[0].ids != results[0].ids or not np.array_equal(found[0].scores, results[0].scores)
    assert (copy / "results.json").read_bytes() == before


def test_training_images_are_selected_by_the_config(photographs, data_dir, tmp_path):
    fields = {"dataset.where": "image_id!=train/good/000.png|train/good/001.png", "threshold.holdout": 0.0}
    (run,) = experiment.model_runs(config(photographs, data_dir, **fields), tmp_path)
    assert run.images.training["train"].ids == [f"train/good/{i:03d}.png" for i in range(2, 10)]


def test_an_auxiliary_data_set_is_offered_to_stages_and_is_not_the_one_tested_on(photographs, data_dir, tmp_path):
    fields = {"auxiliary.name": "folder", "auxiliary.path": str(photographs), "auxiliary.data_dir": str(data_dir)}
    settings = config(photographs, data_dir, **{**fields, "auxiliary.holdout": 0.3})
    (run,) = experiment.model_runs(settings, tmp_path)
    images = run.images.training["auxiliary"]
    assert (len(images), sum(images.labels)) == (6, 3)  # of 8, a normal and an anomalous one are held out
    assert [bool(images[i]["mask"].any()) for i in range(6)] == [bool(label) for label in images.labels]
    with pytest.raises(jaxad.UserError, match=r"config\.auxiliary\.name and config\.dataset\.name both have 'folder'"):
        jaxad.run(settings, tmp_path / "run")


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_products_are_as_exact_as_the_config_says(precision, photographs, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "model_runs", lambda *_, **__: [])
    before = jax.config.jax_default_matmul_precision
    try:
        jaxad.run(config(photographs, data_dir, precision=precision), tmp_path)
        assert jax.config.jax_default_matmul_precision == precision
    finally:
        jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize(("field", "value"), [("precision", "float32"), ("dtype", "float16"), ("protocol", "few_shot")])
def test_a_wrong_value_outside_the_method_names_its_field(field, value, photographs, data_dir, tmp_path):
    with pytest.raises(jaxad.UserError, match=rf"config\.{field} is '{value}'; expected one of"):
        jaxad.run(config(photographs, data_dir, **{field: value}), tmp_path)
