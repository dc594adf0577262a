"""Exact greedy coreset against one pass per pick (plain JAX) and against anomalib's KCenterGreedy, in one run.

    python benchmarks/coreset.py                        # made-up features of magnetic-tile's size, 779,264 x 152
    python benchmarks/coreset.py --features bank.npy    # real ones, [rows, dims] float32
    python benchmarks/coreset.py --rows 200000 --share 0.1
    python benchmarks/coreset.py --peer-python PYTHON   # an interpreter with anomalib, if this one lacks it

jaxad runs to the end, compilation included, for a quarter, a half and all of the rows, and for ten times the share on
a quarter of them. The others are timed over --peer-picks picks and extrapolated: each of their picks costs the same.
Every line is measured in a process of its own: seconds, CPU seconds (all threads), growth of the peak resident memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

import numpy as np


def make_features(rows: int, dims: int, seed: int = 0) -> np.ndarray:
    """Patch-like features: clusters on a low-dimensional sheet, skewed, with a few far outliers."""
    rng = np.random.default_rng(seed)
    centres, sheet = rng.normal(size=(300, 10)), rng.normal(size=(10, dims)).astype(np.float32)
    features = np.empty((rows, dims), np.float32)
    for start in range(0, rows, 65536):
        part = features[start : start + 65536]
        spread = rng.gamma(2.0, 0.15, (len(part), 1))
        latent = centres[rng.integers(300, size=len(part))] + spread * rng.normal(size=(len(part), 10))
        part[:] = latent.astype(np.float32) @ sheet
        part += 0.3 * rng.standard_normal(part.shape, dtype=np.float32)
    return features


def run_jaxad(features: np.ndarray, picks: int) -> None:
    import jax.numpy as jnp

    from jaxad.nn.coreset import k_center_greedy, total_distances

    points = jnp.asarray(features)
    k_center_greedy(points, total_distances(points), picks).block_until_ready()


def run_plain(features: np.ndarray, picks: int) -> None:
    """One fused pass over all rows per pick; nothing leaves the device."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from jaxad.nn.coreset import total_distances

    @jax.jit
    def select(points, anchor):
        norms = jnp.sum(points * points, axis=1)

        def pick(step, carry):
            anchor, chosen = carry
            best = jnp.argmax(anchor)
            squares = norms - 2 * jnp.matmul(points, points[best], precision=lax.Precision.HIGHEST) + norms[best]
            return jnp.minimum(anchor, jnp.sqrt(jnp.maximum(squares, 0))), chosen.at[step].set(best)

        return lax.fori_loop(0, picks, pick, (anchor, jnp.zeros(picks, jnp.int32)))[1]

    points = jnp.asarray(features)
    anchor = total_distances(points)
    compiled = select.lower(points, anchor).compile()
    timed(lambda: compiled(points, anchor).block_until_ready())


def run_anomalib(features: np.ndarray, picks: int) -> None:
    """On the features themselves: the random projection is left out for all candidates."""
    import torch  # pyright: ignore[reportMissingImports]
    from anomalib.models.components.sampling import k_center_greedy as sampling  # pyright: ignore[reportMissingImports]

    sampling.tqdm = lambda steps, **_: steps
    peer = sampling.KCenterGreedy(torch.from_numpy(features), sampling_ratio=(picks + 1.5) / len(features))
    peer.model.fit = lambda _: None
    peer.model.transform = lambda embedding: embedding
    timed(peer.select_coreset_idxs)


RUNS = {"jaxad": run_jaxad, "plain": run_plain, "anomalib": run_anomalib}


def timed(action) -> None:
    """Run the action and print seconds, CPU seconds and growth of the peak memory as the process's last line."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": growth}), flush=True)


def measure(name: str, path: str, rows: int, picks: int, python: str = sys.executable) -> dict | None:
    """The numbers of one run in a fresh process; if it fails, None, after printing the last line of its error."""
    command = [python, __file__, "--run", name, "--features", path, "--rows", str(rows), "--picks", str(picks)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        print(f"{name}: left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", help=".npy file, [rows, dims] float32; made-up features without it")
    parser.add_argument("--rows", type=int, default=779264, help="at most this many rows, spread over the file")
    parser.add_argument("--dims", type=int, default=152, help="of the made-up features")
    parser.add_argument("--share", type=float, default=0.01, help="share of the rows to keep")
    parser.add_argument("--peer-picks", type=int, default=50, help="picks that the others are timed over")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has anomalib")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--picks", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.run:
        features = np.load(options.features, mmap_mode="r")
        features = np.array(features[:: len(features) // options.rows][: options.rows], np.float32)
        action = RUNS[options.run]
        if options.run == "jaxad":
            timed(lambda: action(features, options.picks))
        else:
            action(features, options.picks)
        return

    with tempfile.TemporaryDirectory() as folder:
        path = options.features
        if path is None:
            path = os.path.join(folder, "features.npy")
            np.save(path, make_features(options.rows, options.dims))
        rows, dims = np.load(path, mmap_mode="r").shape
        rows = min(rows, options.rows)
        print(f"{rows:,} x {dims} features ({rows * dims * 4 / 2**30:.2f} GiB), {os.cpu_count()} CPUs", flush=True)
        print(f"{'':34} {'rows':>8} {'picks':>7} {'seconds':>9} {'CPU s':>8} {'memory GiB':>10} {'ratio':>6}")

        def show(label, rows, picks, numbers, whole=None):
            ratio = f"{numbers['wall'] / whole['wall']:6.1f}" if whole else ""
            values = f"{numbers['wall']:9.1f} {numbers['cpu']:8.1f} {numbers['memory']:10.2f}"
            print(f"{label:34} {rows:8,} {picks:7,} {values} {ratio}", flush=True)

        whole = None
        for part, share in ((4, 1), (4, 10), (2, 1), (1, 1)):
            picks = int(rows // part * options.share * share)
            whole = measure("jaxad", path, rows // part, picks)
            if whole is None:
                sys.exit("the coreset itself failed")
            show(f"jaxad, exact greedy, {options.share * share:.1%}", rows // part, picks, whole)
        picks = int(rows * options.share)
        peers = [("plain", "plain JAX loop", sys.executable), ("anomalib", "anomalib", options.peer_python)]
        for name, label, python in peers:
            if name == "anomalib" and python == sys.executable and not find_spec("anomalib"):
                print("anomalib: left out: not installed here (extra 'bench', or --peer-python)", file=sys.stderr)
                continue
            numbers = measure(name, path, rows, options.peer_picks, python)
            if numbers:
                scaled = {key: value * picks / options.peer_picks for key, value in numbers.items()}
                scaled["memory"] = numbers["memory"]
                show(f"{label}, from {options.peer_picks} picks", rows, picks, scaled, whole)


if __name__ == "__main__":
    main()
