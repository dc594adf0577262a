"""Greedy k-center coresets: the picks of the plain loop, without its passes over all rows.

The plain algorithm (Sener & Savarese, 2018; PatchCore, Roth et al., CVPR 2022, Algorithm 1) keeps an anchor for every
row, its distance to the nearest pick. It picks the row with the largest anchor, takes the minimum of every anchor and
the distance to that row, and repeats. Anchors only shrink, so an outdated one is still an upper bound (lazy evaluation,
Minoux, 1978), and the rows are visited in rounds of two steps:

 - refresh: the stale rows with the largest anchors catch up with the picks they have missed, as matrix products;
 - pick: the farthest fresh rows become the active set, and the plain loop runs inside it for as long as its maximum is
   above every anchor outside.

Rows near an early pick are never visited again. The matrix product only proposes candidates, within a proven bound of
its rounding; each distance that is kept or compared comes from `_distance`, which adds in one fixed order whatever the
shapes. So the picks are those of the plain loop, ties included, for any size of the sets and any number of devices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxad.errors import UserError

_CHUNK = 16  # terms of a dot product in one fused step
_ROWS = 2048  # rows and
_PICKS = 256  # picks of one matrix product in a refresh, which so stays in the cache
_ACTIVE = 4096  # rows of the active set in the first round
_REACH = 32768  # stale rows refreshed in the first round
_BIG = np.int32(np.iinfo(np.int32).max)
_LARGEST = np.float32(np.finfo(np.float32).max)


def projection(key: PRNGKeyArray, dim_in: int, dim_out: int) -> Float[Array, "dim_in dim_out"]:
    """Random matrix for `features @ matrix`, initialised like a PyTorch linear layer: uniform in +-1/sqrt(dim_in)."""
    limit = dim_in**-0.5
    return jax.random.uniform(key, (dim_in, dim_out), minval=-limit, maxval=limit)


def mean_distances(points: Float[Array, "n d"], starts: Int[Array, "s"]) -> Float[Array, "n"]:
    """Mean Euclidean distance of every row to the rows `starts`: the first anchors of the approximate greedy sampler.

    With one start this is the distance to it: the first anchors of the variant with a single random start.
    """
    mesh, points = _rows_on_mesh(points)
    return _mean_distances(points, points[jnp.asarray(starts)], mesh)


def total_distances(points: Float[Array, "n d"]) -> Float[Array, "n"]:
    """L2 norm of every row of the n x n distance matrix: the first anchors of the exact greedy sampler.

    The matrix is never formed. Around any centre c, sum_m |z_n - z_m|^2 is n |z_n - c|^2 + sum_m |z_m - c|^2
    - 2 (z_n - c) . sum_m (z_m - c), which takes two passes over the rows instead of n. The norm is no smaller than any
    single distance, so it decides the first pick, the row of its maximum, and nothing else.
    """
    mesh, points = _rows_on_mesh(points)
    return _total_distances(points, mesh)


def k_center_greedy(
    points: Float[Array, "n d"],
    initial: Float[Array, "n"],
    size: int,
    *,
    progress: Callable[[int], None] | None = None,
    active: int = _ACTIVE,
    reach: int = _REACH,
) -> Int[Array, "size"]:
    """Exact greedy k-center selection: `size` times the row with the largest anchor, the first one on ties.

    After each pick anchor = min(anchor, distance to it), with the distance in the form of the reference
    implementations, sqrt(max(0, |z|^2 - 2 z.z' + |z'|^2)) in float32; a row's distance to itself is exactly 0.

    Args:
      points: rows to choose from, on one device or sharded by rows. Memory beyond them is O(n + size d).
      initial: first anchors (`mean_distances`, `total_distances`); -inf for rows that only pad a shard.
      size: number of picks, 1 to n.
      progress: called with the number of picks so far, after each round that made some.
      active: rows of the active set over all devices. Like `reach` it affects the speed, never the picks.
      reach: stale rows refreshed in a round, over all devices. Both grow when a round cannot make a pick.

    Returns:
      Row numbers in the order of selection. Once every anchor is 0 (fewer distinct rows than picks) the first row
      repeats, as in the plain loop.

    Raises:
      UserError: size out of range, NaN or infinity in the points, or every first anchor -inf.
    """
    if not 1 <= size <= len(points):
        raise UserError(
            f"coreset: {size} rows asked of {len(points)}; expected 1 to {len(points)}: change the share kept"
        )
    mesh, points = _rows_on_mesh(points)
    rows = len(points) // mesh.size
    initial = jax.device_put(jnp.asarray(initial, jnp.float32), NamedSharding(mesh, _BY_ROW))
    norms, finite = _norms(points, mesh)
    if not finite or bool(jnp.isnan(initial).any()):
        raise UserError(
            "coreset: NaN or infinity in the features, expected finite numbers: check the images and the weights"
        )

    state = _start(initial, points.shape[1], size, mesh)
    first = sets = _Sets(*(min(rows, -(-total // mesh.size)) for total in (active, reach)))
    count = 0
    while count < size:
        anchor, version = _refresh(points, norms, state, mesh, sets.reach)
        state = state._replace(anchor=anchor, version=version)
        state, stale, fresh = _pick(points, state, mesh, sets.active, size)
        made, count = int(state.count) - count, int(state.count)
        if progress is not None and made:
            progress(count)
        sets = _after_picks(made, first, rows) if made else _enlarged(sets, rows, bool(stale >= fresh))
    return state.picks[:size]


class _Sets(NamedTuple):
    """The sizes of the two sets of a round, in rows per device."""

    active: int
    reach: int


def _after_picks(made: int, first: _Sets, rows: int) -> _Sets:
    """The sets after a round that made picks: the first ones, with more active rows if it made few."""
    return first._replace(active=min(4 * first.active, rows)) if made < first.active // 32 else first


def _enlarged(sets: _Sets, rows: int, stale_rows_lead: bool) -> _Sets:
    """The sets after a round without a pick: stale rows had the largest anchors, or the active set is too small for
    all ties.
    """
    if stale_rows_lead and sets.reach < rows:
        return sets._replace(reach=min(8 * sets.reach, rows))
    if sets.active < rows:
        return sets._replace(active=min(4 * sets.active, rows))
    raise UserError("coreset: no row may be picked, all first anchors are -inf; expected a distance for each row")


class _State(NamedTuple):
    """What the rounds change.

    Each row has its anchor and `version`, the number of picks that the anchor accounts for. Each pick has its row,
    point and squared norm, which is inf for picks still to come.
    """

    anchor: Float[Array, "n"]
    version: Int[Array, "n"]
    picks: Int[Array, "m"]
    centres: Float[Array, "m d"]
    centre_norms: Float[Array, "m"]
    count: Int[Array, ""]


_AXIS = "rows"
_BY_ROW = PartitionSpec(_AXIS)
_WHOLE = PartitionSpec()
_STATE: Any = (_BY_ROW, _BY_ROW, _WHOLE, _WHOLE, _WHOLE, _WHOLE)


def _rows_on_mesh(points: Float[Array, "n d"]) -> tuple[Mesh, Float[Array, "n d"]]:
    """The devices that hold the rows, as a mesh of one axis, and the points on it."""
    points = jnp.asarray(points, jnp.float32)
    devices = [points.addressable_data(0).device]
    if isinstance(points.sharding, NamedSharding) and not points.is_fully_replicated:
        first = {}
        for device, index in points.sharding.devices_indices_map(points.shape).items():
            first.setdefault(index[0].start or 0, device)
        devices = [first[start] for start in sorted(first)]
    elif points.is_fully_replicated:
        points = points.addressable_data(0)
    mesh = Mesh(np.array(devices), (_AXIS,))
    return mesh, jax.device_put(points, NamedSharding(mesh, PartitionSpec(_AXIS, None)))


def _sharded(function: Callable, mesh: Mesh, in_specs, out_specs) -> Callable:
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _columns(rows: Float[Array, "a d"]) -> Float[Array, "e a"]:
    """Rows as columns, padded to whole chunks with zeros, which change no sum."""
    return jnp.pad(rows.T, ((0, -rows.shape[1] % _CHUNK), (0, 0)))


def _dot(left: Float[Array, "e a"], right: Float[Array, "e *a"]) -> Float[Array, "a"]:
    """Dot products of columns, term by term: unlike in a matrix product, the order does not vary with the shape."""

    def add(chunk: Array, total: Array) -> Array:
        a, b = (lax.dynamic_slice_in_dim(side, chunk * _CHUNK, _CHUNK) for side in (left, right))
        for term in range(_CHUNK):
            total = total + a[term] * b[term]
        return total

    return lax.fori_loop(0, left.shape[0] // _CHUNK, add, jnp.zeros(left.shape[1], left.dtype))


def _distance(left: Array, left_norms: Array, right: Array, right_norms: Array) -> Float[Array, "a"]:
    return jnp.sqrt(jnp.maximum(left_norms - 2 * _dot(left, right) + right_norms, 0))


def _by_blocks(function: Callable, points: Float[Array, "n d"], *rest: Float[Array, "n"]) -> Float[Array, "n"]:
    """`function`, which gives one number per row, over blocks of rows; the last block overlaps the one before."""
    length = min(_ROWS, points.shape[0])

    def block(index: Array, out: Array) -> Array:
        start = jnp.minimum(index * length, points.shape[0] - length)
        parts = [lax.dynamic_slice_in_dim(array, start, length) for array in (points, *rest)]
        return lax.dynamic_update_slice_in_dim(out, function(*parts), start, 0)

    return lax.fori_loop(0, -(-points.shape[0] // length), block, jnp.zeros(points.shape[0], points.dtype))


def _squared_norms(rows: Float[Array, "a d"]) -> Float[Array, "a"]:
    columns = _columns(rows)
    return _dot(columns, columns)


@functools.partial(jax.jit, static_argnames="mesh")
def _norms(points: Array, mesh: Mesh) -> tuple[Array, Array]:
    norms = _sharded(functools.partial(_by_blocks, _squared_norms), mesh, _BY_ROW, _BY_ROW)(points)
    return norms, jnp.isfinite(norms).all()


@functools.partial(jax.jit, static_argnames="mesh")
def _mean_distances(points: Array, starts: Array, mesh: Mesh) -> Array:
    def of_block(start_columns: Array, start_norms: Array, rows: Array) -> Array:
        columns, norms = _columns(rows), _squared_norms(rows)
        return lax.map(lambda s: _distance(columns, norms, *s), (start_columns.T, start_norms)).mean(axis=0)

    def local(points: Array, starts: Array) -> Array:
        return _by_blocks(functools.partial(of_block, _columns(starts), _squared_norms(starts)), points)

    return _sharded(local, mesh, (_BY_ROW, _WHOLE), _BY_ROW)(points, starts)


@functools.partial(jax.jit, static_argnames="mesh")
def _total_distances(points: Array, mesh: Mesh) -> Array:
    count = points.shape[0]

    def local(points: Array) -> Array:
        length = min(_ROWS, points.shape[0])
        blocks = -(-points.shape[0] // length)

        def sums(centre: Array) -> tuple[Array, Array]:
            """Sums over all rows of z - c and |z - c|^2, block by block, so that float32 keeps its digits."""

            def add(index: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
                start = jnp.minimum(index * length, points.shape[0] - length)
                is_new = start + jnp.arange(length) >= index * length
                rows = jnp.where(is_new[:, None], lax.dynamic_slice_in_dim(points, start, length) - centre, 0)
                return total[0] + rows.sum(axis=0), total[1] + (rows * rows).sum(axis=1).sum()

            zero = jnp.zeros(points.shape[1], points.dtype), jnp.zeros((), points.dtype)
            return lax.psum(lax.fori_loop(0, blocks, add, zero), _AXIS)

        centre = sums(jnp.zeros(points.shape[1], points.dtype))[0] / count
        rest, squares = sums(centre)  # `rest` would be 0 without rounding

        def of_block(rows: Array) -> Array:
            rows = rows - centre
            squared = (
                count * _squared_norms(rows) + squares - 2 * jnp.matmul(rows, rest, precision=lax.Precision.HIGHEST)
            )
            return jnp.sqrt(jnp.maximum(squared, 0))

        return _by_blocks(of_block, points)

    return _sharded(local, mesh, _BY_ROW, _BY_ROW)(points)


def _start(initial: Array, dim: int, size: int, mesh: Mesh) -> _State:
    room = -(-size // _PICKS) * _PICKS
    state = _State(
        anchor=initial,
        version=jnp.zeros(initial.shape, jnp.int32),
        picks=jnp.zeros(room, jnp.int32),
        centres=jnp.zeros((room, dim), jnp.float32),
        centre_norms=jnp.full(room, jnp.inf, jnp.float32),
        count=jnp.zeros((), jnp.int32),
    )
    return _State(*(jax.device_put(part, NamedSharding(mesh, spec)) for part, spec in zip(state, _STATE, strict=True)))


@functools.partial(jax.jit, static_argnames=("mesh", "reach"))
def _refresh(points: Array, norms: Array, state: _State, mesh: Mesh, reach: int) -> tuple[Array, Array]:
    """Anchors and versions after the `reach` farthest stale rows of each device have caught up with all picks."""

    def local(points: Array, norms: Array, state: _State) -> tuple[Array, Array]:
        rows = points.shape[0]
        is_stale = state.version < state.count
        stale_anchor = jnp.where(is_stale, state.anchor, -jnp.inf)
        far = lax.top_k(stale_anchor, reach)[1] if reach < rows else jnp.arange(rows)
        far = far[jnp.argsort(state.version[far])]  # rows of one block then lack nearly the same picks
        length = min(_ROWS, reach)
        blocks = jnp.pad(far, (0, -reach % length), constant_values=rows).reshape(-1, length)

        def catch_up(index: Array) -> Array:
            of_rows = functools.partial(jnp.take, indices=index, axis=0, mode="fill")
            first = jnp.min(of_rows(state.version, fill_value=_BIG))
            block, block_norms = of_rows(points, fill_value=0), of_rows(norms, fill_value=0)
            columns = _columns(block)
            return lax.fori_loop(
                first // _PICKS,
                (state.count + _PICKS - 1) // _PICKS,
                lambda part, anchor: _lower(anchor, block, columns, block_norms, state, part),
                of_rows(state.anchor, fill_value=0),
            )

        anchor = state.anchor.at[blocks].set(lax.map(catch_up, blocks), mode="drop")
        return anchor, state.version.at[far].set(state.count)

    return _sharded(local, mesh, (_BY_ROW, _BY_ROW, _State(*_STATE)), (_BY_ROW, _BY_ROW))(points, norms, state)


def _lower(anchor: Array, rows: Array, columns: Array, norms: Array, state: _State, part: Array) -> Float[Array, "a"]:
    """Anchors of some rows after the picks of one part.

    The squares from the matrix product carry the pick's place in their low bits, so that an integer minimum finds value
    and place at once. Picks are tried in ascending order until no other can be nearer, even with the worst rounding of
    both sums, d eps |z||z'| each, and of the packing, 2^-15 of the square.
    """
    centres, centre_norms = (
        lax.dynamic_slice_in_dim(array, part * _PICKS, _PICKS) for array in (state.centres, state.centre_norms)
    )
    product = jnp.matmul(centres, rows.T, precision=lax.Precision.HIGHEST)
    squares = jnp.maximum(norms - 2 * product + centre_norms[:, None], 0)
    place = lax.broadcasted_iota(jnp.int32, squares.shape, 0)
    packed = lax.bitcast_convert_type(squares, jnp.int32) & ~np.int32(_PICKS - 1) | place
    largest = jnp.max(jnp.where(jnp.isfinite(centre_norms), centre_norms, 0))
    slack = (2 * rows.shape[1] + 8) * np.finfo(np.float32).eps * (norms + largest)

    def may_be_nearer(anchor: Array, candidate: Array) -> Array:
        limit = jnp.minimum(anchor * anchor * (1 + 2**-12) + slack, _LARGEST)
        return (anchor > 0) & (candidate <= lax.bitcast_convert_type(limit, jnp.int32))

    def after(last: Array) -> Array:
        return jnp.min(jnp.where(packed > last, packed, _BIG), axis=0)

    def try_candidate(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        anchor, candidate = carry
        place = candidate & (_PICKS - 1)
        exact = _distance(columns, norms, _columns(centres[place]), centre_norms[place])
        nearer = jnp.where(may_be_nearer(anchor, candidate), jnp.minimum(anchor, exact), anchor)
        return nearer, after(candidate)

    start = anchor, jnp.min(packed, axis=0)
    return lax.while_loop(lambda carry: may_be_nearer(*carry).any(), try_candidate, start)[0]


@functools.partial(jax.jit, static_argnames=("mesh", "active", "size"))
def _pick(points: Array, state: _State, mesh: Mesh, active: int, size: int) -> tuple[_State, Array, Array]:
    """The plain loop among the `active` farthest fresh rows of each device, down to the largest anchor elsewhere.

    Returns:
      The new state, and the largest anchors of the stale rows and of the fresh rows outside the active set.
    """

    def local(points: Array, state: _State) -> tuple[_State, Array, Array]:
        rows = points.shape[0]
        is_fresh = state.version == state.count
        stale = lax.pmax(jnp.max(jnp.where(is_fresh, -jnp.inf, state.anchor)), _AXIS)
        values, far = lax.top_k(jnp.where(is_fresh, state.anchor, -jnp.inf), min(active + 1, rows))
        fresh = lax.pmax(values[active] if active < rows else -jnp.inf, _AXIS)
        bound = jnp.maximum(stale, fresh)

        far = jnp.sort(far[:active])  # in the order of the rows, so that the first maximum is the first row
        gather = functools.partial(lax.all_gather, axis_name=_AXIS, tiled=True)
        columns = _columns(gather(points[far]))
        norms = _dot(columns, columns)
        number = gather(far + rows * lax.axis_index(_AXIS))
        anchor = gather(jnp.where(is_fresh[far], state.anchor[far], -jnp.inf))
        place = jnp.arange(anchor.shape[0])

        def pick(carry: tuple) -> tuple:
            anchor, largest, picks, centres, centre_norms, count = carry
            best = jnp.min(jnp.where(anchor == largest, place, _BIG))
            centre, norm = lax.dynamic_index_in_dim(columns, best, axis=1, keepdims=False), norms[best]
            anchor = jnp.minimum(anchor, _distance(columns, norms, centre, norm))
            picks = picks.at[count].set(number[best])
            centres = centres.at[count].set(centre[: points.shape[1]])
            centre_norms = centre_norms.at[count].set(norm)
            return anchor, jnp.max(anchor), picks, centres, centre_norms, count + 1

        start = anchor, jnp.max(anchor), *state[2:]
        anchor, _, *chosen, count = lax.while_loop(lambda c: (c[-1] < size) & (c[1] > bound), pick, start)

        own = lax.dynamic_slice_in_dim(anchor, far.shape[0] * lax.axis_index(_AXIS), far.shape[0])
        kept = jnp.where(is_fresh[far], far, rows)
        new = state.anchor.at[kept].set(own, mode="drop"), state.version.at[kept].set(count, mode="drop")
        return _State(*new, chosen[0], chosen[1], chosen[2], count), stale, fresh

    return _sharded(local, mesh, (_BY_ROW, _State(*_STATE)), (_State(*_STATE), _WHOLE, _WHOLE))(points, state)
