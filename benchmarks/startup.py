"""Seconds from the command to the first sign of work: `--help`, and the first training step of the demo.

    make demo && python benchmarks/startup.py

The demo's data must be prepared. The first start has an empty compilation cache, the second a filled one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def seconds_until(sign: str, options: list[str], **environment: str) -> float:
    """Time until jaxad prints `sign`, after which it is stopped."""
    command = [sys.executable, "-m", "jaxad.main", *options]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    seen = ""
    while sign not in seen:
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            raise SystemExit(f"jaxad ended without printing {sign!r}:\n{seen[-2000:]}")
        seen += piece.decode("utf-8", "replace")
    elapsed = time.perf_counter() - started
    process.kill()
    process.wait()
    return elapsed


def main() -> None:
    print(f"--help                          {seconds_until('--workdir', ['--help']):5.2f} s")
    folder = tempfile.mkdtemp()
    try:
        for cache in ("empty", "filled"):
            options = ["--config=configs/demo.py", f"--workdir={folder}/run-{cache}"]
            first_step = "| 1/"  # the progress bar after one batch
            elapsed = seconds_until(first_step, options, JAX_COMPILATION_CACHE_DIR=f"{folder}/xla")
            print(f"first step, {cache:6s} compile cache {elapsed:5.2f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
