"""Every network behind one protocol, and the weights that it takes."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import patchcore as config_patchcore
from jaxad import backbones
from jaxad.backbones.clip.names import to_transformers
from jaxad.backbones.clip.towers import TextConfig, TextTower
from jaxad.backbones.frozen import FrozenBackbone, frozen_backbone
from jaxad.errors import UserError
from tests.backbones.clip.test_weights import openai_names

NAMES = backbones.names()
FAMILIES = {backbones.family(name) for name in NAMES}

# the smallest network of each family, with taps that need few of its layers: a map, and what comes after it
SMALLEST = {
    "resnet18": ("maxpool", "layer1"),
    "efficientnet_lite0": ("stem", "stage1"),
    "clip_vit_nano14": ("block1", "class_feature"),
}
smallest = pytest.mark.parametrize(("name", "taps"), SMALLEST.items(), ids=SMALLEST)

TEXT = TextConfig(width=8, layers=1, heads=1, mlp_width=8, embed_dim=4, vocabulary=9, context=5)


def shapes(module, size=(64, 64)):
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return variables, jax.eval_shape(module.apply, variables, images)


def drawn(tree):
    """The tree with random arrays of its shapes."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), tree)


@functools.cache
def state_dict(name: str, taps: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Random weights of the network by their published names; those of a CLIP tower with a text tower beside it."""
    variables, _ = shapes(backbones.create(name, taps))
    if not name.startswith("clip_"):
        return {key: np.array(value, order="C") for key, value in backbones.to_torch(drawn(variables)).items()}
    text = jax.eval_shape(TextTower(TEXT).init, jax.random.key(0), jnp.zeros((1, 5), jnp.int32))
    params = {**variables["params"], **text["params"], "logit_scale": jnp.zeros(())}
    return openai_names(to_transformers({"params": drawn(params)}))


def batch(size=(48, 64), seed=0):
    return jax.random.normal(jax.random.key(seed), (2, *size, 3))


def test_every_family_has_a_small_network_for_these_tests():
    assert {backbones.family(name) for name in SMALLEST} == FAMILIES
    assert sum(len(family.ARCHITECTURES) for family in FAMILIES) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_offers_what_its_family_must(name):
    family, architecture = backbones.family(name), backbones.architecture(name)
    assert architecture == family.ARCHITECTURES[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(architecture, dataclasses.fields(architecture)[0].name, None)
    taps, channels = backbones.taps(name), backbones.channels(name)
    assert [tap for tap in taps if tap in channels] == list(channels)
    strides = [stride for stride, _ in channels.values()]
    assert strides == sorted(strides)
    mean, std = backbones.normalization(name)
    assert [len(mean), len(std)] == [3, 3]
    assert all(0 < number < 1 for number in (*mean, *std))


@pytest.mark.parametrize("name", NAMES)
def test_taps_have_the_stated_strides_and_channels(name):
    stated, size = backbones.channels(name), (224, 448)
    _, found = shapes(backbones.create(name, backbones.taps(name)), size)
    assert set(found) == set(backbones.taps(name))
    for tap, value in found.items():
        if tap in stated:
            stride, width = stated[tap]
            assert value.shape == (2, size[0] // stride, size[1] // stride, width), tap
        else:
            assert value.ndim == 2, tap


@pytest.mark.parametrize("name", NAMES)
def test_untrained_variables_are_float32_and_serve_images_of_any_size(name):
    taps = backbones.taps(name)
    variables = jax.eval_shape(lambda key: backbones.init(name, taps, key), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    side = backbones.family(name).SIDE
    for size in ((side, side), (3 * side, 2 * side)):
        assert variables == shapes(backbones.create(name, taps), size)[0]


@smallest
def test_untrained_variables_come_from_the_key(name, taps):
    first, again, other = (
        jax.tree.leaves(backbones.init(name, taps, jax.random.key(seed))["params"]) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(first, other, strict=True))


@smallest
def test_only_the_taps_that_are_asked_for_are_returned_in_their_order(name, taps):
    variables = backbones.init(name, taps, jax.random.key(0))
    together = backbones.create(name, taps[::-1]).apply(variables, batch())
    assert tuple(together) == taps[::-1]
    alone = backbones.create(name, taps[:1]).apply(variables, batch())
    assert tuple(alone) == taps[:1]
    np.testing.assert_array_equal(alone[taps[0]], together[taps[0]])


@pytest.mark.parametrize(("name", "taps"), [("resnet18", ("layer2",)), ("efficientnet_lite0", ("stage2",))])
def test_nothing_beyond_the_deepest_tap_is_built(name, taps):
    variables, found = shapes(backbones.create(name, taps))
    assert tuple(found) == taps
    layers = set(variables["params"])
    assert not layers & {"layer3_0", "fc", "blocks_3_0", "conv_head", "classifier"}
    assert layers & {"layer2_1", "blocks_2_1"}


@pytest.mark.parametrize(
    ("name", "weights", "million"),
    [("resnet18", 102, 11.69), ("wide_resnet50_2", 267, 68.88), ("efficientnet_lite0", 247, 4.65)],
)
def test_a_whole_network_has_the_published_number_of_parameters(name, weights, million):
    """`weights`: the published tensors without the counters of batches."""
    variables, _ = shapes(backbones.create(name, ("logits",)))
    assert len(jax.tree.leaves(variables)) == weights
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6 == pytest.approx(million, abs=0.005)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("clip_vit_b32", 87_849_216),
        ("clip_vit_b16", 86_192_640),
        ("clip_vit_l14", 303_966_208),
        ("clip_vit_l14_336", 304_293_888),
    ],
)
def test_an_image_tower_has_as_many_parameters_as_openais(name, count):
    variables, _ = shapes(backbones.create(name, ("class_feature",)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


@smallest
def test_half_precision_is_close_and_leaves_parameters_and_frozen_features_in_float32(name, taps):
    half, single = (FrozenBackbone(name, "random", taps, dtype) for dtype in ("bfloat16", "float32"))
    images = batch()
    inside = backbones.create(name, taps, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(inside)[0])} == {jnp.dtype("float32")}
    variables = half.init(jax.random.key(1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {value.dtype for value in shapes(inside)[1].values()} == {jnp.dtype("bfloat16")}
    narrow, wide = (jax.jit(backbone)(variables, images) for backbone in (half, single))
    for tap in taps:
        assert narrow[tap].dtype == wide[tap].dtype == jnp.float32
        error = np.max(np.abs(narrow[tap] - wide[tap]))
        assert 0 < error < 0.05 * np.max(np.abs(wide[tap])), tap


@smallest
def test_a_frozen_backbone_keeps_its_arrays_under_one_name_and_its_taps_in_order(name, taps):
    backbone = FrozenBackbone(name, "random", taps[::-1])
    variables = backbone.init(jax.random.key(0))
    assert {collection: set(tree) for collection, tree in variables.items()} == {
        collection: {"backbone"} for collection in backbones.init(name, taps, jax.random.key(0))
    }
    found = backbone({**variables, "params": {**variables["params"], "other": jnp.zeros(3)}}, batch())
    assert tuple(found) == taps[::-1]
    plain = backbones.create(name, taps).apply({c: tree["backbone"] for c, tree in variables.items()}, batch())
    for tap in taps:
        np.testing.assert_array_equal(found[tap], plain[tap])
    assert backbone.normalization == backbones.normalization(name)


def test_a_frozen_clip_has_no_statistics_and_takes_images_of_another_size():
    backbone = FrozenBackbone("clip_vit_nano14", "random", ("block0", "block3", "class_feature"))
    variables = backbone.init(jax.random.key(0))
    assert set(variables) == {"params"}
    beside = {**variables, "batch_stats": {"decoder": {"mean": jnp.zeros(3)}}}
    for size, grid in (((70, 70), (5, 5)), ((56, 98), (4, 7)), ((32, 45), (2, 3))):
        found = backbone(beside, batch(size))
        assert found["block0"].shape == found["block3"].shape == (2, *grid, 64)
        assert found["class_feature"].shape == (2, 32)
        assert all(np.isfinite(value).all() for value in found.values())


def test_strides_and_channels_of_a_frozen_backbone_are_those_of_its_taps():
    backbone = FrozenBackbone("wide_resnet50_2", "random", ("layer3", "layer1"))
    assert (backbone.strides, backbone.channels) == ((16, 4), (1024, 256))
    backbone = FrozenBackbone("clip_vit_b16", "random", ("block2", "block11"))
    assert (backbone.strides, backbone.channels) == ((16, 16), (768, 768))


def test_options_replace_fields_of_the_architecture():
    assert backbones.architecture("clip_vit_b32").activation == "quick_gelu"
    changed = backbones.architecture("clip_vit_b32", {"activation": "gelu"})
    assert dataclasses.replace(changed, activation="quick_gelu") == backbones.architecture("clip_vit_b32")
    options = (("blocks", (1, 1, 1, 1)),)
    shallow, taps = FrozenBackbone("resnet18", "random", ("layer1",), options=options), ("layer1",)
    assert "layer1_1" not in shallow.init(jax.random.key(0))["params"]["backbone"]
    weights = {key: value for key, value in state_dict("resnet18", taps).items() if not key.startswith("layer1.1")}
    assert shallow(shallow.from_torch(weights), batch())["layer1"].shape == (2, 12, 16, 64)
    with pytest.raises(UserError, match=r"weights of resnet18: no entry 'layer1\.1"):
        FrozenBackbone("resnet18", "random", taps).from_torch(weights)


@pytest.mark.slow
def test_the_activation_of_clip_is_an_option():
    quick, exact = (
        FrozenBackbone("clip_vit_nano14", "random", ("block3",), options=(("activation", name),))
        for name in ("quick_gelu", "gelu")
    )
    variables = quick.init(jax.random.key(0))
    difference = np.abs(quick(variables, batch())["block3"] - exact(variables, batch())["block3"])
    assert 1e-4 < np.max(difference) < 0.5


@smallest
def test_published_names_lead_to_the_variables_that_the_network_has(name, taps):
    own = state_dict(name, taps)
    variables = backbones.from_torch(name, own, taps=taps)
    expected, _ = shapes(backbones.create(name, taps))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    if not name.startswith("clip_"):  # the names of CLIP have tests of their own
        for key, value in backbones.to_torch(variables).items():
            np.testing.assert_array_equal(value, own[key])
    two = {f"teacher.{key}": value for key, value in own.items()} | {key: value + 1 for key, value in own.items()}
    under = FrozenBackbone(name, "random", taps).from_torch(two, "teacher.")
    jax.tree.map(np.testing.assert_array_equal, under, {c: {"backbone": tree} for c, tree in variables.items()})


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_every_other_family_and_size_are_refused_by_name(name):
    for other, taps in SMALLEST.items():
        if other != name:
            with pytest.raises(UserError, match=rf"^weights of {name}: .*weights of another network"):
                backbones.from_torch(name, state_dict(other, taps))


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("other", SMALLEST)
def test_a_weight_file_is_loaded_by_its_own_network_and_refused_by_others(name, other, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(state_dict(other, SMALLEST[other]), path)
    backbone = FrozenBackbone(name, str(path), SMALLEST[name])
    if name == other:
        loaded = backbone.init(jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, loaded, backbone.from_torch(state_dict(other, SMALLEST[other])))
    else:
        with pytest.raises(UserError, match=r"weights\.safetensors: "):
            backbone.init(jax.random.key(0))


def test_a_clip_of_another_size_is_refused_with_the_size_and_the_remedy(tmp_path):
    save_file(state_dict("clip_vit_nano14", ("block1", "class_feature")), tmp_path / "nano.safetensors")
    message = r"nano\.safetensors: the image tower's width is 64, expected 768: set config\.backbone\.name"
    with pytest.raises(UserError, match=message):
        backbones.load("clip_vit_b16", str(tmp_path / "nano.safetensors"), ("block1",))


def test_weights_deeper_than_the_taps_are_ignored_and_counters_may_be_missing():
    whole = state_dict("resnet18", ("logits",))
    with_counters = {**whole, "bn1.num_batches_tracked": np.int64(3)}
    shallow = {key: value for key, value in whole.items() if not key.startswith(("layer2", "layer3", "layer4", "fc"))}
    taps = ("layer1",)
    cut = backbones.from_torch("resnet18", shallow, taps=taps)
    full = backbones.from_torch("resnet18", with_counters, taps=taps)
    jax.tree.map(np.testing.assert_array_equal, cut, full)


def test_prefixed_weights_are_named_in_full():
    weights = {f"teacher.{key}": value for key, value in state_dict("resnet18", ("stem",)).items()}
    with pytest.raises(UserError, match=r"resnet18: no entry 'teacher\.layer1\.0\.bn1\.running_mean'"):
        backbones.from_torch("resnet18", weights, taps=("layer1",), prefix="teacher.")


def test_weights_of_another_shape_are_refused_with_both_shapes():
    weights = {**state_dict("resnet18", ("layer1",)), "layer1.0.conv2.weight": np.zeros((64, 64, 1, 1))}
    message = r"'layer1\.0\.conv2\.weight' has shape \(64, 64, 1, 1\), expected \(64, 64, 3, 3\)"
    with pytest.raises(UserError, match=message):
        backbones.from_torch("resnet18", weights, taps=("layer1",))


def test_timm_and_package_names_of_an_efficientnet_give_the_same_variables():
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    expanded = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    expanded |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0"}
    names |= {f"blocks.0.0.{timm}": f"_blocks.0.{package}" for timm, package in plain.items()}
    for i in (0, 1):
        names |= {f"blocks.1.{i}.{timm}": f"_blocks.{i + 1}.{package}" for timm, package in expanded.items()}

    taps = ("stage1",)
    timm, package = state_dict("efficientnet_lite0", taps), {}
    for key, value in timm.items():
        module, _, kind = key.rpartition(".")
        package[f"{names[module]}.{kind}"] = value
    both = [backbones.from_torch("efficientnet_lite0", weights, taps=taps) for weights in (timm, package)]
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.slow
def test_frozen_padding_differs_only_where_a_halving_is_odd():
    """380 halves to 95: any image is then padded as if its size were odd there, from stage 2 on."""
    taps = ("stage1", "stage2")
    module = backbones.create("efficientnet_lite0", taps)
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    variables = module.init(jax.random.key(1), images)
    dynamic, frozen = (net.apply(variables, images) for net in (module, module.clone(padding_from=380)))
    np.testing.assert_array_equal(dynamic["stage1"], frozen["stage1"])
    assert np.max(np.abs(dynamic["stage2"] - frozen["stage2"])) > 0.02 * np.max(np.abs(dynamic["stage2"]))


def test_normalization_is_what_the_weights_were_trained_with():
    mean, std = backbones.normalization("efficientnet_lite0")
    assert [(value / 255 - mean[0]) / std[0] for value in (127, 255)] == pytest.approx([0, 1])
    for name in ("resnet18", "efficientnet_b4"):
        assert backbones.normalization(name)[0] == (0.485, 0.456, 0.406)
    assert backbones.normalization("clip_vit_b32")[1] == pytest.approx((0.2686, 0.2613, 0.2758), abs=1e-4)


def test_unknown_networks_are_answered_with_near_ones():
    for ask in (backbones.channels, backbones.taps, backbones.normalization):
        with pytest.raises(UserError, match=r"unknown backbone 'wide_resnet50'.*'wide_resnet50_2'"):
            ask("wide_resnet50")
    with pytest.raises(UserError, match=r"unknown backbone 'clip_vit_l14-336'.*'clip_vit_l14_336'"):
        backbones.create("clip_vit_l14-336", ("block0",))


@pytest.mark.parametrize("name", NAMES)
def test_unknown_taps_are_answered_with_those_that_the_network_has(name):
    deepest = backbones.taps(name)[-1]
    with pytest.raises(UserError, match=rf"backbone {name} has no tap '{deepest}x'; it has .*{deepest}.*'{deepest}'"):
        backbones.create(name, (backbones.taps(name)[0], f"{deepest}x"))
    with pytest.raises(UserError, match=rf"backbone {name}: no taps given; it has .*{deepest}"):
        backbones.create(name, ())


def config_with(fields: dict):
    config = config_patchcore.get_config()
    config.update_from_flattened_dict(fields)
    return config


def test_a_config_describes_a_frozen_backbone():
    backbone = {"name": "clip_vit_b16", "weights": "random", "taps": ("block3", "block7")}
    config = config_with({"dtype": "bfloat16", **{f"backbone.{name}": value for name, value in backbone.items()}})
    found = frozen_backbone(config, also=("class_feature",), position_resize="bilinear", activation="gelu")
    options = (("activation", "gelu"), ("position_resize", "bilinear"))
    taps = ("block3", "block7", "class_feature")
    assert found == FrozenBackbone("clip_vit_b16", "random", taps, "bfloat16", options)
    assert hash(found) == hash(dataclasses.replace(found))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("backbone.name", "resnet19", "config.backbone.name is 'resnet19'; expected one of .*mean 'resnet18'"),
        ("backbone.taps", ("layer2", "layer_3"), "config.backbone.taps has 'layer_3'; wide_resnet50_2 has .*'layer3'"),
        ("backbone.taps", ("logits",), "config.backbone.taps has 'logits'; wide_resnet50_2 has stem"),
        ("backbone.taps", (), "config.backbone.taps is empty; wide_resnet50_2 has stem"),
        ("dtype", "float16", "config.dtype is 'float16'; expected one of float32, bfloat16"),
    ],
)
def test_wrong_fields_of_a_backbone_are_named(field, value, message):
    with pytest.raises(UserError, match=message):
        frozen_backbone(config_with({field: value}))


def test_importing_the_package_does_not_import_flax():
    code = "import sys, jaxad.backbones; assert not {'flax', 'jax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
