"""Mutual scoring (MuSc, Li et al., ICLR 2024): every patch of an unlabelled image against all other images.

A patch is normal if most other images contain one like it. LNAMD (section 3.1) averages r x r neighbourhoods, which is
linear: the dot products of all pairs of pooled patches are a box filter of those of the plain patches, so one matrix
product per image pair serves every r. It serves both directions of the pair, too: the maximum of each row is what image
i finds in image j, that of each column what j finds in i.
"""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxad import sharding
from jaxad.nn.resize import resize

Precision = Literal["highest", "fast"]

_MULTIPLE = 8  # a device's images are padded to a multiple of it, so that sets of similar size share one program
_WAITING_BYTES = 2**31  # limit on the distances that wait on the host for the other image of their pair


def image_layer_norm(tokens: Float[Array, "n h w c"], epsilon: float = 1e-5) -> Float[Array, "n h w c"]:
    """LNAMD's normalisation: each image over its patches and channels together, without learned scale and shift."""
    centred = tokens - tokens.mean((1, 2, 3), keepdims=True)
    return centred * lax.rsqrt((centred**2).mean((1, 2, 3), keepdims=True) + epsilon)


def box_sum(x: Float[Array, "*s"], r: int, axes: Sequence[int]) -> Float[Array, "*s"]:
    """The sum over a window of r (odd) along each of the axes, with zeros beyond the border."""
    for axis in axes if r > 1 else ():
        widths = [(r // 2, r // 2) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, widths)
        shifted = (lax.slice_in_dim(padded, k, k + x.shape[axis], axis=axis) for k in range(r))
        # without the barrier XLA fuses all axes into one loop of r^axes additions
        x = lax.optimization_barrier(functools.reduce(jnp.add, shifted))
    return x


def aggregate(tokens: Float[Array, "n h w c"], r: int) -> Float[Array, "n h w c"]:
    """LNAMD's patch features for one r: the mean of each r x r neighbourhood (zeros beyond the border counted), scaled
    to unit length.
    """
    return box_sum(tokens, r, (1, 2)) / _norms(tokens, r)[..., None]


def _norms(tokens: Float[Array, "n h w c"], r: int) -> Float[Array, "n h w"]:
    """Lengths of the pooled patches, up to the factor r^2 that the box sums have as well."""
    return jnp.linalg.norm(box_sum(tokens, r, (1, 2)), axis=-1)


def nearest_both_ways(
    one: Float[Array, "h w c"],
    other: Float[Array, "h w c"],
    scale: Float[Array, "r p"],
    other_scale: Float[Array, "r p"],
    r_list: tuple[int, ...],
    precision: Precision = "highest",
) -> Float[Array, "2 r p"]:
    """Distance of each patch to the nearest one of the other image: first those of `one`, then those of `other`.

    Args:
      one, other: tokens after `image_layer_norm`.
      scale, other_scale: inverse lengths of their pooled patches.
      r_list: odd sizes of the neighbourhoods.
      precision: "highest": float32 products; "fast": bfloat16 products, summed in float32.
    """
    h, w, c = one.shape
    dtype = jnp.float32 if precision == "highest" else jnp.bfloat16
    product = jnp.matmul(
        one.reshape(-1, c).astype(dtype),
        other.reshape(-1, c).astype(dtype).T,
        precision=lax.Precision.HIGHEST if precision == "highest" else None,
        preferred_element_type=jnp.float32,
    )
    cosines = []
    for k, r in enumerate(r_list):
        similarity = box_sum(product.reshape(h, w, h, w), r, range(4)).reshape(h * w, h * w)
        similarity = lax.optimization_barrier(similarity)  # computed once for both maxima
        rows = jnp.max(similarity * other_scale[k], axis=1) * scale[k]
        columns = jnp.max(similarity * scale[k][:, None], axis=0) * other_scale[k]
        cosines.append(jnp.stack([rows, columns]))
    # |a - b|^2 = 2 - 2 a.b for unit vectors: the nearest patch is the most similar one
    return jnp.sqrt(jnp.maximum(2 - 2 * jnp.stack(cosines, axis=1), 0))


def nearest_distances(
    tokens: Sequence[Float[np.ndarray, "h w c"]] | Float[np.ndarray, "n h w c"],
    r_list: tuple[int, ...],
    mesh: Mesh,
    precision: Precision = "highest",
    group: int | None = None,
) -> Iterator[Float[np.ndarray, "others r p"]]:
    """For each image in turn: the distance of each of its patches to the nearest one in each other image, in order.

    The images are dealt out over the mesh's axis "data"; in step i every device compares image i with the later ones
    among its own. Within a group, what later images find in image i waits on the host until their turn, at most
    group^2 / 4 numbers per patch and r. Pairs across two groups are compared once from each side, so that only the
    features grow with n.

    Args:
      tokens: tokens of one layer after `image_layer_norm`, image by image, on the host.
      r_list: odd sizes of the neighbourhoods.
      mesh: devices to use, along the axis "data".
      precision: as in `nearest_both_ways`.
      group: images per group; None: as many as keep the waiting distances within 2 GiB.
    """
    count, parts = len(tokens), mesh.shape["data"]
    patches = tokens[0].shape[0] * tokens[0].shape[1]
    group = group or max(1, int((_WAITING_BYTES / (patches * len(r_list))) ** 0.5))  # group^2 / 4 numbers of 4 bytes
    where = NamedSharding(mesh, PartitionSpec("data"))
    features = sharding.put(_dealt(tokens, parts), where)
    scale = _inverse_norms(features, r_list=r_list, mesh=mesh)
    compare = functools.partial(_compare, features, scale, r_list=r_list, mesh=mesh, precision=precision)
    rows = features.shape[0] // parts
    place = _place(np.arange(count), parts, rows)
    waiting: list[list[np.ndarray]] = [[] for _ in range(count)]
    running = compare(np.int32(0), np.int32(0), np.int32(count))
    for i in range(count):
        before, after = i // group * group, min(i // group * group + group, count)
        distances = sharding.to_host(running)
        if i + 1 < count:  # runs while the host works on image i
            running = compare(np.int32((i + 1) // group * group), np.int32(i + 1), np.int32(count))
        yield np.stack([*distances[place[:before], 0], *waiting[i], *distances[place[i + 1 :], 0]])
        waiting[i] = []
        for j in range(i + 1, after):
            waiting[j].append(distances[place[j], 1].copy())


def _dealt(tokens: Sequence[np.ndarray] | np.ndarray, parts: int) -> np.ndarray:
    """The images in the order 0, parts, 2 parts, ..., 1, parts + 1, ..., padded with zeros.

    Device d then holds every image whose number modulo `parts` is d, so that at any time all devices have about the
    same number of later images.
    """
    rows = -(-len(tokens) // (parts * _MULTIPLE)) * _MULTIPLE
    dealt = np.zeros((parts * rows, *tokens[0].shape), tokens[0].dtype)
    for i, image in enumerate(tokens):
        dealt[_place(i, parts, rows)] = image
    return dealt


def _place(i, parts: int, rows: int):
    """The row of image i among the dealt images, `rows` per device."""
    return i % parts * rows + i // parts


@functools.partial(jax.jit, static_argnames=("r_list", "mesh"))
def _inverse_norms(features: Float[Array, "n h w c"], *, r_list: tuple[int, ...], mesh: Mesh) -> Float[Array, "n r p"]:
    def of_image(tokens):
        return 1 / jnp.stack([_norms(tokens[None], r).reshape(-1) for r in r_list])

    spec = PartitionSpec("data")
    local = jax.shard_map(lambda f: lax.map(of_image, f), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    return local(features)


@functools.partial(jax.jit, static_argnames=("r_list", "mesh", "precision"))
def _compare(
    features: Float[Array, "n h w c"],
    scale: Float[Array, "n r p"],
    before: Int[Array, ""],
    i: Int[Array, ""],
    count: Int[Array, ""],
    *,
    r_list: tuple[int, ...],
    mesh: Mesh,
    precision: Precision,
) -> Float[Array, "n 2 r p"]:
    """`nearest_both_ways` of image i with each later image and each one below `before`; 0 for all others."""
    parts = mesh.shape["data"]

    def local(features, scale, before, i, count):
        device = lax.axis_index("data")

        def everywhere(rows):
            return lax.psum(jnp.where(i % parts == device, rows[i // parts], 0), "data")

        query, query_scale = everywhere(features), everywhere(scale)

        def step(k, distances):
            pair = nearest_both_ways(query, features[k], query_scale, scale[k], r_list, precision)
            return distances.at[k].set(pair)

        def own(images):  # how many of the first `images` images are on this device
            return (images - device + parts - 1) // parts

        distances = jnp.zeros((len(features), 2, *scale.shape[1:]))
        distances = lax.fori_loop(0, own(before), step, distances)
        return lax.fori_loop(own(i + 1), own(count), step, distances)

    split, whole = PartitionSpec("data"), PartitionSpec()
    specs = (split, split, whole, whole, whole)
    compare = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    return compare(features, scale, before, i, count)


def interval_bounds(others: int, interval: tuple[float, float]) -> tuple[int, int]:
    """Places [first, last) among the sorted distances to `others` images.

    A bound of `interval` below 1 is a share of the images, any other a number of images.
    """
    first, last = sorted(int(others * bound) if bound < 1 else int(bound) for bound in interval)
    return min(first, others), min(last, others)


def least_images(interval: tuple[float, float], most: int = 10_000) -> int:
    """The smallest number of images that leaves a distance in the interval; 0 if none below `most` does."""
    ends = (interval_bounds(count - 1, interval) for count in range(2, most))
    return next((count for count, (first, last) in enumerate(ends, 2) if first < last), 0)


def interval_mean(distances: Float[np.ndarray, "others *s"], interval: tuple[float, float]) -> Float[np.ndarray, "*s"]:
    """The mean of the sorted distances within the interval (section 3.2), in float64; NaN if it is empty."""
    first, last = interval_bounds(len(distances), interval)
    if first == last:
        return np.full(distances.shape[1:], np.nan)
    # partitioning is many times faster along a contiguous axis
    columns = np.ascontiguousarray(np.moveaxis(distances, 0, -1))
    columns.partition(sorted({first, last - 1}), axis=-1)
    return columns[..., first:last].mean(-1, dtype=np.float64)


def mutual_scores(
    tokens: Sequence[Float[np.ndarray, "h w c"]] | Float[np.ndarray, "n h w c"],
    r_list: tuple[int, ...],
    interval: tuple[float, float],
    mesh: Mesh,
    precision: Precision = "highest",
    progress: Callable[[int], object] = lambda pairs: None,
) -> Float[np.ndarray, "r n p"]:
    """Scores of all patches of all images from one layer, for each r (section 3.2); higher is more anomalous.

    Args:
      tokens, r_list, mesh, precision: as in `nearest_distances`.
      interval: as in `interval_bounds`.
      progress: called with the number of image pairs just done.
    """
    scores = np.empty((len(r_list), len(tokens), tokens[0].shape[0] * tokens[0].shape[1]))
    for i, distances in enumerate(nearest_distances(tokens, r_list, mesh, precision)):
        scores[:, i] = interval_mean(distances, interval)
        progress(len(tokens) - 1 - i)
    return scores


@functools.partial(jax.jit, static_argnums=1)
def upsampled(patch_scores: Float[Array, "b gh gw"], size: tuple[int, int]) -> Float[Array, "b h w"]:
    """Anomaly maps at `size`: bilinear with aligned corners, not smoothed."""
    return resize(patch_scores[..., None], size, align_corners=True)[..., 0]


def rescore(
    scores: Float[np.ndarray, " n"], class_features: Float[np.ndarray, "n d"], k_list: Sequence[int]
) -> Float[np.ndarray, " n"]:
    """RsCIN (section 3.3): scores scaled to [0, 1], then averaged over the k most similar images.

    The average is weighted by similarity, and the results for all k are averaged, too.

    Args:
      scores: one per image.
      class_features: one per image, of any length.
      k_list: window sizes, counting the image itself: 1 gives the scaled score. If 0 is among them, the scores are
        returned unchanged.
    """
    if 0 in k_list:
        return scores
    unit = class_features / np.linalg.norm(class_features, axis=1, keepdims=True)
    similarity = unit @ unit.T
    spread = np.ptp(scores)
    scaled = (scores - scores.min()) / (spread if spread > 0 else 1.0)
    order = np.argsort(-similarity, axis=1, kind="stable")
    windows = []
    for k in k_list:
        nearest = order[:, :k]
        weights = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        windows.append((weights * scaled[nearest]).sum(1) / weights.sum(1))
    return np.mean(windows, axis=0)


def deal(types: Int[np.ndarray, " n"], count: int, seed: int) -> list[Int[np.ndarray, " m"]]:
    """Images divided into `count` subsets with about the same share of every type; each lists places in `types`.

    The images of a type are shuffled and dealt out in turn. As in the official code, the shuffling by Python's own
    generator starts again from `seed` for every subset.
    """
    if count == 1:
        return [np.arange(len(types))]
    members = [np.flatnonzero(types == kind).tolist() for kind in np.unique(types)]
    subsets = []
    for part in range(count):
        draw, chosen = random.Random(seed), []
        for images in members:
            shuffled = list(images)
            draw.shuffle(shuffled)
            chosen += shuffled[part::count]
        subsets.append(np.array(chosen, int))
    return subsets
