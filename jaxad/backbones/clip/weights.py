"""Loads CLIP from a folder or hub repository in transformers' form, or from a checkpoint with OpenAI's names.

    clip = load_clip("openai/clip-vit-large-patch14", towers=("vision",))
    VisionTower(clip.vision).apply(clip.variables, images)

Nothing here needs PyTorch or transformers. A repository that has only pytorch_model.bin, like
openai/clip-vit-large-patch14-336, is converted once:

    python -m jaxad.backbones.clip.weights openai/clip-vit-large-patch14-336 FOLDER

FOLDER then holds flax_model.msgpack, config.json and the tokenizer's files: `load_clip` reads it, and so does
`transformers.FlaxCLIPModel.from_pretrained`.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad import weights
from jaxad.backbones.clip import names as clip_names
from jaxad.backbones.clip import tokenizer as clip_tokenizer
from jaxad.backbones.clip.towers import TextConfig, TextTower, VisionConfig, VisionTower
from jaxad.errors import UserError
from jaxad.weights.source import SUFFIXES

TOWERS = ("vision", "text")
CONFIG, FLAX = "config.json", "flax_model.msgpack"
LOADED = (FLAX, "model.safetensors")
CONVERTED = (*LOADED, "pytorch_model.bin")  # a pickle is read once, not at every start
COMMAND = "python -m jaxad.backbones.clip.weights"
_REPOSITORY = re.compile(r"(?:hub:)?([\w.-]+/[\w.-]+(@[^:@]+)?)")

# what transformers leaves out of config.json
_VISION_DEFAULTS = {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TEXT_DEFAULTS = {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407}
_HEAD_WIDTH = 64  # in all of OpenAI's models; their checkpoints do not record it


@dataclass(frozen=True)
class Clip:
    """A loaded model.

    Attributes:
      variables: {"params"} of the towers, float32, on the host; either tower's `apply` takes them as they are. For both
        towers together there is params/logit_scale, too.
      vision, text: settings of the towers; None for a tower that was not asked for.
    """

    variables: dict[str, Any]
    vision: VisionConfig | None
    text: TextConfig | None


def load_clip(
    source: str | Path,
    *,
    towers: Sequence[str] = TOWERS,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
) -> Clip:
    """The towers of a CLIP model.

    Args:
      source: a folder with config.json and flax_model.msgpack or model.safetensors; a hub repository
        `OWNER/NAME[@REVISION]` with them; or a .safetensors, .pth, .pt, .bin or .npz file with OpenAI's, open_clip's or
        transformers' names. A config.json beside such a file is read; without one, heads are 64 wide and the activation
        is quick_gelu, as in OpenAI's models.
      towers: "vision", "text" or both.
      offline, cache_dir: as in `jaxad.weights.resolve`.

    Raises:
      UserError: the weights are not found, are damaged or are not those of CLIP. Where a conversion helps, the message
        gives the command.
    """
    path, config = _find(str(source), LOADED, offline, cache_dir)
    return _clip(_read(path), config, towers, str(source))


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Writes `folder` in transformers' Flax form: weights, config and tokenizer. It appears complete or not at all.

    `source` is as in `load_clip`, and may have its weights in pytorch_model.bin.

    Raises:
      UserError: as `load_clip`, or the folder exists already or cannot be written.
    """
    from flax.serialization import msgpack_serialize

    folder = Path(folder).expanduser()
    if folder.exists():
        raise UserError(f"{folder} exists already; give a new folder for the converted weights")
    path, config = _find(str(source), CONVERTED, offline, cache_dir)
    tree = _read(path)
    towers = [tower for tower in TOWERS if f"{tower}_model" in tree]
    clip = _clip(tree, config, towers, str(source))
    said = config or _transformers_config(clip)
    del clip  # its stacked blocks are a copy of the tree
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            (new / FLAX).write_bytes(msgpack_serialize(tree))
            (new / CONFIG).write_text(json.dumps(said, indent=2) + "\n", "utf-8")
            _write_tokenizer(str(source), new, offline, cache_dir)
            new.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder") from None
    return folder


def tokenizer(
    source: str | Path, context: int = 77, *, offline: bool | None = None, cache_dir: str | Path | None = None
) -> clip_tokenizer.Tokenizer:
    """The tokenizer of a model that `load_clip` takes; for one without tokenizer files OpenAI's, which jaxad includes.

    Raises:
      UserError: as `clip_tokenizer.load_tokenizer`.
    """
    files = _tokenizer_files(str(source), offline, cache_dir)
    return clip_tokenizer.load_tokenizer(files[0].parent if files else None, context)


