"""All seven exact metrics against scikit-learn (areas) and anomalib (AUPRO), on maps like magnetic-tile's, in one run.

    python benchmarks/metrics.py                  # 583 maps of 256x256, about a minute with scikit-learn
    python benchmarks/metrics.py --n 200 --size 256

Each row is measured in a process of its own: seconds, CPU seconds (all threads) and growth of the peak resident memory
while it ran. anomalib takes part where the extra `bench` is installed. The run fails if the values disagree.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec

import numpy as np
from scipy import ndimage

import jaxad.metrics as metrics


def make_test_set(n: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth float32 maps and their masks: one third normal, the others with one or two elliptical defects."""
    rng = np.random.default_rng(seed)
    maps, masks = np.empty((n, size, size), np.float32), np.zeros((n, size, size), bool)
    row, column = np.mgrid[:size, :size].astype(np.float32) / size
    for index in range(n):
        coarse = ndimage.zoom(rng.standard_normal((9, 9)).astype(np.float32), size / 9, order=1)[:size, :size]
        maps[index] = coarse + 0.1 * rng.standard_normal((size, size), dtype=np.float32)
        for _ in range(rng.integers(1, 3) if index >= n // 3 else 0):
            y, x, height, width = *rng.uniform(0.15, 0.85, 2), *rng.uniform(0.02, 0.12, 2)
            distance = ((row - y) / height) ** 2 + ((column - x) / width) ** 2
            masks[index] |= distance < 1
            maps[index] += rng.uniform(0.5, 2.5) * np.exp(-0.5 * distance)
    return maps, masks


def run_jaxad(maps, masks, mode):
    truth = metrics.GroundTruth(masks.any(axis=(1, 2)), masks)
    return metrics.compute(maps, maps.max(axis=(1, 2)), truth, mode=mode)


def run_sklearn_auroc(maps, masks):
    from sklearn.metrics import roc_auc_score

    return {"P-AUROC": roc_auc_score(masks.ravel(), maps.ravel())}


def run_sklearn_ap(maps, masks):
    from sklearn.metrics import average_precision_score

    return {"P-AP": average_precision_score(masks.ravel(), maps.ravel())}


def run_sklearn_f1(maps, masks):
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(masks.ravel(), maps.ravel())
    return {"P-F1max": float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))}


def run_sklearn_images(maps, masks):
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    auroc, ap = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    return {"I-AUROC": auroc, "I-AP": ap, "I-F1max": float(np.max(f1))}


def run_anomalib_aupro(maps, masks):
    import torch  # pyright: ignore[reportMissingImports]
    from anomalib.metrics.aupro import _AUPRO  # pyright: ignore[reportMissingImports]

    metric = _AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks.astype(np.int64)))
    return {"AUPRO": float(metric.compute())}


RUNS = {
    "jaxad, all seven, exact": lambda maps, masks: run_jaxad(maps, masks, "exact"),
    "jaxad, all seven, ader (50 strips)": lambda maps, masks: run_jaxad(maps, masks, "ader"),
    "jaxad, all seven, ader_steps": lambda maps, masks: run_jaxad(maps, masks, "ader_steps"),
    "scikit-learn, images": run_sklearn_images,
    "scikit-learn, P-AUROC": run_sklearn_auroc,
    "scikit-learn, P-AP": run_sklearn_ap,
    "scikit-learn, P-F1max": run_sklearn_f1,
    "anomalib, AUPRO": run_anomalib_aupro,
}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, n: int, size: int) -> tuple[dict[str, float], float, float, int]:
    maps, masks = make_test_set(n, size)
    RUNS[name](maps[n // 3 - 1 : n // 3 + 1], masks[n // 3 - 1 : n // 3 + 1])  # imports and first-call costs
    before, wall, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    values = RUNS[name](maps, masks)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return values, wall, cpu, peak_bytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=583, help="number of maps")
    parser.add_argument("--size", type=int, default=256, help="side of a map in pixels")
    parser.add_argument("--json", help="also write the measurements to this file")
    arguments = parser.parse_args()

    needed = {"scikit-learn": "sklearn", "anomalib": "anomalib"}
    context, measured = multiprocessing.get_context("spawn"), {}
    print(f"{arguments.n} maps of {arguments.size}x{arguments.size}")
    print(f"{'':36s} {'s':>7s} {'CPU s':>7s} {'MiB':>7s}")
    for name in RUNS:
        package = needed.get(name.split(",")[0])
        if package and find_spec(package) is None:
            print(f"{name:36s} not installed: pip install 'jaxad[bench]'")
            continue
        with ProcessPoolExecutor(1, mp_context=context) as process:
            measured[name] = process.submit(measure, name, arguments.n, arguments.size).result()
        values, wall, cpu, growth = measured[name]
        shown = "  ".join(f"{metric} {value:.6f}" for metric, value in values.items())
        print(f"{name:36s} {wall:7.2f} {cpu:7.2f} {growth / 2**20:7.0f}   {shown}", flush=True)

    exact, wall, _, _ = measured["jaxad, all seven, exact"]
    peers = {name: row for name, row in measured.items() if not name.startswith("jaxad")}
    total = sum(row[1] for row in peers.values())
    print(f"peers together {total:.2f} s, jaxad exact {wall:.2f} s: ratio {total / wall:.1f}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(
                {k: dict(zip(("values", "s", "cpu_s", "bytes"), v, strict=True)) for k, v in measured.items()}, file
            )
    # anomalib sums in float32
    wrong = [
        f"{name}: {metric} is {value}, jaxad has {exact[metric]}"
        for name, (values, *_) in peers.items()
        for metric, value in values.items()
        if abs(value - exact[metric]) > (1e-4 if name.startswith("anomalib") else 1e-9)
    ]
    sys.exit("; ".join(wrong) or None)


if __name__ == "__main__":
    main()
