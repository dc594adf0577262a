"""Exact greedy coresets against the plain loop and the reference's selections."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.nn import coreset
from jaxad.nn.blur import gaussian_blur
from jaxad.nn.coreset import k_center_greedy, mean_distances, projection, total_distances
from jaxad.nn.neighbours import nearest
from jaxad.nn.resize import resize
from tests.golden.load import cases, load


def plain_loop(points: np.ndarray, initial: np.ndarray, size: int) -> np.ndarray:
    """The algorithm as written, with one pass over all rows per pick, in float32."""
    norms, anchor, picks = (points * points).sum(1), np.array(initial, np.float32), []
    for _ in range(size):
        picks.append(int(anchor.argmax()))
        squares = norms - 2 * (points @ points[picks[-1]]) + norms[picks[-1]]
        anchor = np.minimum(anchor, np.sqrt(np.maximum(squares, 0)))
    return np.array(picks)


def grid_points(n: int, dim: int, values: int, seed: int = 0) -> np.ndarray:
    """Points with small integer coordinates, so that duplicates and ties are many and sums exact."""
    return np.random.default_rng(seed).integers(0, values, (n, dim)).astype(np.float32)


def clustered(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, dim))
    return (centres[rng.integers(12, size=n)] + rng.gamma(1.0, 0.1, (n, 1)) * rng.normal(size=(n, dim))).astype("f4")


@pytest.mark.parametrize("path", cases("patchcore", "coreset"))
def test_selections_and_scores_equal_the_references(path):
    case = load(path)
    bank, query = jnp.asarray(case.inputs["bank"]), jnp.asarray(case.inputs["query"])
    reduced = jnp.matmul(bank, case.inputs["mapper.weight"].T, precision="highest")
    size = int(len(bank) * case.settings["coreset_percentage"])
    anchor = mean_distances(reduced, jnp.asarray(case.inputs["start_points"]))
    index = k_center_greedy(reduced, anchor, size)
    scores, rows = nearest(query, bank[index], 3)
    side = round(len(query) ** 0.5)
    grid = scores[:, 0].reshape(1, side, side, 1)
    got = {
        "bank_reduced/sub": reduced,
        "initial_anchor": anchor,
        "coreset_index": index,
        "exact_greedy_index": k_center_greedy(reduced, total_distances(reduced), size),
        "query_score": scores[:, 0],
        "query_nn": rows[:, 0],
        "query_score_k3": scores.mean(axis=1),
        "map/sub": gaussian_blur(resize(grid, (256, 256))[..., 0], sigma=4.0),
    }
    for key in case.expected:
        case.check(key, got[key])


@pytest.mark.parametrize(("active", "reach"), [(4096, 32768), (16, 48), (200, 300)])
@pytest.mark.parametrize("values", [2, 4, 30])
def test_picks_equal_the_plain_loop_among_ties_and_duplicates(values, active, reach):
    points = grid_points(1500, 6, values)
    initial = np.asarray(mean_distances(jnp.asarray(points), jnp.array([3, 700, 701])))
    picks = k_center_greedy(jnp.asarray(points), jnp.asarray(initial), 300, active=active, reach=reach)
    np.testing.assert_array_equal(picks, plain_loop(points, initial, 300))


@pytest.mark.parametrize("dim", [5, 33])
def test_picks_do_not_depend_on_the_sizes_of_the_sets(dim):
    """With room for every row the active set is the plain loop itself; small sets must lead to the same picks."""
    points = jnp.asarray(clustered(5000, dim)) + 3  # off the origin: the distances cancel
    initial = total_distances(points)
    plain = k_center_greedy(points, initial, 600, active=5000, reach=5000)
    assert len(set(plain.tolist())) == 600
    np.testing.assert_array_equal(k_center_greedy(points, initial, 600, active=64, reach=512), plain)
    np.testing.assert_array_equal(k_center_greedy(points, initial, 600, active=32, reach=5000), plain)


def test_all_rows_are_picked_once_when_size_is_the_number_of_rows():
    points = jnp.asarray(clustered(300, 7))
    assert sorted(k_center_greedy(points, total_distances(points), 300, active=16, reach=32).tolist()) == list(
        range(300)
    )


def test_equal_points_give_the_first_row_again_and_again():
    points = jnp.full((700, 5), 1.7)
    picks = k_center_greedy(points, mean_distances(points, jnp.array([9])), 40, active=16, reach=32)
    np.testing.assert_array_equal(picks, np.zeros(40))


def test_one_pick_is_the_row_farthest_from_the_mean():
    points = clustered(400, 6)
    pick = k_center_greedy(jnp.asarray(points), total_distances(jnp.asarray(points)), 1)
    assert pick.tolist() == [np.linalg.norm(points - points.mean(0), axis=1).argmax()]


def test_rows_that_fill_up_a_shard_are_never_picked():
    points = clustered(500, 4)
    initial = np.array(mean_distances(jnp.asarray(points), jnp.array([0])))
    filled = np.concatenate([points, np.full((12, 4), 1e3, np.float32)])
    with_fill = k_center_greedy(jnp.asarray(filled), jnp.asarray(np.append(initial, [-np.inf] * 12)), 200)
    np.testing.assert_array_equal(with_fill, k_center_greedy(jnp.asarray(points), jnp.asarray(initial), 200))


def test_total_distances_are_the_row_norms_of_the_distance_matrix():
    points = clustered(2500, 9).astype(np.float64) + 5
    matrix = np.sqrt(np.maximum(((points[:, None] - points) ** 2).sum(-1), 0))
    got = total_distances(jnp.asarray(points, jnp.float32))
    np.testing.assert_allclose(got, np.linalg.norm(matrix, axis=1), rtol=2e-6)


def test_mean_distances_of_one_start_are_the_distances_to_it():
    points = clustered(2500, 9)
    want = np.linalg.norm(points.astype(np.float64) - points[17], axis=1)
    np.testing.assert_allclose(mean_distances(jnp.asarray(points), jnp.array([17])), want, atol=3e-3)
    assert mean_distances(jnp.asarray(points), jnp.array([17]))[17] == 0


def test_projection_is_seeded_and_within_the_linear_layers_limits():
    matrix = projection(jax.random.key(0), 1024, 128)
    assert matrix.shape == (1024, 128)
    assert 0.99 / 32 < jnp.abs(matrix).max() <= 1 / 32
    np.testing.assert_array_equal(matrix, projection(jax.random.key(0), 1024, 128))


def test_progress_counts_up_to_the_size():
    points, seen = jnp.asarray(clustered(2000, 5)), []
    k_center_greedy(points, total_distances(points), 150, progress=seen.append, active=32, reach=128)
    assert seen == sorted(set(seen)) and seen[-1] == 150 and len(seen) > 1


def test_distances_are_the_same_bits_for_one_point_and_for_pairs():
    """Distances are computed in two shapes: one point to the active set, and each row to its own candidate."""
    rows = jnp.asarray(clustered(777, 152)) + 2
    columns, norms = coreset._columns(rows), coreset._squared_norms(rows)
    one = jax.jit(coreset._distance)(columns, norms, columns[:, 5], norms[5])
    pairs = jax.jit(lambda c, n: coreset._distance(c, n, jnp.repeat(c[:, 5:6], c.shape[1], 1), n[5]))(columns, norms)
    np.testing.assert_array_equal(one, pairs)
    assert one[5] == 0


@pytest.mark.parametrize("size", [0, 11])
def test_a_size_out_of_range_is_named(size):
    with pytest.raises(UserError, match=f"{size} rows asked of 10"):
        k_center_greedy(jnp.ones((10, 2)), jnp.ones(10), size)


def test_nan_in_the_features_is_named():
    points = jnp.ones((10, 2)).at[3, 1].set(jnp.nan)
    with pytest.raises(UserError, match="NaN"):
        k_center_greedy(points, jnp.ones(10), 2)


def test_too_few_rows_that_may_be_picked_is_an_error():
    with pytest.raises(UserError, match="no row"):
        k_center_greedy(jnp.ones((10, 2)), jnp.full(10, -jnp.inf), 2)


_ON_EIGHT_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxad.nn.coreset import k_center_greedy, mean_distances, total_distances
from tests.nn.test_coreset import clustered, grid_points

def picks(points, first):
    return k_center_greedy(points, first(points), 100, active=128, reach=256)

starts = jnp.array([5, 401, 799])
for shape, points, first in (
    ((8, 1), clustered(800, 19) + 3, total_distances),
    ((4, 2), grid_points(800, 5, 3), lambda p: mean_distances(p, starts)),
):
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "model"))
    sharded = jax.device_put(points, NamedSharding(mesh, P("data", None)))
    np.testing.assert_array_equal(picks(jnp.asarray(points), first), picks(sharded, first))
print("same")
"""


@pytest.mark.slow
def test_rows_sharded_over_eight_devices_give_the_picks_of_one(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    run = subprocess.run([sys.executable, "-c", _ON_EIGHT_DEVICES], capture_output=True, text=True)
    assert run.stdout == "same\n", run.stderr[-2000:]
