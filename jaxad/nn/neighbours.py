"""Exact nearest neighbours in a memory bank by brute force, for the scores of PatchCore, CFA and similar methods.

|q|^2 - 2 q.m + |m|^2 is one matrix product, but cancels badly where features are long and distances short. So the
product only proposes candidates, the k + 7 most promising rows; their distances are computed again as sum((q - m)^2),
and only these are ranked and returned.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxad.errors import UserError

_SPARE = 7  # candidates beyond k, which allow for the product's rounding
_GROUP = 32  # rows of the bank that the first ranking sees as one, by their minimum


def squared_norms(bank: Float[Array, "m d"]) -> Float[Array, "m"]:
    """|m|^2 of every row; computed once per bank."""
    return jnp.sum(bank * bank, axis=-1)


def nearest(
    queries: Float[Array, "q d"],
    bank: Float[Array, "m d"],
    k: int = 1,
    *,
    squared: bool = True,
    norms: Float[Array, "m"] | None = None,
    block: int = 2**21,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """Distances to the k nearest rows of the bank, nearest first, and the numbers of those rows.

    Equal distances are ordered by row number. Each distance is exact for its row; a row is missed only if more than 7
    others lie within the rounding of the float32 product, about 1e-6 |q|^2, of its distance. Works under jit, with the
    rows of the bank and the queries on one device or sharded.

    Args:
      queries: any number of rows.
      bank: rows to search.
      k: number of neighbours, 1 to m.
      squared: True: squared Euclidean distances, as from faiss's IndexFlatL2; False: their square roots.
      norms: `squared_norms(bank)`, if already known; inf marks a row that only pads a shard and is never a neighbour.
      block: number of distances held at a time; bounds the memory, whatever the number of queries.

    Raises:
      UserError: k is not in 1..m.
    """
    if not 1 <= k <= bank.shape[0]:
        raise UserError(
            f"nearest neighbours: k = {k}, but the memory bank has {bank.shape[0]} rows: choose 1 <= k <= rows"
        )
    norms = squared_norms(bank) if norms is None else norms
    fill = -bank.shape[0] % _GROUP
    bank, norms = jnp.pad(bank, ((0, fill), (0, 0))), jnp.pad(norms, (0, fill), constant_values=jnp.inf)
    search = functools.partial(_search, bank=bank, norms=norms, k=k)

    count, length = queries.shape[0], max(1, block // bank.shape[0])
    if count <= length:
        distances, rows = search(queries)
    else:
        length = -(-count // -(-count // length))  # blocks of nearly equal length
        blocks = jnp.pad(queries, ((0, -count % length), (0, 0))).reshape(-1, length, queries.shape[1])
        distances, rows = (part.reshape(-1, k)[:count] for part in lax.map(search, blocks))
    return (distances if squared else jnp.sqrt(distances)), rows


def _search(queries: Array, bank: Array, norms: Array, k: int) -> tuple[Array, Array]:
    """The k nearest rows of each query. The best rows lie in the groups with the best minima: two short rankings do."""
    groups = bank.shape[0] // _GROUP
    count = k + _SPARE
    product = jnp.matmul(queries, bank.T, precision=lax.Precision.HIGHEST)
    score = (norms - 2 * product).reshape(-1, groups, _GROUP)  # |q|^2 does not change the order
    group = lax.top_k(-score.min(axis=-1), min(count, groups))[1]
    inside = jnp.take_along_axis(score, group[:, :, None], axis=1).reshape(queries.shape[0], -1)
    place = lax.top_k(-inside, min(count, inside.shape[1]))[1]
    rows = jnp.take_along_axis(group, place // _GROUP, axis=1) * _GROUP + place % _GROUP

    difference = queries[:, None, :] - bank[rows]
    distances = jnp.where(jnp.isinf(norms[rows]), jnp.inf, jnp.sum(difference * difference, axis=-1))
    distances, rows = lax.sort((distances, rows), num_keys=2)
    return distances[:, :k], rows[:, :k]
