"""Images per second from decoded photographs to anomaly map and score: PatchCore and RADL, beside anomalib's PatchCore.

    python benchmarks/prediction.py
    pip install -e '.[bench]' && python benchmarks/prediction.py    # with the peer

All use EfficientNet-Lite0 up to stride 16 with random weights (they do not change the speed) and the same random
images; both PatchCores have a bank of the same size. The candidates alternate in one run, so that a busy machine slows
down all of them; the best of the repetitions counts.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxad import config, experiment, sharding
from jaxad.prediction import Predictor

ROOT = Path(__file__).parent.parent


def jaxad_predictor(method: str, images: np.ndarray, rows: int, batch_size: int) -> Callable[[], None]:
    """Predicts all images as `--mode=evaluate` does once the decoded photographs are cached."""
    settings = config.load_config(f"{ROOT}/configs/{method}.py:magnetic_tile,lite", {"backbone.weights": "random"})
    model = experiment.create_method(settings, ("parts",))
    variables = model.init(jax.random.key(0))
    if method == "patchcore":
        bank = np.random.default_rng(0).normal(size=(rows, 152)).astype(np.float32)
        variables = {**variables, "memory": model.memory(bank, np.arange(rows))}  # pyright: ignore
    mesh = sharding.make_mesh()
    variables = sharding.put(variables, sharding.shardings(mesh, variables, model.partition))
    predictor, split = Predictor(model, variables, batch_size, mesh), Arrays(images)
    return lambda: [None for _ in predictor.each(split)].clear()


class Arrays:
    """Decoded photographs as a split."""

    def __init__(self, images: np.ndarray):
        self.images, self.ids = images, [str(i) for i in range(len(images))]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"image": self.images[i], "index": np.asarray(i, np.int32)}


def anomalib_predictor(images: np.ndarray, rows: int, batch_size: int) -> Callable[[], None] | None:
    """anomalib's PatchCore in inference mode, without Lightning around it; None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch  # pyright: ignore[reportMissingImports]
            from anomalib.models.image.patchcore import torch_model  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    model = torch_model.PatchcoreModel(
        ["blocks.2", "blocks.4"], backbone="tf_efficientnet_lite0", pre_trained=False
    ).eval()
    model.memory_bank = torch.randn(rows, 152)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(images[start : start + batch_size]).float() / 255
                model(((batch - mean) / std).permute(0, 3, 1, 2).contiguous())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96, help="number of images")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--rows", type=int, default=7792, help="rows of the memory bank: 1 % of MTD's training patches")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch")
    parser.add_argument("--peer-batch", type=int, default=4, help="for anomalib; its best of 1, 4, 16")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of each")
    flags = parser.parse_args()
    shape = (flags.images, flags.size, flags.size, 3)
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    candidates = {f"jaxad {m}": jaxad_predictor(m, images, flags.rows, flags.batch) for m in ("patchcore", "radl")}
    peer = anomalib_predictor(images, flags.rows, flags.peer_batch)
    if peer is not None:
        candidates["anomalib patchcore"] = peer
    best = dict.fromkeys(candidates, float("inf"))
    for turn in range(flags.repeats + 1):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            if turn:  # the first pass compiles
                best[name] = min(best[name], time.perf_counter() - started)
    peer_seconds = best.get("anomalib patchcore")
    for name, seconds in best.items():
        ratio = f"   {peer_seconds / seconds:5.2f} x anomalib" if peer_seconds else ""
        print(f"{name:20s} {flags.images / seconds:7.1f} images/s{ratio}")
    if peer_seconds is None:
        print("anomalib is not installed here: pip install -e '.[bench]' measures it too")


if __name__ == "__main__":
    main()
