"""CLIP's towers against open_clip, and the ways into their inside against plain loops."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.backbones.clip import names as clip_names
from jaxad.backbones.clip.tokenizer import load_tokenizer
from jaxad.backbones.clip.towers import (
    NORMALIZATION,
    Block,
    Prompts,
    TextConfig,
    TextTower,
    VisionConfig,
    VisionTower,
    end_positions,
    similarity,
)
from jaxad.data.geometry import Geometry
from jaxad.errors import UserError
from tests.golden.load import Case, cases, load

VISION = VisionConfig(
    width=24, layers=4, heads=3, mlp_width=40, embed_dim=10, patch_size=4, image_size=12, activation="gelu"
)
TEXT = TextConfig(width=24, layers=4, heads=3, mlp_width=40, embed_dim=10, vocabulary=50, context=9)
IDS = np.array([[48, 7, 3, 49, 0, 0], [48, 11, 49, 0, 0, 0]])


@pytest.fixture(scope="module")
def variables_of():
    """The variables of a fixture, kept for the next one of the same weights: those of the full size are a gigabyte."""
    latest = {}

    def make(case: Case):
        recipe = repr([case.meta[key] for key in ("salt", "state_dict", "state_dict_rules")])
        if recipe not in latest or any(key.startswith("sd/") for key in case.arrays):
            latest.clear()
            latest[recipe] = clip_names.from_openai(case.state_dict)
        return latest[recipe]

    return make


def vision_config(case: Case, vision: dict, embed_dim: int) -> VisionConfig:
    resized = case.settings["pos_embed_resize"]
    return VisionConfig(
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision["head_width"],
        mlp_width=4 * vision["width"],
        embed_dim=embed_dim,
        activation=case.settings["activation"],
        patch_size=vision["patch_size"],
        image_size=vision["image_size"],
        position_resize="bicubic" if resized == "none" else resized,
    )


def taps_of(case: Case, name: str) -> tuple[int, ...]:
    """Indices of the blocks whose streams the fixture holds."""
    found = (re.fullmatch(rf"{name}_(\d+)", key) for key in case.expected)
    return tuple(int(match[1]) - 1 for match in found if match)


def streams(name: str, tokens: dict[int, jax.Array]) -> dict[str, jax.Array]:
    return {f"{name}_{block + 1}": stream for block, stream in tokens.items()}


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("clip", "vision"))
def test_the_image_tower_equals_the_reference(path, variables_of):
    case = load(path)
    tower = VisionTower(vision_config(case, case.settings["vision"], case.settings["embed_dim"]))
    images, taps = case.inputs["image"].transpose(0, 2, 3, 1), taps_of(case, "block")
    out = jax.jit(lambda variables, images: tower.apply(variables, images, taps))(variables_of(case), images)
    outputs = {"image_features": out["class_feature"], **streams("block", out["tokens"])}
    for key in case.expected:
        case.check(key, outputs[key])


@pytest.mark.parametrize("path", cases("clip", "both_towers"))
def test_both_towers_and_the_tokenizer_equal_the_reference(path, variables_of):
    case = load(path)
    sizes, variables = case.settings["config"], variables_of(case)
    text = sizes["text"]
    vision_tower = VisionTower(vision_config(case, sizes["vision"], sizes["embed_dim"]))
    text_tower = TextTower(
        TextConfig(
            width=text["width"],
            layers=text["layers"],
            heads=text["heads"],
            mlp_width=4 * text["width"],
            embed_dim=sizes["embed_dim"],
            activation=case.settings["activation"],
            vocabulary=text["vocab_size"],
            context=text["context_length"],
        )
    )

    def look(tower, images):
        entered = tower.pre_norm(tower.embed(images))
        out = tower.encode(entered, taps_of(case, "vision_block"))
        grid = [side // tower.config.patch_size for side in images.shape[1:3]]
        return {
            "pos_embed_resized": tower.positions(*grid),
            "ln_pre": entered,
            "image_features": out["class_feature"],
            **streams("vision_block", out["tokens"]),
        }

    @jax.jit
    def run(variables, images, ids):
        outputs = nn.apply(look, vision_tower)(variables, images)
        out = text_tower.apply(variables, ids, taps_of(case, "text_block"))
        outputs |= {"text_features": out["feature"], **streams("text_block", out["tokens"])}
        scale = variables["params"]["logit_scale"]
        return outputs | {"logits_per_image": similarity(outputs["image_features"], out["feature"], scale)}

    ids = load_tokenizer(context=text["context_length"])(case.settings["texts"])
    outputs = {"token_ids": ids, **run(variables, case.inputs["image"].transpose(0, 2, 3, 1), ids)}
    for key in case.expected:
        case.check(key, outputs[key])


@pytest.mark.parametrize("path", cases("clip", "preprocess"))
def test_pictures_and_masks_reach_the_network_as_in_the_reference(path):
    case = load(path)
    size = (case.settings["image_size"],) * 2
    mean, std = NORMALIZATION
    np.testing.assert_allclose([mean, std], [case.settings["mean"], case.settings["std"]])
    image, _ = Geometry("stretch", size, interpolation="bicubic").apply(case.inputs["picture"])
    geometry = Geometry("stretch", size, mask_interpolation="bilinear")
    grey, _ = geometry.apply(np.repeat(case.inputs["mask"][..., None], 3, axis=2))
    outputs = {
        "image": ((image / 255 - mean) / std).transpose(2, 0, 1),
        "mask_raw": grey[..., 0] / 255,
        "mask": geometry.apply_mask(case.inputs["mask"] > 127),
    }
    for key in case.expected:
        case.check(key, outputs[key])


def drawn(tower, *inputs, seed: int = 0):
    """Variables with every array random, biases and class token included."""
    shapes = jax.eval_shape(tower.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(0, 0.3, leaf.shape)), shapes)


@pytest.fixture(scope="module")
def vision():
    images = np.random.default_rng(1).normal(0, 1, (2, 12, 12, 3)).astype(np.float32)
    return drawn(VisionTower(VISION), images), images


@pytest.fixture(scope="module")
def text():
    return drawn(TextTower(TEXT), IDS)


def block(config, variables, model: str, index: int):
    """One block by itself: its module and parameters."""
    layers = variables["params"][model]["encoder"]["layers"]
    return Block(config), {"params": jax.tree.map(lambda leaf: leaf[index], layers)}


def test_a_tap_is_the_stream_after_its_block(vision):
    variables, images = vision
    tower = VisionTower(VISION)
    out = tower.apply(variables, images, taps=(2, 0))
    assert list(out["tokens"]) == [2, 0]
    stream = tower.apply(variables, tower.apply(variables, images, method="embed"), method="pre_norm")
    for index in range(VISION.layers):
        module, parameters = block(VISION, variables, "vision_model", index)
        stream = module.apply(parameters, stream, None)
        if index in out["tokens"]:
            np.testing.assert_allclose(out["tokens"][index], stream, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out["class_token"], stream[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "ask", [dict(taps=(4,)), dict(taps=(-1,)), dict(values_from=4), dict(prompts=Prompts({9: jnp.ones((1, 1, 24))}, 0))]
)
def test_a_block_that_is_not_there_is_named(vision, ask):
    variables, _ = vision
    with pytest.raises(UserError, match=r"no block (4|-1|9): it has 4 blocks, 0 to 3"):
        VisionTower(VISION).apply(variables, np.zeros((1, 10, 24), np.float32), **ask, method="encode")


def test_values_attend_to_each_other_in_a_second_stream(vision):
    variables, images = vision
    tower = VisionTower(VISION)
    entered = tower.apply(variables, tower.apply(variables, images, method="embed"), method="pre_norm")
    out = tower.apply(variables, entered, taps=(0, 1, 3), values_from=1, method="encode")

    first = second = np.asarray(entered, np.float64)
    for index in range(VISION.layers):
        module, parameters = block(VISION, variables, "vision_model", index)
        if index >= 1:
            p = parameters["params"]
            normed = (first - first.mean(-1, keepdims=True)) / np.sqrt(first.var(-1, keepdims=True) + 1e-5)
            normed = normed * p["layer_norm1"]["scale"] + p["layer_norm1"]["bias"]
            attention = p["self_attn"]
            v = normed @ attention["v_proj"]["kernel"] + attention["v_proj"]["bias"]
            v = v.reshape(*v.shape[:2], 3, 8).transpose(0, 2, 1, 3)
            share = np.exp(v @ v.transpose(0, 1, 3, 2) / np.sqrt(8))
            mixed = (share / share.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(first.shape)
            second = second + mixed @ attention["out_proj"]["kernel"] + attention["out_proj"]["bias"]
        first = np.asarray(module.apply(parameters, jnp.float32(first), None), np.float64)
        if index < 1:
            second = first
        if index in out["tokens"]:
            np.testing.assert_allclose(out["tokens"][index], second, rtol=1e-4, atol=1e-4)
    plain = tower.apply(variables, images)
    np.testing.assert_allclose(out["class_feature"], plain["class_feature"], rtol=1e-5, atol=1e-5)


def test_prompts_take_their_places_before_their_blocks_only(text):
    rng = np.random.default_rng(3)
    prompts = {index: rng.normal(0, 1, (1, 2, 24)).astype(np.float32) for index in (1, 3)}
    tower = TextTower(TEXT)
    words, ends = tower.apply(text, IDS, method="embed"), end_positions(IDS)
    out = tower.apply(text, words, ends, (2, 3), Prompts(prompts, 1), method="encode")

    stream = words + text["params"]["text_model"]["embeddings"]["position_embedding"]["embedding"][: IDS.shape[1]]
    causal = jnp.tri(IDS.shape[1], dtype=bool)
    for index in range(TEXT.layers):
        if index in prompts:
            stream = stream.at[:, 1:3].set(prompts[index])
        module, parameters = block(TEXT, text, "text_model", index)
        stream = module.apply(parameters, stream, causal)
        if index in out["tokens"]:
            np.testing.assert_allclose(out["tokens"][index], stream, rtol=1e-5, atol=1e-5)


def test_gradients_reach_prompts_and_the_embeddings_that_are_fed(text):
    tower, ends = TextTower(TEXT), end_positions(IDS)

    def total(prompt, words):
        return jnp.sum(tower.apply(text, words, ends, (), Prompts({2: prompt}, 1), method="encode")["feature"])

    words = tower.apply(text, IDS, method="embed")
    prompt, fed = jax.grad(total, (0, 1))(jnp.ones((1, 1, 24)), words)
    assert np.all(np.any(prompt != 0, axis=-1))
    np.testing.assert_array_equal(np.any(fed != 0, axis=-1), np.arange(IDS.shape[1]) <= np.asarray(ends)[:, None])


def test_what_follows_the_end_token_changes_nothing(text):
    tower = TextTower(TEXT)
    whole = tower.apply(text, IDS)["feature"]
    other = np.where(np.arange(6) > end_positions(IDS)[:, None], 5, IDS)
    np.testing.assert_allclose(tower.apply(text, other)["feature"], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tower.apply(text, IDS[:, :4])["feature"], whole, rtol=1e-5, atol=1e-5)


def test_texts_end_at_the_first_end_token_or_at_the_largest_id():
    ids = np.array([[48, 7, 2, 49, 2], [48, 49, 2, 49, 0]])
    np.testing.assert_array_equal(end_positions(ids), [3, 1])
    np.testing.assert_array_equal(end_positions(ids, 2), [2, 2])


def test_a_text_longer_than_the_context_is_named(text):
    with pytest.raises(UserError, match="10 tokens; CLIP's text tower takes at most 9"):
        TextTower(TEXT).apply(text, np.zeros((1, 10), np.int32))


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_positions_follow_images_of_any_size(vision, method):
    variables, _ = vision
    tower = VisionTower(dataclasses.replace(VISION, position_resize=method))
    table = variables["params"]["vision_model"]["embeddings"]["position_embedding"]["embedding"]
    learned = table[1:].reshape(3, 3, -1)
    rows = tower.apply(variables, 3, 6, method="positions")[1:].reshape(3, 6, -1)
    columns = tower.apply(variables, 6, 3, method="positions")[1:].reshape(6, 3, -1)
    # 3 to 6: samples a quarter off the centres
    weights = {"bilinear": [0.25, 0.75, 0], "bicubic": [0.2265625, 0.87890625, -0.10546875]}[method]
    expected = np.einsum("k,rkc->rc", weights, learned[:, :3])
    np.testing.assert_allclose(rows[:, 2], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(columns[2], np.einsum("k,krc->rc", weights, learned), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tower.apply(variables, 6, 3, method="positions")[0], table[0])
    images = np.zeros((1, 25, 14, 3), np.float32)  # the rest fills no patch
    assert tower.apply(variables, images, taps=(0,))["tokens"][0].shape == (1, 1 + 6 * 3, 24)


def test_trees_of_transformers_are_stacked_and_come_back(vision):
    variables, _ = vision
    tree = clip_names.to_transformers(variables)
    assert sorted(tree["vision_model"]["encoder"]["layers"]) == ["0", "1", "2", "3"]
    again = clip_names.from_transformers(tree)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_bfloat16_is_close_to_float32(vision):
    variables, images = vision
    want = VisionTower(VISION).apply(variables, images)["class_feature"]
    got = VisionTower(VISION, dtype="bfloat16").apply(variables, images, taps=(1,))
    assert got["tokens"][1].dtype == got["class_feature"].dtype == jnp.bfloat16
    np.testing.assert_allclose(got["class_feature"].astype(jnp.float32), want, atol=0.03 * np.abs(want).max())