def _find(
    source: str, names: Sequence[str], offline: bool | None, cache_dir: str | Path | None
) -> tuple[Path, dict[str, Any] | None]:
    """The file of the weights, and the contents of config.json where there is one."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files:
            raise _missing(source, names, f"the folder holds {_listed(path.name for path in folder.iterdir())}")
        return files[0], _config(folder / CONFIG)
    repository = _repository(source)
    if not repository:
        path = weights.resolve(source, offline=offline, cache_dir=cache_dir).path
        beside = path.with_name(CONFIG)
        return path, _config(beside) if beside.is_file() else None

    def file(name: str) -> Path:
        return weights.resolve(f"hub:{repository}:{name}", offline=offline, cache_dir=cache_dir).path

    config, reasons = _config(file(CONFIG)), []
    for name in names:
        try:
            return file(name), config
        except UserError as error:
            reasons.append(error)
    raise _missing(source, names, str(reasons[0]))


def _repository(source: str) -> str | None:
    """The hub repository that a source names, unless it is a folder or file."""
    match = _REPOSITORY.fullmatch(source)
    local = Path(source).expanduser().exists() or source.endswith(SUFFIXES)
    return match[1] if match and not local else None


def _missing(source: str, names: Sequence[str], reason: str) -> UserError:
    convert = f"; or convert another form of it once, {COMMAND} {source} FOLDER, and give FOLDER"
    return UserError(f"CLIP weights {source}: no {' or '.join(names)}: {reason}{convert if names == LOADED else ''}")


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a CLIP folder has it beside its weights") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(config, dict) or not str(config.get("model_type", "clip")).startswith("clip"):
        raise UserError(f"{path}: expected a config of model_type clip, found {str(config)[:80]}")
    return config


def _read(path: Path) -> clip_names.Tree:
    """transformers' Flax tree, float32."""
    if path.suffix == ".msgpack":
        from flax.serialization import msgpack_restore

        try:
            tree = msgpack_restore(path.read_bytes())
            return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)
        except Exception as error:  # msgpack raises a dozen types for damaged files
            raise UserError(f"{path}: damaged or truncated ({type(error).__name__}); get it again") from None
    state_dict = weights.read(path)
    if any(key.startswith(("vision_model.", "text_model.")) for key in state_dict):
        return clip_names.flax_tree(state_dict)
    if any(key.removeprefix("visual.") in ("conv1.weight", "token_embedding.weight") for key in state_dict):
        return clip_names.flax_tree(clip_names.openai_to_torch(state_dict))
    raise UserError(f"{path}: expected OpenAI's or transformers' names of CLIP, found {_listed(state_dict)}")


def _clip(tree: clip_names.Tree, config: Mapping[str, Any] | None, towers: Sequence[str], source: str) -> Clip:
    """The towers asked for; every array is checked."""
    wanted: clip_names.Tree = {}
    for tower in towers:
        model, projection = f"{tower}_model", {"vision": "visual_projection", "text": "text_projection"}[tower]
        if not isinstance(tree.get(model), Mapping):
            raise UserError(f"CLIP weights {source}: no {tower} tower; they hold {_listed(tree)}")
        wanted |= {name: tree[name] for name in (model, projection) if name in tree}
    if set(towers) == set(TOWERS) and "logit_scale" in tree:
        wanted["logit_scale"] = tree["logit_scale"]
    try:
        variables = clip_names.from_transformers(wanted)
        vision = _vision_config(variables["params"], config) if "vision" in towers else None
        text = _text_config(variables["params"], config) if "text" in towers else None
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"CLIP weights {source}: not a whole CLIP model ({error!r})") from None
    except UserError as error:
        raise UserError(f"{error}, in {source}") from None
    expected: dict[str, Any] = {"logit_scale": jax.ShapeDtypeStruct((), jnp.float32)} if "logit_scale" in wanted else {}
    key = jax.random.key(0)
    if vision:
        patch = jnp.zeros((1, vision.patch_size, vision.patch_size, 3))
        expected |= jax.eval_shape(VisionTower(vision).init, key, patch)["params"]
    if text:
        expected |= jax.eval_shape(TextTower(text).init, key, jnp.zeros((1, 1), jnp.int32))["params"]
    _compare(variables["params"], expected, source)
    return Clip(variables, vision, text)


def _compare(params: Any, expected: Any, source: str) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf) for path, leaf in leaves}

    got, want = shapes(params), shapes(expected)
    for name in want:
        if name not in got:
            raise UserError(f"CLIP weights {source}: no array {name}, expected with shape {want[name]}")
        if got[name] != want[name]:
            raise UserError(f"CLIP weights {source}: {name} has shape {got[name]}, expected {want[name]}")
    if set(got) - set(want):
        raise UserError(f"CLIP weights {source}: arrays that no CLIP tower has: {_listed(set(got) - set(want))}")


def _vision_config(params: Mapping[str, Any], config: Mapping[str, Any] | None) -> VisionConfig:
    model = params["vision_model"]
    patch_size, _, _, width = model["embeddings"]["patch_embedding"]["kernel"].shape
    grid = round((len(model["embeddings"]["position_embedding"]["embedding"]) - 1) ** 0.5)
    said = _said(config, "vision", _VISION_DEFAULTS)
    embed_dim = params["visual_projection"]["kernel"].shape[1]
    return VisionConfig(
        **_blocks(model, width, said), embed_dim=embed_dim, patch_size=patch_size, image_size=grid * patch_size
    )


