"""Small real runs for the tests: photographs on disk, the real configs cut down, jaxad started as a user would."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SMALL = {"backbone.weights": "random", "input.size": (64, 64), "evaluation.batch_size": 4, "log.every_steps": 1}
RESNET = {**SMALL, "backbone.name": "resnet18"}
PATCHES = {**RESNET, "model.pretrain_dim": 32, "model.target_dim": 32}
TRAINED = {"train.epochs": 3, "train.batch_size": 4, "checkpoint.every_steps": 2}
RADL = {**PATCHES, "train.epochs": 6, "train.batch_size": 4, "checkpoint.every_steps": 3}
PATCHCORE = {**PATCHES, "model.coreset_ratio": 0.05, "model.projection_dim": 16, "checkpoint.every_steps": 2}


def write_photographs(path: Path, train: int = 10, good: int = 4, bad: int = 4, masks: bool = True) -> Path:
    """An MVTec-like folder of 48x64 photographs: stripes, and a bright blot on the defective ones."""
    draw = np.random.default_rng(7)

    def save(name: str, blot: bool) -> None:
        y, x = np.mgrid[:48, :64]
        image = 110 + 50 * np.sin(x / 3 + draw.uniform(0, 6))[..., None] + draw.normal(0, 8, (48, 64, 3))
        mask = (y - draw.integers(12, 36)) ** 2 + (x - draw.integers(12, 52)) ** 2 < 49
        if blot:
            image[mask] += 90
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(file)
        if blot and masks:
            truth = path / "ground_truth" / "blot" / f"{file.stem}_mask.png"
            truth.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8(255) * mask).save(truth)

    for i in range(train):
        save(f"train/good/{i:03d}.png", False)
    for i in range(good):
        save(f"test/good/{i:03d}.png", False)
    for i in range(bad):
        save(f"test/blot/{i:03d}.png", True)
    return path


def arguments(method: str, photographs: Path, workdir: Path, data_dir: Path, settings: Mapping[str, Any]) -> list[str]:
    """The command line of a run on a folder of photographs."""
    given = {"dataset.path": photographs, "dataset.data_dir": data_dir, **settings}
    fields = [f"--config.{name}={value}" for name, value in given.items()]
    return [f"--config={ROOT}/configs/{method}.py:folder", f"--workdir={workdir}", *fields]


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}" if devices > 1 else ""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), **more}


def start(options: list[str], devices: int = 1, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs jaxad to its end in a process of its own."""
    command = [sys.executable, "-m", "jaxad.main", *options]
    return subprocess.run(
        command, env=environment(devices, **more), capture_output=True, text=True, timeout=600, check=False, cwd=ROOT
    )


def kill_when(options: list[str], moment: Callable[[], bool], timeout: float = 300) -> bool:
    """Starts jaxad and kills it (SIGKILL) as soon as `moment()` holds; False where it ended before that."""
    return signal_when(options, moment, signal.SIGKILL, timeout=timeout).returncode == -signal.SIGKILL


def signal_when(
    options: list[str],
    moment: Callable[[], bool],
    *signals: int,
    timeout: float = 300,
    command: Sequence[str | Path] = (sys.executable, "-m", "jaxad.main"),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Starts jaxad, sends it signals one after the other as soon as `moment()` holds, and waits for its end."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(
            [*command, *options], env=environment(**more), stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT
        )
        end = time.monotonic() + timeout
        try:
            while process.poll() is None and time.monotonic() < end:
                if moment():
                    for number in signals:
                        process.send_signal(number)
                        time.sleep(0.1)
                    process.wait(max(end - time.monotonic(), 1))
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
        stderr.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, "", stderr.read())
