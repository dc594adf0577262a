"""MuSc's mutual scoring alone, one layer of 37 x 37 patches of width 1024: seconds, CPU seconds, memory, growth.

    python benchmarks/musc.py                           # 16, 32 and 64 images; r = 1, 3, 5 separately and together
    python benchmarks/musc.py --images 16,32 --precision fast
    python benchmarks/musc.py --peer-python PYTHON      # an interpreter with PyTorch, if this one lacks it

The peer computes as the official code does for one r: each image's patches against those of all other images at once,
then the smallest distance per image, sorted. It runs in NumPy, and with torch.cdist where PyTorch is installed, for
--peer-queries images and is extrapolated, as each costs the same. Where several r are scored, it counts once for each.
Every line is measured in a process of its own, compilation included; memory is the growth of the peak while scoring,
without the tokens themselves. The last column is the ratio to the official code's CPU seconds on another machine (an
Intel Xeon with AVX-512, one thread), where they are known.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

SIDE, WIDTH, SHARE = 37, 1024, 0.3
ELSEWHERE = {16: 10.5, 32: 55.7}  # CPU seconds of the official code for one r


def make_tokens(images: int) -> np.ndarray:
    """Tokens of similar images."""
    draw = np.random.default_rng(0)
    tokens = draw.standard_normal((images, SIDE, SIDE, WIDTH), np.float32)
    tokens *= 0.5
    tokens += draw.standard_normal((SIDE, SIDE, WIDTH), np.float32)
    return tokens


def unit_rows(tokens: np.ndarray) -> np.ndarray:
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    return tokens.reshape(len(tokens), -1, WIDTH)


def run_jaxad(images: int, r_list: tuple[int, ...], precision, queries: int) -> None:
    from jaxad import sharding
    from jaxad.nn.mutual_scoring import mutual_scores

    tokens, mesh = make_tokens(images), sharding.make_mesh()
    timed(lambda: mutual_scores(tokens, r_list, (0.0, SHARE), mesh, precision))


def run_numpy(images: int, r_list: tuple[int, ...], precision, queries: int) -> None:
    patches = unit_rows(make_tokens(images))

    def score():
        for i in range(queries):
            others = np.concatenate([patches[:i], patches[i + 1 :]]).reshape(-1, WIDTH)
            distances = np.sqrt(np.maximum(2 - 2 * (patches[i] @ others.T), 0))
            nearest = distances.reshape(len(patches[i]), images - 1, -1).min(-1)
            np.sort(nearest, axis=1)[:, : int((images - 1) * SHARE)].mean(1)

    timed(score)


def run_torch(images: int, r_list: tuple[int, ...], precision, queries: int) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    patches = torch.from_numpy(unit_rows(make_tokens(images)))

    def score():
        for i in range(queries):
            others = torch.cat([patches[:i], patches[i + 1 :]]).reshape(-1, WIDTH)
            nearest = torch.cdist(patches[i], others).reshape(len(patches[i]), images - 1, -1).min(-1)[0]
            torch.topk(nearest, int((images - 1) * SHARE), dim=-1, largest=False, sorted=True)[0].mean(-1)

    timed(score)


RUNS = {"jaxad": run_jaxad, "numpy": run_numpy, "torch": run_torch}


def timed(action) -> None:
    """Run the action and print seconds, CPU seconds and growth of the peak memory (GiB) as the process's last line."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": growth}), flush=True)


def measure(name: str, images: int, r_list: str, options, python: str = sys.executable) -> dict | None:
    """The numbers of one run in a fresh process; if it fails, None, after printing the last line of its error."""
    command = [python, __file__, "--run", name, "--images", str(images), "--r", r_list]
    command += ["--precision", options.precision, "--peer-queries", str(options.peer_queries)]
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=False)
    if done.returncode:
        print(f"{name}: left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="16,32,64", help="sizes of the sets")
    parser.add_argument("--r", default="1;3;5;1,3,5", help="lists of r that are scored together")
    parser.add_argument("--precision", choices=("highest", "fast"), default="highest")
    parser.add_argument("--peer-queries", type=int, default=3, help="images that the peers are timed over")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.run:
        r_list = tuple(int(r) for r in options.r.split(","))
        RUNS[options.run](int(options.images), r_list, options.precision, options.peer_queries)
        return

    peers = {"numpy": sys.executable}
    if options.peer_python != sys.executable or find_spec("torch"):
        peers["torch"] = options.peer_python
    print(f"{SIDE} x {SIDE} patches of width {WIDTH}, {options.precision}, {os.cpu_count()} CPUs")
    columns = "".join(f"{'x ' + name:>9}" for name in peers)
    print(f"{'':14}{'images':>7}{'seconds':>9}{'CPU s':>8}{'memory GiB':>12}{'growth':>8}{columns}{'elsewhere':>11}")
    sizes, before = [int(n) for n in options.images.split(",")], {}
    for images in sizes:
        single = {}
        for name, python in peers.items():
            numbers = measure(name, images, "1", options, python)
            if numbers:
                single[name] = numbers["cpu"] * images / options.peer_queries
                wall, memory = numbers["wall"] * images / options.peer_queries, numbers["memory"]
                print(f"{name + ', one r':14}{images:7}{wall:9.1f}{single[name]:8.1f}{memory:12.2f}", flush=True)
        for r_list in options.r.split(";"):
            numbers = measure("jaxad", images, r_list, options)
            if numbers is None:
                sys.exit("the scoring itself failed")
            count = len(r_list.split(","))
            growth = f"{numbers['cpu'] / before[r_list]:8.2f}" if r_list in before else f"{'':8}"
            before[r_list] = numbers["cpu"]
            ratios = "".join(
                f"{count * single[name] / numbers['cpu']:9.1f}" if name in single else f"{'':9}" for name in peers
            )
            known = f"{count * ELSEWHERE[images] / numbers['cpu']:11.1f}" if images in ELSEWHERE else ""
            measured = f"{numbers['wall']:9.1f}{numbers['cpu']:8.1f}{numbers['memory']:12.2f}"
            print(f"{'r = ' + r_list:14}{images:7}{measured}{growth}{ratios}{known}", flush=True)


if __name__ == "__main__":
    main()