def _text_config(params: Mapping[str, Any], config: Mapping[str, Any] | None) -> TextConfig:
    model = params["text_model"]
    vocabulary, width = model["embeddings"]["token_embedding"]["embedding"].shape
    said = _said(config, "text", _TEXT_DEFAULTS)
    # transformers' first CLIP configs say 2, but mean the largest id
    end_token = None if config is None or said["eos_token_id"] == 2 else said["eos_token_id"]
    return TextConfig(
        **_blocks(model, width, said),
        embed_dim=params["text_projection"]["kernel"].shape[1],
        vocabulary=vocabulary,
        context=len(model["embeddings"]["position_embedding"]["embedding"]),
        end_token=end_token,
    )


def _said(config: Mapping[str, Any] | None, tower: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a tower in config.json; a config of one tower alone has no sections."""
    if config is None:
        return {**defaults, "num_attention_heads": None}
    sections = [config.get(name) for name in (f"{tower}_config", f"{tower}_config_dict")]
    said = dict(defaults)
    for section in sections if any(sections) else [config]:
        said |= section or {}
    return said


def _blocks(model: Mapping[str, Any], width: int, said: Mapping[str, Any]) -> dict[str, Any]:
    layers, _, mlp_width = model["encoder"]["layers"]["mlp"]["fc1"]["kernel"].shape
    heads = said["num_attention_heads"] or max(1, width // _HEAD_WIDTH)
    if width % heads:
        raise UserError(f"{heads} attention heads do not divide the width {width}")
    if said["hidden_act"] not in ("quick_gelu", "gelu"):
        raise UserError(f"hidden_act is {said['hidden_act']!r}, expected quick_gelu or gelu")
    return {
        "width": width,
        "layers": layers,
        "heads": heads,
        "mlp_width": mlp_width,
        "activation": said["hidden_act"],
        "epsilon": said["layer_norm_eps"],
    }


def _transformers_config(clip: Clip) -> dict[str, Any]:
    """A config.json for a model that came without one."""

    def blocks(config: VisionConfig | TextConfig) -> dict[str, Any]:
        return {
            "hidden_size": config.width,
            "intermediate_size": config.mlp_width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "hidden_act": config.activation,
            "layer_norm_eps": config.epsilon,
            "projection_dim": config.embed_dim,
        }

    config: dict[str, Any] = {"architectures": ["CLIPModel"], "model_type": "clip"}
    if clip.vision:
        sizes = {"image_size": clip.vision.image_size, "patch_size": clip.vision.patch_size}
        config |= {"projection_dim": clip.vision.embed_dim, "vision_config": blocks(clip.vision) | sizes}
    if clip.text:
        sizes = {"vocab_size": clip.text.vocabulary, "max_position_embeddings": clip.text.context, "eos_token_id": 2}
        config |= {"projection_dim": clip.text.embed_dim, "text_config": blocks(clip.text) | sizes}
    return config


def _tokenizer_files(source: str, offline: bool | None, cache_dir: str | Path | None) -> list[Path]:
    """A model's vocab.json and merges.txt, or its tokenizer.json; empty if it has none of them."""
    folder, repository = Path(source).expanduser(), _repository(source)
    for names in (clip_tokenizer.FILES, ("tokenizer.json",)):
        if repository:
            try:
                return [
                    weights.resolve(f"hub:{repository}:{name}", offline=offline, cache_dir=cache_dir).path
                    for name in names
                ]
            except UserError:
                continue
        files = [(folder if folder.is_dir() else folder.parent) / name for name in names]
        if all(file.is_file() for file in files):
            return files
    return []


def _write_tokenizer(source: str, folder: Path, offline: bool | None, cache_dir: str | Path | None) -> None:
    files = _tokenizer_files(source, offline, cache_dir)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    for name, text in ({} if files else clip_tokenizer.tokenizer_files()).items():
        (folder / name).write_text(text, "utf-8")


def _listed(names) -> str:
    names = sorted(map(str, names))
    return (", ".join(names[:5]) + ", ..." * (len(names) > 5)) or "nothing"


def main(arguments: Sequence[str] | None = None) -> int:
    """The conversion command; returns the exit status."""
    parser = argparse.ArgumentParser(COMMAND, description="Writes a CLIP model as a folder that jaxad loads.")
    parser.add_argument("source", help="hub repository OWNER/NAME, folder, or checkpoint with OpenAI's names")
    parser.add_argument("folder", help="a new folder for the converted model")
    parser.add_argument("--offline", action="store_true", default=None, help="take hub files from the cache only")
    given = parser.parse_args(arguments)
    try:
        folder = convert(given.source, given.folder, offline=given.offline)
    except UserError as error:
        print(f"jaxad: error: {error}", file=sys.stderr)
        return 2
    print(f"written: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
