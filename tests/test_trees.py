"""Nested dicts of arrays: merged, moved up and down, cut in two, filled from a checkpoint."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxad.errors import UserError
from jaxad.trees import inside, merge, split_by_path, under, with_leaves

NAMES = st.sampled_from(["encoder", "decoder", "kernel", "bias"])
TREES = st.recursive(st.integers(), lambda trees: st.dictionaries(NAMES, trees, min_size=1, max_size=3), max_leaves=8)
DICTS = st.dictionaries(NAMES, TREES, min_size=1, max_size=3)


def paths(tree, prefix=()):
    """The leaves by path, written without the functions under test."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {path: leaf for name, below in tree.items() for path, leaf in paths(below, (*prefix, name)).items()}


@pytest.mark.parametrize(
    "trees, expected",
    [
        ([{"a": 1}], {"a": 1}),
        ([{"a": 1}, {"b": 2}], {"a": 1, "b": 2}),
        ([{"a": 1}, {"a": 2}, {"a": 3}], {"a": 3}),
        ([{"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": {"e": 4}}}], {"a": {"b": 1, "c": 3, "d": {"e": 4}}}),
        ([{"a": 1}, {"a": {"b": 2}}], {"a": {"b": 2}}),
        ([{"a": {"b": 2}}, {"a": 1}], {"a": 1}),
        ([{"a": {"b": 1}}, {"a": 2}, {"a": {"c": 3}}], {"a": {"c": 3}}),
        ([{}, {"a": 1}, {}], {"a": 1}),
    ],
    ids=["one", "apart", "last of three", "nested", "deeper", "shallower", "shallower, then deeper", "empty"],
)
def test_merge_has_the_leaves_of_all_trees_and_the_last_one_wins(trees, expected):
    before = copy.deepcopy(trees)
    assert merge(*trees) == expected
    assert trees == before


@given(first=DICTS, second=DICTS)
def test_merge_keeps_every_leaf_that_no_later_tree_replaces(first, second):
    merged, new = paths(merge(first, second)), paths(second)
    for path, leaf in new.items():
        assert merged[path] == leaf
    for path, leaf in paths(first).items():
        covered = any(path[: len(other)] == other or other[: len(path)] == path for other in new)
        assert covered or merged[path] == leaf
    assert set(merged) <= set(new) | set(paths(first))


def test_merge_leaves_arrays_as_they_are():
    kernel, bias = jnp.ones((2, 3)), np.zeros(3)
    merged = merge({"params": {"kernel": kernel, "bias": np.ones(3)}}, {"params": {"bias": bias}})
    assert merged["params"]["kernel"] is kernel
    assert merged["params"]["bias"] is bias


def test_inside_takes_back_what_under_did():
    variables = {"params": {"kernel": 1}, "batch_stats": {"norm": {"mean": 2}}, "memory": {}}
    below = under("part", variables)
    assert below == {
        "params": {"part": {"kernel": 1}},
        "batch_stats": {"part": {"norm": {"mean": 2}}},
        "memory": {"part": {}},
    }
    assert inside(below, "part") == variables


def test_inside_gives_the_collections_that_have_the_name():
    variables = {"params": {"one": {"kernel": 1}, "two": {"kernel": 2}}, "batch_stats": {"one": {"mean": 3}}}
    assert inside(variables, "one") == {"params": {"kernel": 1}, "batch_stats": {"mean": 3}}
    assert inside(variables, "two") == {"params": {"kernel": 2}}
    assert inside(variables, "three") == {}


def test_parts_that_are_merged_can_be_told_apart_again():
    one, two = {"params": {"kernel": 1}, "batch_stats": {"mean": 2}}, {"params": {"kernel": 3}, "memory": {"bank": 4}}
    both = merge(under("one", one), under("two", two))
    assert inside(both, "one") == one
    assert inside(both, "two") == two


def test_split_by_path_asks_for_whole_paths():
    tree, asked = {"encoder": {"linear": {"kernel": 1, "bias": 2}}, "encoder_bias": 3}, []

    def chosen(path):
        asked.append(path)
        return path.startswith("encoder/") and path.endswith("/bias")

    assert split_by_path(tree, chosen) == (
        {"encoder": {"linear": {"bias": 2}}},
        {"encoder": {"linear": {"kernel": 1}}, "encoder_bias": 3},
    )
    assert sorted(asked) == ["encoder/linear/bias", "encoder/linear/kernel", "encoder_bias"]


@pytest.mark.parametrize("everything", [True, False])
def test_split_by_path_may_choose_all_or_nothing(everything):
    tree = {"a": {"b": 1}, "c": 2}
    assert split_by_path(tree, lambda path: everything) == ((tree, {}) if everything else ({}, tree))


@given(tree=DICTS, names=st.sets(NAMES))
def test_the_two_halves_of_a_tree_merge_to_the_whole(tree, names):
    first, second = split_by_path(tree, lambda path: path.rsplit("/", 1)[-1] in names)
    assert merge(first, second) == tree == merge(second, first)
    assert all(path[-1] in names for path in paths(first) if path)
    assert not any(path[-1] in names for path in paths(second) if path)


STATE = {"mu": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "count": jnp.zeros((), jnp.int32), "none": None}


def test_with_leaves_puts_the_arrays_of_a_checkpoint_in_their_places():
    saved = {"mu": {"kernel": np.ones((2, 3)), "bias": np.arange(3.0)}, "count": np.int32(7), "none": None}
    filled = with_leaves(STATE, jax.tree.leaves(saved), "training")
    assert jax.tree.structure(filled) == jax.tree.structure(STATE)
    jax.tree.map(np.testing.assert_array_equal, filled, saved)


@pytest.mark.parametrize(  # STATE's leaves have the shapes (), (3,), (2, 3)
    "shapes",
    [[(), (3,)], [(), (3,), (2, 3), ()], [], [(), (3,), (3, 2)], [(3,), (2, 3), ()], [(1,), (3,), (2, 3)]],
    ids=["too few", "too many", "none", "transposed", "another order", "one axis more"],
)
def test_with_leaves_refuses_another_number_or_another_shape(shapes):
    with pytest.raises(UserError) as found:
        with_leaves(STATE, [np.zeros(shape) for shape in shapes], "memory_bank")
    assert "stage 'memory_bank'" in str(found.value)
    assert "--workdir" in str(found.value)
    assert "\n" not in str(found.value)
