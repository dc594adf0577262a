"""The same run on one device, on eight, and in two processes: the same parameters, the same metrics."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxad.checkpoint import Checkpoints
from tests import runs

pytestmark = pytest.mark.slow

SETTINGS = {
    "radl": {**runs.RADL, "train.batch_size": 8, "train.epochs": 3, "evaluation.batch_size": 8},
    "patchcore": {**runs.PATCHCORE, "evaluation.batch_size": 8},
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return runs.write_photographs(tmp_path_factory.mktemp("photographs") / "parts", train=21, good=5)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def options(method, photographs, workdir, data_dir):
    return runs.arguments(method, photographs, workdir, data_dir, SETTINGS[method])


@pytest.fixture(scope="module", params=["radl", "patchcore"])
def on_one_device(request, photographs, data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param)
    done = runs.start(options(request.param, photographs, workdir, data_dir))
    assert done.returncode == 0, done.stderr
    return request.param, workdir


def assert_same(first, second):
    restored = [Checkpoints(w / "parts" / "checkpoints", read_only=True).restore() for w in (first, second)]
    for one, other in zip(*(jax.tree.leaves_with_path(r.variables) for r in restored), strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose(other[1], one[1], rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(one[0]))
    results = [json.loads((w / "results.json").read_text())["categories"][0] for w in (first, second)]
    assert results[0]["ids"] == results[1]["ids"]
    for name, value in results[0]["metrics"].items():
        assert results[1]["metrics"][name] == pytest.approx(value, abs=1e-5), name


def test_eight_devices_give_the_parameters_and_metrics_of_one(on_one_device, photographs, data_dir, tmp_path):
    method, alone = on_one_device
    done = runs.start(options(method, photographs, tmp_path, data_dir), devices=8)
    assert done.returncode == 0, done.stderr
    assert "8 of 8 devices" in done.stderr
    assert_same(alone, tmp_path)


def test_two_processes_train_together_and_give_the_result_of_one(on_one_device, photographs, data_dir, tmp_path):
    method, alone = on_one_device
    command = [str(runs.ROOT / "launch" / "local" / "run.sh"), "2", *options(method, photographs, tmp_path, data_dir)]
    environment = runs.environment(PYTHON=sys.executable)
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, cwd=runs.ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Process 1 of 2, 1 of 2 devices" in done.stderr
    assert_same(alone, tmp_path)
