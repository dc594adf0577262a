"""CLIP's parameters under three naming systems, and in the form that the towers of `jaxad.backbones.clip` take.

OpenAI's names -> transformers' PyTorch names -> transformers' Flax tree (the form on disk) -> the blocks stacked.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxad.errors import UserError

Tree = dict[str, Any]

# Expression and replacement, from OpenAI's name to transformers' PyTorch name without the tower's prefix.
_BLOCK = [
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
]
_VISION = [
    *_BLOCK,
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^conv1\.weight$", "embeddings.patch_embedding.weight"),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
]
_TEXT = [
    *_BLOCK,
    (r"^token_embedding\.weight$", "embeddings.token_embedding.weight"),
    (r"^ln_final\.", "final_layer_norm."),
]
_PACKED = re.compile(r"(transformer\.resblocks\.\d+)\.attn\.in_proj_(weight|bias)")
_NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")


def from_openai(state_dict: Mapping[str, np.ndarray]) -> Tree:
    """Variables {"params"} of the towers in a state dict with OpenAI's (and open_clip's) names.

    A checkpoint of the image tower alone may lack the prefix `visual.`.

    Raises:
      UserError: as `from_transformers`.
    """
    return from_transformers(flax_tree(openai_to_torch(state_dict)))


def openai_to_torch(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts OpenAI's names and layouts to those of transformers' PyTorch models."""
    vision_only = "conv1.weight" in state_dict
    renamed: dict[str, np.ndarray] = {}
    for key in state_dict:
        if key in _NOT_PARAMETERS:
            continue
        value = np.asarray(state_dict[key])
        vision = vision_only or key.startswith("visual.")
        name = key.removeprefix("visual.")
        tower, rules = ("vision_model", _VISION) if vision else ("text_model", _TEXT)
        if name == "logit_scale":
            renamed["logit_scale"] = value
        elif name in ("proj", "text_projection"):
            renamed["visual_projection.weight" if vision else "text_projection.weight"] = value.T
        elif packed := _PACKED.fullmatch(name):
            block = packed[1].replace("transformer.resblocks", f"{tower}.encoder.layers")
            for part, third in zip("qkv", np.split(value, 3), strict=True):
                renamed[f"{block}.self_attn.{part}_proj.{packed[2]}"] = third
        else:
            for expression, replacement in rules:
                name = re.sub(expression, replacement, name)
            renamed[f"{tower}.{name}"] = value
    return renamed


def flax_tree(state_dict: Mapping[str, np.ndarray]) -> Tree:
    """Converts transformers' PyTorch names and layouts to its Flax tree, float32."""
    tree: Tree = {}
    for key in state_dict:
        if key.endswith("position_ids"):  # a buffer in older files
            continue
        *modules, leaf = key.split(".")
        value = np.asarray(state_dict[key], np.float32)
        if leaf == "weight":
            if modules[-1].endswith("_embedding") and value.ndim == 2:
                leaf = "embedding"
            elif value.ndim == 1:
                leaf = "scale"
            else:
                leaf, value = "kernel", value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = value
    return tree


def from_transformers(tree: Mapping[str, Any]) -> Tree:
    """Variables {"params"} of the towers in transformers' Flax tree: the blocks stacked, all else unchanged.

    Raises:
      UserError: the tree holds no tower, or its blocks are not all alike.
    """
    if not any(tower in tree for tower in ("vision_model", "text_model")):
        found = ", ".join(list(tree)[:5]) or "nothing"
        raise UserError(f"CLIP weights: expected the entry vision_model or text_model, found {found}")
    return {"params": {name: _stacked(name, part) for name, part in tree.items()}}


def to_transformers(variables: Mapping[str, Any]) -> Tree:
    """transformers' Flax tree, as NumPy arrays: the inverse of `from_transformers`."""
    return {name: _unstacked(part) for name, part in variables["params"].items()}


def _stacked(name: str, part: Any) -> Any:
    if not isinstance(part, Mapping) or "encoder" not in part:
        return part
    layers = part["encoder"]["layers"]
    try:
        blocks = [layers[str(index)] for index in range(len(layers))]
        return {**part, "encoder": {"layers": _join(blocks)}}
    except (KeyError, ValueError) as error:
        raise UserError(f"CLIP weights: the {len(layers)} blocks of {name} are not all alike ({error})") from None


def _join(blocks: list[Any]) -> Any:
    if isinstance(blocks[0], Mapping):
        return {key: _join([block[key] for block in blocks]) for key in blocks[0]}
    return np.stack([np.asarray(block) for block in blocks])


def _unstacked(part: Any) -> Any:
    import jax

    part = jax.tree.map(np.asarray, part)
    if not isinstance(part, Mapping) or "encoder" not in part:
        return part
    layers = part["encoder"]["layers"]
    count = len(jax.tree.leaves(layers)[0])
    blocks = {str(index): jax.tree.map(lambda leaf: leaf[index], layers) for index in range(count)}  # noqa: B023
    return {**part, "encoder": {"layers": blocks}}
