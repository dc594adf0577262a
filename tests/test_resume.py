"""A run that is killed and started again ends as if nothing had happened: tested with real kills."""

import functools
import json
import shutil
import signal

import numpy as np
import pytest

from jaxad.checkpoint import Checkpoints, checksums
from tests import runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return runs.write_photographs(tmp_path_factory.mktemp("photographs") / "parts")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def options(method, photographs, workdir, data_dir, **more):
    settings = {"radl": runs.RADL, "patchcore": runs.PATCHCORE}[method]
    return runs.arguments(method, photographs, workdir, data_dir, {**settings, **more})


def final(workdir):
    """Checksums of every array, the progress and the scores of a finished run."""
    variables, leaves, progress = Checkpoints(workdir / "parts" / "checkpoints", read_only=True).restore()
    assert progress.finished
    scores = json.loads((workdir / "results.json").read_text())["categories"][0]["scores"]
    return checksums({"variables": variables, "stage": dict(enumerate(leaves))}), progress.notes["held_out"], scores


@pytest.fixture(scope="module")
def uninterrupted(photographs, data_dir, tmp_path_factory):
    """Method -> `final` of a run that nothing interrupted."""

    @functools.cache
    def of(method):
        workdir = tmp_path_factory.mktemp(method)
        done = runs.start(options(method, photographs, workdir, data_dir))
        assert done.returncode == 0, done.stderr
        return final(workdir)

    return of


def written(workdir, number):
    """Whether the checkpoint of this number is complete."""
    return lambda: (workdir / "parts" / "checkpoints" / f"step_{number}").exists()


def being_saved(workdir, at_least):
    """Whether a checkpoint of at least this number is being written at the moment."""

    def moment():
        folder = workdir / "parts" / "checkpoints"
        unfinished = [p.name for p in folder.glob("step_*")] if folder.exists() else []
        numbers = [int(n.split("_")[1].split(".")[0]) for n in unfinished if not n.split("_")[1].isdigit()]
        return any(number >= at_least for number in numbers)

    return moment


@pytest.mark.parametrize("method", ["radl", "patchcore"])
def test_resume_after_kill_gives_the_same_parameters(method, photographs, data_dir, tmp_path, uninterrupted):
    moments = {
        "radl": [being_saved(tmp_path, 3), written(tmp_path, 6), being_saved(tmp_path, 9), written(tmp_path, 19)],
        "patchcore": [being_saved(tmp_path, 2), written(tmp_path, 2)],
    }[method]
    command = options(method, photographs, tmp_path, data_dir)
    killed = [runs.kill_when(command, moment) for moment in moments]
    assert any(killed), "the run was over before any kill"
    done = runs.start(command)
    assert done.returncode == 0, done.stderr
    assert final(tmp_path) == uninterrupted(method)


def steps_saved(workdir):
    return sorted(int(p.name.removeprefix("step_")) for p in (workdir / "parts" / "checkpoints").glob("step_*"))


def logged(workdir):
    """Steps of the records in the log, oldest first."""
    file = workdir / "parts" / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines() if line] if file.exists() else []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_asked_to_stop_saves_at_the_step_where_it_is_and_goes_on_from_there(
    number, photographs, data_dir, tmp_path, uninterrupted
):
    command = options("radl", photographs, tmp_path, data_dir, **{"checkpoint.every_steps": 1000})
    stopped = runs.signal_when(command, lambda: len(logged(tmp_path)) >= 2, number)
    assert stopped.returncode == 75, stopped.stderr
    (saved,) = steps_saved(tmp_path)
    assert saved >= 2
    assert f"jaxad: stopped after step {saved} of stage discriminator; the same command continues" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = runs.start(command)
    assert done.returncode == 0, done.stderr
    assert f"Resuming stage 1 after batch {saved}" in done.stderr
    assert final(tmp_path) == uninterrupted("radl")


def test_a_second_ctrl_c_does_not_wait_for_the_checkpoint(photographs, data_dir, tmp_path):
    command = options("radl", photographs, tmp_path, data_dir, **{"checkpoint.every_steps": 1000, "train.epochs": 500})
    stopped = runs.signal_when(command, lambda: len(logged(tmp_path)) >= 2, signal.SIGINT, signal.SIGINT)
    assert stopped.returncode in (75, 130), stopped.stderr  # 75: the checkpoint was written before the second one came


def test_the_log_of_a_resumed_run_has_every_step_once(photographs, data_dir, tmp_path):
    command = options("radl", photographs, tmp_path, data_dir)
    runs.kill_when(command, written(tmp_path, 6))
    assert runs.start(command).returncode == 0
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert steps[-1] == 18


def test_a_damaged_checkpoint_falls_back_to_the_one_before(photographs, data_dir, tmp_path, uninterrupted):
    command = options("radl", photographs, tmp_path, data_dir)
    runs.kill_when(command, written(tmp_path, 9))
    folder = tmp_path / "parts" / "checkpoints"
    newest = max(folder.glob("step_*"), key=lambda p: int(p.name.split("_")[1].split(".")[0]))
    largest = max((p for p in (newest / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    done = runs.start(command)
    assert done.returncode == 0, done.stderr
    assert f"{newest.name} is damaged" in done.stderr
    assert final(tmp_path) == uninterrupted("radl")


def test_a_workdir_of_another_config_is_refused_by_field(photographs, data_dir, tmp_path):
    assert runs.start(options("radl", photographs, tmp_path, data_dir, **{"train.epochs": 1})).returncode == 0
    done = runs.start(options("radl", photographs, tmp_path, data_dir, **{"train.epochs": 2}))
    assert done.returncode == 2
    assert "train.epochs: 1 then, 2 now" in done.stderr
    assert "Traceback" not in done.stderr


def test_finished_categories_are_skipped(data_dir, tmp_path):
    for name in ("one", "two"):
        runs.write_photographs(tmp_path / "both" / name)
    settings = {**runs.PATCHCORE, "checkpoint.every_steps": 100}
    command = runs.arguments("patchcore", tmp_path / "both", tmp_path / "run", data_dir, settings)
    assert runs.start(command).returncode == 0
    shutil.rmtree(tmp_path / "run" / "two")
    before = (tmp_path / "run" / "one" / "cases.npz").stat().st_mtime_ns
    done = runs.start(command)
    assert done.returncode == 0, done.stderr
    assert "one is finished" in done.stderr
    assert (tmp_path / "run" / "one" / "cases.npz").stat().st_mtime_ns == before
    report = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [c["category"] for c in report["categories"]] == ["one", "two"]
    assert all(np.isfinite(c["metrics"]["I-AUROC"]) for c in report["categories"])
