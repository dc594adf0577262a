"""Nested dicts of arrays: variables, parameters, optimizer states."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxad.errors import UserError
from jaxad.method import Variables


def merge(*trees: Any) -> Any:
    """One nested dict with the leaves of all; where several have the same path, the last one's leaf."""
    base, *others = trees
    for changes in others:
        if isinstance(base, Mapping) and isinstance(changes, Mapping):
            base = {**base, **{key: merge(base[key], new) if key in base else new for key, new in changes.items()}}
        else:
            base = changes
    return base


def under(name: str, variables: Variables) -> Variables:
    """The variables moved one level down: {"params": tree} becomes {"params": {name: tree}}."""
    return {collection: {name: tree} for collection, tree in variables.items()}


def inside(variables: Variables, name: str) -> Variables:
    """The reverse of `under`: what `variables` holds under `name`, in every collection that has it."""
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def split_by_path(tree: Any, chosen: Callable[[str], bool]) -> tuple[Any, Any]:
    """The tree cut into two nested dicts: the leaves whose path ("decoder/kernel") is chosen, and the others."""
    flat = traverse_util.flatten_dict(tree, sep="/")
    first = {path: leaf for path, leaf in flat.items() if chosen(path)}
    second = {path: leaf for path, leaf in flat.items() if path not in first}
    return traverse_util.unflatten_dict(first, sep="/"), traverse_util.unflatten_dict(second, sep="/")


def with_leaves(tree: Any, leaves: list[np.ndarray], stage: str) -> Any:
    """The tree with the arrays of a checkpoint in place of its own.

    Raises:
      UserError: their number or a shape differs; the message names the stage.
    """
    own = jax.tree.leaves(tree)
    shapes = [(np.shape(leaf), np.shape(saved)) for leaf, saved in zip(own, leaves, strict=False)]
    if len(own) != len(leaves) or any(mine != saved for mine, saved in shapes):
        raise UserError(
            f"the checkpoint's state of stage {stage!r} does not fit this config: start in another --workdir"
        )
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
