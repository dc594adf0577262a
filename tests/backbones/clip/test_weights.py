"""CLIP loads from every form that its weights come in, and gives what transformers' Flax model gives."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from safetensors.numpy import save_file

from jaxad.backbones.clip import names as clip_names
from jaxad.backbones.clip import weights as clip_weights
from jaxad.backbones.clip.tokenizer import load_tokenizer, tokenizer_files
from jaxad.backbones.clip.towers import TextTower, VisionTower, similarity
from jaxad.backbones.clip.weights import convert, load_clip, tokenizer
from jaxad.errors import UserError
from tests.weights.checkpoints import state, storage, tensor, zip_form

VISION = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "max_position_embeddings": 12,
    "eos_token_id": 2,
}
IDS = np.array([[97, 5, 2, 9, 98, 0, 0], [97, 98, 1, 1, 1, 1, 1]])
NEEDS_MORE = ("no flax_model.msgpack or model.safetensors", "python -m jaxad.backbones.clip.weights ", " FOLDER")


def oracle(text: dict | None = None, **vision):
    """transformers' model, without parameters."""
    from transformers import CLIPConfig, FlaxCLIPModel

    sections = {"text_config": TEXT | (text or {}), "vision_config": VISION | vision}
    return FlaxCLIPModel(CLIPConfig(projection_dim=32, **sections), _do_init=False)


@pytest.fixture(scope="module")
def model():
    return oracle()


@pytest.fixture(scope="module")
def tree(model):
    """Random parameters in transformers' Flax tree."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.2, leaf.shape)), dict(model.params_shape_tree))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(0, 1, (2, 28, 28, 3)).astype(np.float32)


@pytest.fixture
def folder(model, tree, tmp_path):
    """What `save_pretrained` writes."""
    model.save_pretrained(tmp_path / "tiny", params=tree)
    return tmp_path / "tiny"


def torch_names(tree, path=()) -> dict[str, np.ndarray]:
    """transformers' PyTorch names and layouts of its Flax tree."""
    named = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            named |= torch_names(value, (*path, key))
            continue
        leaf = "weight" if key in ("kernel", "scale", "embedding") else key
        if key == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        named[".".join((*path, leaf))] = np.array(value, order="C")
    return named


def openai_names(tree) -> dict[str, np.ndarray]:
    """OpenAI's names and layouts of transformers' Flax tree."""
    named = {"logit_scale": tree["logit_scale"], "text_projection": tree["text_projection"]["kernel"]}
    named["visual.proj"] = tree["visual_projection"]["kernel"]
    for prefix, part in (("visual.", tree["vision_model"]), ("", tree["text_model"])):
        embeddings = part["embeddings"]
        named[f"{prefix}positional_embedding"] = embeddings["position_embedding"]["embedding"]
        if prefix:
            named["visual.class_embedding"] = embeddings["class_embedding"]
            named["visual.conv1.weight"] = embeddings["patch_embedding"]["kernel"].transpose(3, 2, 0, 1)
        else:
            named["token_embedding.weight"] = embeddings["token_embedding"]["embedding"]
        norms = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm", "ln_final": "final_layer_norm"}
        modules = {prefix + ours: part[theirs] for ours, theirs in norms.items() if theirs in part}
        for index, block in part["encoder"]["layers"].items():
            name, attention = f"{prefix}transformer.resblocks.{index}.", block["self_attn"]
            qkv = [attention[f"{letter}_proj"] for letter in "qkv"]
            named[f"{name}attn.in_proj_weight"] = np.concatenate([each["kernel"].T for each in qkv])
            named[f"{name}attn.in_proj_bias"] = np.concatenate([each["bias"] for each in qkv])
            modules |= {
                f"{name}attn.out_proj": attention["out_proj"],
                f"{name}ln_1": block["layer_norm1"],
                f"{name}ln_2": block["layer_norm2"],
                f"{name}mlp.c_fc": block["mlp"]["fc1"],
                f"{name}mlp.c_proj": block["mlp"]["fc2"],
            }
        for name, module in modules.items():
            named[f"{name}.weight"] = module["kernel"].T if "kernel" in module else module["scale"]
            named[f"{name}.bias"] = module["bias"]
    return {key: np.array(value, order="C") for key, value in named.items()}


