"""Nearest neighbours against float64 brute force."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.nn.neighbours import nearest, squared_norms


def brute_force(queries: np.ndarray, bank: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    squares = ((queries[:, None].astype(np.float64) - bank) ** 2).sum(-1)
    rows = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squares, rows, 1), rows


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("rows", [9, 31, 32, 1000])
def test_distances_and_rows_equal_brute_force(rows, k):
    rng = np.random.default_rng(rows)
    queries, bank = (rng.normal(size=(n, 24)).astype("f4") for n in (50, rows))
    distances, found = nearest(jnp.asarray(queries), jnp.asarray(bank), k)
    want, want_rows = brute_force(queries, bank, k)
    np.testing.assert_array_equal(found, want_rows)
    np.testing.assert_allclose(distances, want, rtol=2e-6)


def test_short_distances_between_long_features_keep_their_digits():
    """|q|^2 is 10^8 times the distance: the expanded product alone would return noise."""
    rng = np.random.default_rng(0)
    bank = (100 + rng.normal(size=(400, 64))).astype("f4")
    queries = bank[::7] + 1e-2 * rng.normal(size=(58, 64)).astype("f4")
    distances, found = nearest(jnp.asarray(queries), jnp.asarray(bank))
    want, want_rows = brute_force(queries, bank, 1)
    np.testing.assert_array_equal(found, want_rows)
    np.testing.assert_allclose(distances, want, rtol=1e-6)


def test_blocks_of_queries_change_nothing():
    rng = np.random.default_rng(1)
    queries, bank = (jnp.asarray(rng.normal(size=(n, 16)).astype("f4")) for n in (101, 300))
    whole, blocks = nearest(queries, bank, 2), nearest(queries, bank, 2, block=7 * 320)
    np.testing.assert_array_equal(whole[1], blocks[1])
    np.testing.assert_allclose(whole[0], blocks[0], rtol=1e-6)


def test_equal_distances_are_ordered_by_row():
    bank = jnp.asarray(np.random.default_rng(2).integers(0, 2, (60, 3)), jnp.float32)
    queries = jnp.asarray(np.random.default_rng(3).integers(0, 2, (20, 3)), jnp.float32)
    np.testing.assert_array_equal(
        nearest(queries, bank, 4)[1], brute_force(np.asarray(queries), np.asarray(bank), 4)[1]
    )


def test_a_row_of_the_bank_is_its_own_first_neighbour_at_distance_zero():
    bank = jnp.asarray(np.random.default_rng(4).normal(size=(200, 30)), jnp.float32)
    distances, rows = nearest(bank[17:18], bank, 9)
    assert rows[0, 0] == 17 and distances[0, 0] == 0
    assert len(set(rows[0].tolist())) == 9


def test_plain_distances_are_the_roots_of_the_squared():
    rng = np.random.default_rng(5)
    queries, bank = (jnp.asarray(rng.normal(size=(n, 8)), jnp.float32) for n in (10, 40))
    np.testing.assert_array_equal(nearest(queries, bank, squared=False)[0], jnp.sqrt(nearest(queries, bank)[0]))


def test_rows_of_infinite_norm_are_nobodys_neighbours():
    bank = jnp.zeros((40, 4)).at[:3].set(jnp.arange(12.0).reshape(3, 4))
    norms = squared_norms(bank).at[3:].set(jnp.inf)
    distances, rows = nearest(jnp.zeros((5, 4)), bank, 4, norms=norms)
    np.testing.assert_array_equal(rows[:, :3], np.tile([0, 1, 2], (5, 1)))
    assert np.isinf(distances[:, 3]).all()


@pytest.mark.parametrize("k", [0, 5])
def test_k_out_of_range_is_named(k):
    with pytest.raises(UserError, match="has 4 rows"):
        nearest(jnp.ones((2, 3)), jnp.ones((4, 3)), k)


_ON_EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxad.nn.neighbours import nearest

mesh = Mesh(np.array(jax.devices()), ("data",))
rng = np.random.default_rng(0)
search = jax.jit(nearest, static_argnames=("k", "block"))
for rows in (1024, 1000):
    queries, bank = (jnp.asarray(rng.normal(size=(n, 20)).astype("f4")) for n in (96, rows))
    for block in (2**22, 2**14):
        want = search(queries, bank, k=3, block=block)
        sharded = jax.device_put(bank, NamedSharding(mesh, P("data", None)))
        for q in (queries, jax.device_put(queries, NamedSharding(mesh, P("data", None)))):
            got = search(q, sharded, k=3, block=block)
            np.testing.assert_array_equal(got[1], want[1])
            np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
print("same")
"""


@pytest.mark.slow
def test_a_bank_sharded_over_eight_devices_gives_the_neighbours_of_one(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    run = subprocess.run([sys.executable, "-c", _ON_EIGHT_DEVICES], capture_output=True, text=True)
    assert run.stdout == "same\n", run.stderr[-2000:]
