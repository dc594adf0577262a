"""EfficientNet-Lite0 up to stage 4 on CPU: sums of shifted multiples against XLA's grouped convolution.

    python benchmarks/depthwise.py --batch=8 --size=256

The forms alternate in one run, so that a busy machine slows down both; the best of the repetitions counts.
"""

import argparse
import time
from unittest import mock

import jax

from jaxad import backbones
from jaxad.nn import conv

FORMS = {"shifted multiples": conv._shifted_multiples, "grouped convolution": conv._grouped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="images in a batch")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--repeats", type=int, default=5, help="timed batches of each form")
    flags = parser.parse_args()

    network = backbones.create("efficientnet_lite0", ("stage2", "stage4"))
    images = jax.random.normal(jax.random.key(0), (flags.batch, flags.size, flags.size, 3))
    variables = network.init(jax.random.key(1), images[:1, :64, :64])

    compiled = {}
    for name, form in FORMS.items():
        with mock.patch.object(conv, "_shifted_multiples", form):
            compiled[name] = (
                jax.jit(lambda variables, images: network.apply(variables, images)).lower(variables, images).compile()
            )

    best = dict.fromkeys(FORMS, float("inf"))
    for _ in range(flags.repeats + 1):
        for name, forward in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(forward(variables, images))
            best[name] = min(best[name], time.perf_counter() - start)

    for name, seconds in best.items():
        print(f"{name:>20}: {flags.batch / seconds:7.1f} images/s")
    fast, slow = best.values()
    print(f"{'ratio':>20}: {slow / fast:7.1f}")


if __name__ == "__main__":
    if jax.default_backend() != "cpu":
        raise SystemExit(f"found backend {jax.default_backend()}; expected cpu: set JAX_PLATFORMS=cpu")
    main()
