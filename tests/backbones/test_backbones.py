import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import backbones
from jaxad.errors import UserError


def shapes(module, size=(64, 64)):
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return variables, jax.eval_shape(module.apply, variables, images)


def state_dict(name, taps):
    """Random weights of the network, by their PyTorch names."""
    variables, _ = shapes(backbones.create(name, taps))
    random = np.random.default_rng(0)
    return {key: random.normal(size=value.shape) for key, value in backbones.to_torch(zeros(variables)).items()}


def zeros(tree):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("name", backbones.NAMES)
def test_taps_have_the_stated_strides_and_channels(name):
    stated = backbones.channels(name)
    _, taps = shapes(backbones.create(name, tuple(stated)), (224, 288))
    found = {tap: (224 // value.shape[1], 288 // value.shape[2], value.shape[3]) for tap, value in taps.items()}
    assert found == {tap: (stride, stride, width) for tap, (stride, width) in stated.items()}


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


def test_weights_deeper_than_the_taps_are_ignored_and_counters_may_be_missing():
    whole = state_dict("resnet18", ("logits",))
    with_counters = {**whole, "bn1.num_batches_tracked": np.int64(3)}
    shallow = {key: value for key, value in whole.items() if not key.startswith(("layer2", "layer3", "layer4", "fc"))}
    taps = ("layer1",)
    cut = backbones.from_torch("resnet18", shallow, taps=taps)
    full = backbones.from_torch("resnet18", with_counters, taps=taps)
    jax.tree.map(np.testing.assert_array_equal, cut, full)


def test_prefixed_weights_are_found_and_named_in_full():
    weights = {f"teacher.{key}": value for key, value in state_dict("resnet18", ("stem",)).items()}
    backbones.from_torch("resnet18", weights, taps=("stem",), prefix="teacher.")
    with pytest.raises(UserError, match=r"resnet18: no entry 'teacher\.layer1\.0\.bn1\.running_mean'"):
        backbones.from_torch("resnet18", weights, taps=("layer1",), prefix="teacher.")


def test_weights_of_another_network_are_refused_with_both_shapes():
    weights = state_dict("resnet18", ("layer1",))
    weights["layer1.0.conv2.weight"] = np.zeros((64, 64, 1, 1))
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


def test_half_precision_is_close_and_leaves_parameters_in_float32():
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    module = backbones.create("resnet18", ("layer1",), dtype="bfloat16")
    variables = module.init(jax.random.key(1), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    half = module.apply(variables, images)["layer1"]
    single = module.clone(dtype="float32").apply(variables, images)["layer1"]
    assert half.dtype == jnp.bfloat16
    assert np.max(np.abs(half - single)) < 0.05 * np.max(np.abs(single))


def test_normalization_is_what_the_weights_were_trained_with():
    mean, std = backbones.normalization("efficientnet_lite0", "package")
    assert [(value / 255 - mean[0]) / std[0] for value in (127, 255)] == pytest.approx([0, 1])
    assert backbones.normalization("resnet18", "tv_in1k")[0] == (0.485, 0.456, 0.406)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UserError, match=r"unknown backbone 'wide_resnet50'.*'wide_resnet50_2'"):
        backbones.create("wide_resnet50", ("layer2",))
    with pytest.raises(UserError, match=r"resnet18 has no tap 'layer_2'.*'layer2'"):
        backbones.create("resnet18", ("layer_2",))
    with pytest.raises(UserError, match="no taps given"):
        backbones.create("resnet18", ())


def test_importing_the_package_does_not_import_flax():
    code = "import sys, jaxad.backbones; assert not {'flax', 'jax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
