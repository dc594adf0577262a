"""Patch embedding of PatchCore (Roth et al., CVPR 2022) and SimpleNet (Liu et al., CVPR 2023), section 3.1 of both.

The reference implementations unfold every 3x3 neighbourhood, resize the unfolded maps and pool (channel, row, column)
adaptively, twice. All of this is linear, and equals one fixed 3x3 convolution of each tap on its own grid, then the
resize.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax
from jaxtyping import Array, Float, Int

from jaxad.nn.conv import depthwise
from jaxad.nn.resize import resize


def patch_embedding(
    taps: Sequence[Float[Array, "b _h _w _c"]],
    pretrain_dim: int | None = None,
    target_dim: int | None = None,
    patch_size: int = 3,
) -> Float[Array, "b h w d"]:
    """Locally averaged features of all taps on the grid of the first.

    With both dims, d = `target_dim`, as in the official implementations. With neither, each channel's patch mean (zeros
    beyond the border counted) is kept and d is the sum of the taps' channels, as in anomalib.
    """
    if (pretrain_dim is None) != (target_dim is None):
        raise ValueError("give both pretrain_dim and target_dim, or neither")
    grid = (taps[0].shape[1], taps[0].shape[2])
    if pretrain_dim is None or target_dim is None:
        means = []
        for tap in taps:
            box = jnp.full((patch_size, patch_size, 1, tap.shape[-1]), patch_size**-2, tap.dtype)
            means.append(depthwise(tap, box, padding=patch_size // 2))
        return jnp.concatenate([resize(mean, grid) for mean in means], axis=-1)

    embedding = jnp.zeros((taps[0].shape[0], *grid, 0), taps[0].dtype)
    for layer, tap in enumerate(taps):
        first, channels, kernels = _pooling_kernels(
            tap.shape[-1], patch_size, pretrain_dim, target_dim, layer, len(taps)
        )
        pooled = resize(_sum_of_depthwise(tap, channels, kernels), grid)
        shared = embedding.shape[-1] - first  # outputs whose bin spans two taps
        overlap = embedding[..., first:] + pooled[..., :shared]
        embedding = jnp.concatenate([embedding[..., :first], overlap, pooled[..., shared:]], axis=-1)
    return embedding


def _sum_of_depthwise(tap: Float[Array, "b h w c"], channels, kernels) -> Float[Array, "b h w t"]:
    """The sum over s of the tap's channels `channels[s]`, each convolved with its kernel in `kernels[s]`."""
    side = kernels[0].shape[0] // 2
    padded = jnp.pad(tap, ((0, 0), (side, side), (side, side), (0, 0)))
    total = jnp.zeros((), tap.dtype)
    for channel, kernel in zip(channels, kernels, strict=True):
        # Without the barrier XLA gathers again for each weight of a kernel, which is ten times slower on CPU.
        chosen = padded if channel is None else lax.optimization_barrier(padded[..., channel])
        total += depthwise(chosen, jnp.asarray(kernel, tap.dtype))
    return total


@functools.lru_cache(maxsize=32)
def _pooling_kernels(
    width: int, patch_size: int, pretrain_dim: int, target_dim: int, layer: int, layers: int
) -> tuple[int, list[Int[np.ndarray, "t"] | None], list[Float[np.ndarray, "p p 1 t"]]]:
    """One tap's share of the embedding, as (first output, channels, kernels).

    A pooled value averages few neighbouring channels, so the convolution is written as a sum over s of depthwise ones:
    output `first + j` is the sum over s of channel `channels[s][j]` (None: channel j itself) convolved with
    `kernels[s][..., j]`.
    """
    area = patch_size**2
    share = slice(layer * pretrain_dim, (layer + 1) * pretrain_dim)
    both = adaptive_pooling(layers * pretrain_dim, target_dim)[:, share] @ adaptive_pooling(width * area, pretrain_dim)
    touched = np.flatnonzero(np.diff(both.indptr))
    first, last = touched[0], touched[-1] + 1
    weight = both[first:last].toarray().reshape(-1, width, area)

    used = np.any(weight, axis=2)
    start, end = np.argmax(used, axis=1), width - np.argmax(used[:, ::-1], axis=1)
    channels, kernels = [], []
    for offset in range(np.max(end - start)):
        channel = start + offset
        inside = channel < width
        channel = np.minimum(channel, width - 1)
        kernel = np.where(inside[:, None], weight[np.arange(len(weight)), channel], 0.0)
        channels.append(None if np.array_equal(channel, np.arange(width)) else channel)
        kernels.append(kernel.T.reshape(patch_size, patch_size, 1, -1))
    return int(first), channels, kernels


def adaptive_pooling(length: int, outputs: int) -> scipy.sparse.csr_array:
    """The (outputs, length) matrix of `torch.nn.AdaptiveAvgPool1d`.

    Output i is the mean of the entries from floor(i * length / outputs) up to ceil((i + 1) * length / outputs).
    """
    i = np.arange(outputs)
    start, end = i * length // outputs, -(-(i + 1) * length // outputs)
    entries = np.concatenate([np.arange(a, b) for a, b in zip(start, end, strict=True)])
    weights = np.repeat(1 / (end - start), end - start)
    bounds = np.concatenate([[0], np.cumsum(end - start)])
    return scipy.sparse.csr_array((weights, entries, bounds), shape=(outputs, length))
