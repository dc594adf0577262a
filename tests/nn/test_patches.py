"""Patch embeddings against the reference's definition, written out in NumPy: unfold, resize, pool, pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from jaxad.nn.patches import adaptive_pooling, patch_embedding
from jaxad.nn.resize import interpolation_matrix


def maps(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def unfolded(tap, patch):
    """Every neighbourhood in the order (channel, row, column), zeros beyond the border."""
    side = patch // 2
    padded = np.pad(tap.astype(np.float64), ((0, 0), (side, side), (side, side), (0, 0)))
    return sliding_window_view(padded, (patch, patch), (1, 2)).reshape(*tap.shape[:3], -1)


def pooled(rows, outputs):
    n = rows.shape[-1]
    bins = [slice(int(np.floor(i * n / outputs)), int(np.ceil((i + 1) * n / outputs))) for i in range(outputs)]
    return np.stack([rows[..., b].mean(-1) for b in bins], axis=-1)


def reference(taps, pretrain_dim, target_dim, patch=3):
    grid = taps[0].shape[1:3]
    layers = []
    for tap in taps:
        rows, columns = (interpolation_matrix(old, new) for old, new in zip(tap.shape[1:3], grid, strict=True))
        layers.append(pooled(np.einsum("oh,bhwc,pw->bopc", rows, unfolded(tap, patch), columns), pretrain_dim))
    return pooled(np.concatenate(layers, axis=-1), target_dim)


@pytest.mark.parametrize(
    ("widths", "pretrain_dim", "target_dim"),
    [
        ((4, 8), 8, 8),  # wide_resnet50_2 in PatchCore: whole channels
        ((4, 8), 12, 12),  # the same in SimpleNet: two channels to three outputs
        ((8, 16), 64, 64),  # resnet18 in PatchCore: a bin is part of a channel
        ((3, 5), 7, 6),  # nothing divides
        ((3, 5, 4), 7, 11),  # bins across the border of two taps
        ((16,), 5, 3),
    ],
)
def test_embedding_equals_unfold_resize_and_pooling(widths, pretrain_dim, target_dim):
    taps = [maps(2, 6 // 2**i + 1, 8 // 2**i + 1, width) for i, width in enumerate(widths)]
    got = patch_embedding([jnp.asarray(tap) for tap in taps], pretrain_dim, target_dim)
    np.testing.assert_allclose(got, reference(taps, pretrain_dim, target_dim), atol=1e-6)


def test_larger_patches_pool_more():
    tap = maps(1, 6, 7, 4)
    got = patch_embedding([jnp.asarray(tap)], 6, 4, patch_size=5)
    np.testing.assert_allclose(got, reference([tap], 6, 4, patch=5), atol=1e-6)


def test_without_dims_channels_are_kept_and_averaged():
    taps = [maps(2, 6, 8, 40), maps(2, 3, 4, 112)]
    got = patch_embedding([jnp.asarray(tap) for tap in taps])
    assert got.shape == (2, 6, 8, 152)
    means = [unfolded(tap, 3).reshape(*tap.shape, 9).mean(-1) for tap in taps]
    rows, columns = interpolation_matrix(3, 6), interpolation_matrix(4, 8)
    want = np.concatenate([means[0], np.einsum("oh,bhwc,pw->bopc", rows, means[1], columns)], axis=-1)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_no_unfolded_map_is_made():
    taps = [jax.ShapeDtypeStruct((1, 32, 32, 64), jnp.float32), jax.ShapeDtypeStruct((1, 16, 16, 128), jnp.float32)]
    jaxpr = jax.make_jaxpr(lambda a, b: patch_embedding([a, b], 128, 128))(*taps)
    assert max(v.aval.size for equation in jaxpr.eqns for v in equation.outvars) <= 34 * 34 * 128


def test_adaptive_pooling_averages_overlapping_bins():
    want = [[1 / 2, 1 / 2, 0, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 1 / 2, 1 / 2]]
    np.testing.assert_allclose(adaptive_pooling(5, 3).toarray(), want)