def torch_file(path, arrays):
    """`arrays` as `torch.save` writes a state dict."""
    entries, data = {}, {}
    for index, (key, value) in enumerate(arrays.items()):
        strides = tuple(stride // value.itemsize for stride in value.strides)
        kind = {np.float32: "FloatStorage", np.int64: "LongStorage"}[value.dtype.type]
        entries[key] = tensor(storage(str(index), kind, value.size), value.shape, strides)
        data[str(index)] = value.tobytes()
    return zip_form(path, state(**entries), data)


@pytest.mark.slow
def test_names_of_pytorch_are_those_that_transformers_reads(folder, tree):
    from transformers import FlaxCLIPModel

    (folder / "flax_model.msgpack").unlink()
    save_file(torch_names(tree), folder / "model.safetensors", {"format": "pt"})
    same_tree(dict(FlaxCLIPModel.from_pretrained(folder).params), tree)


def same_tree(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.slow
@pytest.mark.parametrize("activation, epsilon", [("quick_gelu", 1e-5), ("gelu", 1e-3)])
@pytest.mark.parametrize("end_token", [2, 9])
def test_towers_equal_transformers_on_its_own_checkpoint(tree, images, tmp_path, activation, epsilon, end_token):
    changed = {"hidden_act": activation, "layer_norm_eps": epsilon}
    model = oracle({"eos_token_id": end_token, **changed}, **changed)
    model.save_pretrained(tmp_path, params=tree)
    ids = IDS if end_token == 2 else np.where(IDS == 98, end_token, IDS)
    pixels = images.transpose(0, 3, 1, 2)
    want = model(ids, pixels, params=tree, output_hidden_states=True)

    clip = load_clip(tmp_path)
    vision = VisionTower(clip.vision).apply(clip.variables, images, taps=(0, 2))
    text = TextTower(clip.text).apply(clip.variables, ids, taps=(1,))
    logits = similarity(vision["class_feature"], text["feature"], clip.variables["params"]["logit_scale"])
    hidden, words = want.vision_model_output.hidden_states, want.text_model_output.hidden_states
    for got, expected in [
        (vision["tokens"][0], hidden[1]),
        (vision["tokens"][2], hidden[3]),
        (text["tokens"][1], words[2]),
        (vision["class_feature"], model.get_image_features(pixels, params=tree)),
        (text["feature"], model.get_text_features(ids, params=tree)),
        (logits, want.logits_per_image),
    ]:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["safetensors", "bin", "folder of safetensors"])
@pytest.mark.parametrize("names", [torch_names, openai_names])
def test_every_form_of_checkpoint_gives_the_same_towers(folder, tree, tmp_path, form, names):
    arrays = names(tree)
    if form == "bin":
        source = torch_file(tmp_path / "model.bin", arrays)
    else:
        save_file(arrays, tmp_path / "model.safetensors")
        source = tmp_path if form.startswith("folder") else tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    got, want = load_clip(source), load_clip(folder)
    same_tree(got.variables, want.variables)
    assert (got.vision, got.text) == (want.vision, want.text)


def test_a_checkpoint_without_config_is_taken_for_one_of_openais(tree, tmp_path):
    save_file({key: value.astype(np.float16) for key, value in openai_names(tree).items()}, tmp_path / "m.safetensors")
    clip = load_clip(tmp_path / "m.safetensors")
    assert (clip.vision.heads, clip.text.heads, clip.vision.activation) == (2, 1, "quick_gelu")
    assert (clip.vision.patch_size, clip.vision.image_size, clip.vision.embed_dim) == (14, 28, 32)
    assert (clip.text.context, clip.text.vocabulary, clip.text.end_token) == (12, 99, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(clip.variables)} == {np.dtype(np.float32)}


def test_one_tower_loads_without_the_other(folder, tree, tmp_path):
    whole, vision = load_clip(folder), load_clip(folder, towers=("vision",))
    assert vision.text is None and sorted(vision.variables["params"]) == ["vision_model", "visual_projection"]
    same_tree(
        vision.variables["params"], {name: whole.variables["params"][name] for name in vision.variables["params"]}
    )
    alone = {key.removeprefix("visual."): v for key, v in openai_names(tree).items() if key.startswith("visual.")}
    save_file(alone, tmp_path / "vision.safetensors")
    same_tree(load_clip(tmp_path / "vision.safetensors", towers=("vision",)).variables, vision.variables)
    with pytest.raises(UserError, match="no text tower; they hold vision_model, visual_projection"):
        load_clip(tmp_path / "vision.safetensors")


@pytest.mark.parametrize("form", ["pytorch_model.bin", "model.safetensors"])
def test_the_conversion_writes_what_jaxad_and_transformers_load(folder, tree, tmp_path, form, capsys):
    from transformers import FlaxCLIPModel

    source, written = tmp_path / "source", tmp_path / "new" / "converted"
    source.mkdir()
    buffer = {"vision_model.embeddings.position_ids": np.arange(5)[None]}
    arrays = torch_names(tree) | buffer
    torch_file(source / form, arrays) if form.endswith("bin") else save_file(arrays, source / form)
    (source / "config.json").write_text((folder / "config.json").read_text())
    (source / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    vocabulary = {"a": 0, "b</w>": 1, "ab</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}
    (source / "vocab.json").write_text(json.dumps(vocabulary))
    assert clip_weights.main([str(source), str(written)]) == 0
    assert str(written) in capsys.readouterr().out
    assert sorted(file.name for file in written.iterdir()) == [
        "config.json",
        "flax_model.msgpack",
        "merges.txt",
        "vocab.json",
    ]
    assert [path.name for path in written.parent.iterdir()] == ["converted"]
    same_tree(msgpack_restore((written / "flax_model.msgpack").read_bytes()), tree)
    same_tree(load_clip(written).variables, load_clip(folder).variables)
    _, loaded = FlaxCLIPModel.from_pretrained(written, _do_init=False)
    same_tree(dict(loaded), tree)
    np.testing.assert_array_equal(tokenizer(written, context=4)(["ab"]), [[3, 2, 4, 0]])


@pytest.mark.slow
def test_the_conversion_of_openais_names_writes_a_config_and_its_vocabulary(tree, images, tmp_path):
    from transformers import CLIPTokenizer, FlaxCLIPModel

    save_file(openai_names(tree), tmp_path / "openai.safetensors")
    written = convert(tmp_path / "openai.safetensors", tmp_path / "converted")
    model, params = FlaxCLIPModel.from_pretrained(written, _do_init=False)
    clip = load_clip(written)
    feature = VisionTower(clip.vision).apply(clip.variables, images)["class_feature"]
    want = model.get_image_features(images.transpose(0, 3, 1, 2), params=params)
    np.testing.assert_allclose(feature, want, rtol=1e-5, atol=1e-5)
    feature = TextTower(clip.text).apply(clip.variables, IDS)["feature"]
    np.testing.assert_allclose(feature, model.get_text_features(IDS, params=params), rtol=1e-5, atol=1e-5)
    text = "a photo of a metal_nut, it's flawless."
    expected = CLIPTokenizer.from_pretrained(written)(text)["input_ids"]
    np.testing.assert_array_equal(tokenizer(written)([text])[0, : len(expected)], expected)


def test_the_conversion_overwrites_nothing(folder, tmp_path, capsys):
    assert clip_weights.main([str(folder), str(tmp_path)]) == 2
    assert "exists already; give a new folder" in capsys.readouterr().err


def test_a_source_that_is_not_whole_is_not_converted(folder, tmp_path):
    respelt(folder, lambda tree: tree["vision_model"]["pre_layrnorm"].pop("bias"))
    with pytest.raises(UserError, match="no array vision_model/pre_layrnorm/bias"):
        convert(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_folder_without_flax_weights_names_the_conversion(folder, tree):
    (folder / "flax_model.msgpack").unlink()
    torch_file(folder / "pytorch_model.bin", torch_names(tree))
    with pytest.raises(UserError) as caught:
        load_clip(folder)
    for part in (*NEEDS_MORE, str(folder), "pytorch_model.bin"):
        assert part in str(caught.value)
    convert(folder, folder.parent / "flax")
    same_tree(load_clip(folder.parent / "flax").variables, clip_names.from_transformers(tree))


@pytest.fixture
def cache(folder, tmp_path):
    """The hub's cache, with the folder as openai/tiny."""
    repository = tmp_path / "cache" / "models--openai--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / ("c" * 40))
    return tmp_path / "cache"


@pytest.mark.parametrize("source", ["openai/tiny", "hub:openai/tiny", "openai/tiny@" + "c" * 40])
def test_a_hub_repository_loads_from_the_cache(cache, tree, source):
    clip = load_clip(source, offline=True, cache_dir=cache)
    same_tree(clip.variables, clip_names.from_transformers(tree))
    ids = tokenizer(source, offline=True, cache_dir=cache)(["a photo"])
    np.testing.assert_array_equal(ids[0, :4], [49406, 320, 1125, 49407])


def test_a_hub_repository_without_flax_weights_names_the_conversion(cache, tree):
    snapshot = next(cache.glob("*/snapshots/*"))
    (snapshot / "flax_model.msgpack").rename(snapshot / "tf_model.h5")
    with pytest.raises(UserError) as caught:
        load_clip("openai/tiny", offline=True, cache_dir=cache)
    for part in (*NEEDS_MORE, "python -m jaxad.backbones.clip.weights openai/tiny FOLDER"):
        assert part in str(caught.value)
    torch_file(snapshot / "pytorch_model.bin", torch_names(tree))
    convert("openai/tiny", cache / "flax", offline=True, cache_dir=cache)
    same_tree(load_clip(cache / "flax").variables, clip_names.from_transformers(tree))


def spoiled(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def respelt(folder, change):
    tree = msgpack_restore((folder / "flax_model.msgpack").read_bytes())
    change(tree)
    (folder / "flax_model.msgpack").write_bytes(msgpack_serialize(tree))


BAD = {
    "a truncated file": (
        lambda f: (f / "flax_model.msgpack").write_bytes((f / "flax_model.msgpack").read_bytes()[:9000]),
        r"flax_model.msgpack: damaged or truncated",
    ),
    "an empty file": (
        lambda f: (f / "flax_model.msgpack").write_bytes(b""),
        r"flax_model.msgpack: damaged or truncated",
    ),
    "numbers only": (
        lambda f: (f / "flax_model.msgpack").write_bytes(msgpack_serialize({"vision_model": np.ones(3)})),
        "no vision tower; they hold vision_model",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "a damaged config": (lambda f: (f / "config.json").write_text("{"), "config.json: not a readable JSON file"),
    "another model": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "config.json: expected a config of model_type clip",
    ),
    "an unknown activation": (lambda f: spoiled(f, hidden_act="gelu_new"), "'gelu_new', expected quick_gelu or gelu"),
    "heads that do not divide": (lambda f: spoiled(f, num_attention_heads=3), "3 attention heads do not divide"),
    "a missing array": (
        lambda f: respelt(f, lambda tree: tree["vision_model"]["pre_layrnorm"].pop("bias")),
        "no array vision_model/pre_layrnorm/bias, expected with shape \\(128,\\)",
    ),
    "a missing projection": (
        lambda f: respelt(f, lambda tree: tree.pop("visual_projection")),
        "not a whole CLIP model",
    ),
    "an array of another shape": (
        lambda f: respelt(f, lambda tree: tree["vision_model"]["post_layernorm"].update(scale=np.ones(5))),
        "post_layernorm/scale has shape \\(5,\\), expected \\(128,\\)",
    ),
    "an array too many": (
        lambda f: respelt(f, lambda tree: tree["vision_model"].update(layer_scale=np.ones(5))),
        "arrays that no CLIP tower has: vision_model/layer_scale",
    ),
    "a missing block": (
        lambda f: respelt(f, lambda tree: tree["text_model"]["encoder"]["layers"].pop("0")),
        "blocks of text_model are not all alike",
    ),
    "blocks that differ": (
        lambda f: respelt(f, lambda tree: tree["text_model"]["encoder"]["layers"]["1"].pop("mlp")),
        "blocks of text_model are not all alike",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_folder_is_named_in_one_line(folder, what):
    spoil, message = BAD[what]
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_clip(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "nowhere.safetensors"])
def test_a_source_that_is_nothing_is_named(source):
    with pytest.raises(UserError, match=source):
        load_clip(source)


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"layer1.0.conv1.weight": np.ones(3, np.float32)}, tmp_path / "resnet.safetensors")
    with pytest.raises(UserError, match=r"resnet.safetensors: expected .* names of CLIP, found layer1.0.conv1.weight"):
        load_clip(tmp_path / "resnet.safetensors")


def test_texts_become_openais_ids():
    ids = load_tokenizer()(["A photo  of a metal_nut.", "caf\u00e9 it's &amp;amp; 12"])
    np.testing.assert_array_equal(ids[0, :10], [49406, 320, 1125, 539, 320, 4044, 318, 6491, 269, 49407])
    np.testing.assert_array_equal(ids[1, :9], [49406, 15304, 585, 568, 261, 272, 273, 49407, 0])
    assert ids.shape == (2, 77) and not ids[:, 10:].any()


@pytest.mark.parametrize("whole", [False, True])
def test_the_tokenizer_reads_the_files_of_the_folder(tmp_path, whole):
    files = tokenizer_files()
    vocabulary = json.loads(files["vocab.json"])
    vocabulary["photo</w>"] = 7
    if whole:
        merges = files["merges.txt"].splitlines()[1:]
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary, "merges": merges}}))
    else:
        (tmp_path / "merges.txt").write_text(files["merges.txt"])
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    np.testing.assert_array_equal(tokenizer(tmp_path, context=6)(["a photo"]), [[49406, 320, 7, 49407, 0, 0]])


def test_a_text_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="'a photo of it' has 6 tokens; CLIP takes at most 5"):
        load_tokenizer(context=5)(["a", "a photo of it"])


def test_damaged_tokenizer_files_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match="tokenizer's files are damaged"):
        tokenizer(tmp_path)


def test_a_model_is_changed_by_its_config(folder, images):
    clip = load_clip(folder, towers=("vision",))
    exact = dataclasses.replace(clip.vision, activation="gelu")
    quick, other = (
        VisionTower(config).apply(clip.variables, images)["class_feature"] for config in (clip.vision, exact)
    )
    assert np.max(np.abs(quick - other)) > 1e-4


def test_loading_imports_neither_transformers_nor_pytorch(folder):
    program = (
        "import sys, jaxad.backbones, jaxad.weights; light = set(sys.modules)\n"
        f"from jaxad.backbones.clip.weights import load_clip; load_clip({str(folder)!r})\n"
        "print(sorted(light & {'transformers', 'tokenizers', 'jaxad.backbones.clip'}),"
        " sorted({'transformers', 'tokenizers', 'torch', 'tensorflow'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[0] == "[] []"
