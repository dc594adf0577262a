"""UniAD against the benchmark's and the official code, and its stage by itself."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import jaxad
from configs import uniad as config_uniad
from jaxad.backbones.frozen import FrozenBackbone
from jaxad.errors import UserError
from jaxad.methods import uniad
from jaxad.methods.uniad import UniAD, torch_name
from jaxad.nn.torch_layout import to_state_dict
from jaxad.nn.transformer import neighbour_mask, sine_position
from tests import runs
from tests.data.raw import elpv, magnetic_tile
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, make, nhwc, run_steps

ADER, OFFICIAL = config_uniad.get_config(), config_uniad.get_config("magnetic_tile,official")


@dataclass(frozen=True)
class FedUniAD(UniAD):
    """UniAD that is given the noise in place of the key, in the reference's order of axes."""

    def noise(self, key, shape):
        return key.transpose(1, 0, 2).reshape(shape)


def from_config(config, case: Case) -> FedUniAD:
    """The method of a config with the fixture's sizes."""
    s = case.settings
    rows, columns = s["feature_size"]
    side, other = s["neighbor_size"]
    assert side == other
    return make(
        config,
        FedUniAD,
        input_size=(16 * rows, 16 * columns),
        neighbor_size=side,
        width=s["hidden_dim"],
        heads=s["nhead"],
        encoder_layers=s["num_encoder_layers"],
        decoder_layers=s["num_decoder_layers"],
        feedforward=s["dim_feedforward"],
        position=s["pos_embed"],
        **{name: s[name] for name in ("dropout", "jitter_scale") if name in s},
    )


def variables_of(method: UniAD, case: Case) -> dict:
    """The fixture's weights; those of the backbone are missing where the fixture holds features."""
    if any(key.startswith("net_backbone.") for key in case.state_dict):
        return method.from_torch(case.state_dict)
    return {**method.transformer_from_torch(case.state_dict), "batch_stats": {}}


def features_of(method: UniAD, variables, case: Case):
    if "features" in case.inputs:
        return nhwc(case.inputs["features"])
    return jax.jit(method.features)(variables, {"image": nhwc(case.inputs["imgs"])})


def forward(method: UniAD, variables, features) -> dict:
    """The fixtures' outputs behind the backbone, in the reference's order of axes."""

    @jax.jit
    def outputs(variables, features):
        tokens = features.reshape(len(features), -1, features.shape[-1])
        found: Any = method.transformer.apply({"params": variables["params"]["transformer"]}, tokens)
        rebuilt, layers = found
        maps = method.maps(variables, features, method.input_size)
        return {
            **{name: layer.swapaxes(0, 1) for name, layer in layers.items() if layer.ndim == 3},
            "pos_learned": layers["position"],
            "feature_rec": rebuilt.reshape(features.shape).transpose(0, 3, 1, 2),
            "merge": features.transpose(0, 3, 1, 2),
            "loss": jnp.mean(jnp.square(rebuilt - tokens)),
            "anomaly_map": maps,
            "image_score": method.score(maps),
            "image_score_nopool": jnp.max(maps, (1, 2)),
        }

    return jax.device_get(outputs(variables, features))


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("uniad", "core"))
def test_transformer_equals_the_reference(path):
    case = load(path)
    method = from_config(OFFICIAL, case)
    rows, columns = method.grid
    variables = variables_of(method, case)
    blocked = neighbour_mask(method.grid, method.neighbourhood)
    masks = {
        "mask_blocked_per_query": blocked.sum(1),
        "mask_rows": blocked[[0, rows // 2 * columns + columns // 2]],
        "pos_sine": sine_position(method.grid, method.width),
    }
    check_all(case, {**forward(method, variables, features_of(method, variables, case)), **masks})


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("uniad", "forward"))
def test_forward_equals_the_reference(path):
    case = load(path)
    method = from_config(ADER, case)
    variables = variables_of(method, case)
    batch = {"image": nhwc(case.inputs["imgs"])}
    taps = jax.device_get(jax.jit(method.backbone)(variables, batch["image"]))
    got = forward(method, variables, features_of(method, variables, case))
    named = {f"backbone{i}": taps[tap].transpose(0, 3, 1, 2) for i, tap in enumerate(method.backbone.taps)}
    check_all(case, {**got, **named})
    prediction = jax.jit(method.predict)(variables, batch)
    np.testing.assert_allclose(prediction.map, got["anomaly_map"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.score, got["image_score"], rtol=1e-5)


def norms(tree, keys) -> list:
    """Lengths of the transformer's arrays, by the reference's names."""
    named = to_state_dict({"params": tree}, torch_name)
    return [np.linalg.norm(named[key]) for key in keys]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "config"),
    [
        pytest.param(*param.values, config, id=param.id, marks=param.marks)
        for kind, config in (("train_ader", ADER), ("train_official", OFFICIAL))
        for param in cases("uniad", kind)
    ],
)
def test_training_steps_equal_the_reference(path, config):
    case = load(path)
    method = from_config(config, case)
    variables = variables_of(method, case)
    features, keys = features_of(method, variables, case), case.settings["grad_keys"]
    (stage,) = method.stages()
    noise = [jnp.asarray(case.inputs[f"jitter{i}"]) for i in range(len(case.expected["losses"]))]
    after, log = run_steps(stage, variables, [{"features": features}] * (len(noise) - 1), noise[:-1])
    last, _ = jax.jit(stage.loss)(after, {"features": features}, noise[-1])
    gradients = traverse_util.unflatten_dict(log[0]["gradients"], sep="/")
    end = forward(method, after, features)
    outputs = {
        "losses": [*(entry["loss"] for entry in log), last],
        "grad_norm": norms(gradients, keys),
        "total_grad_norm": [optax.global_norm(entry["gradient_norms"]) for entry in log],
        "param_norm_after": norms({"transformer": after["params"]["transformer"]}, keys),
        "anomaly_map_after": end["anomaly_map"],
        "image_score_after": end["image_score"],
    }
    check_all(case, outputs)


SMALL = {
    "backbone.name": "resnet18",
    "backbone.weights": "random",
    "backbone.taps": ("layer1", "layer3"),
    "input.size": (64, 64),
    "model.width": 16,
    "model.heads": 2,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.feedforward": 32,
}


def small(dtype: str = "float32", **changes) -> UniAD:
    """UniAD on a 4x4 grid of two taps, with a neighbourhood of 2x2 tokens."""
    config = config_uniad.get_config()
    config.update_from_flattened_dict({**SMALL, "dtype": dtype})
    return make(config, UniAD, **changes)


@pytest.fixture(scope="module")
def started():
    method = small()
    variables = {**jax.jit(method.init_transformer)(jax.random.key(0)), "batch_stats": {}}
    features = jax.random.normal(jax.random.key(1), (4, 4, sum(method.backbone.channels)))
    return variables, jnp.stack([features] * 4)


def test_some_steps_bring_the_reconstruction_nearer_to_the_clean_features(started):
    variables, features = started
    (stage,) = small(learning_rate=3e-3).stages()
    keys = list(jax.random.split(jax.random.key(2), 60))
    after, log = run_steps(stage, variables, [{"features": features}] * 60, keys)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    maps = [jax.jit(small().maps, static_argnums=2)(v, features, (64, 64)) for v in (variables, after)]
    assert maps[0].shape == (4, 64, 64)
    assert jnp.mean(maps[1]) < jnp.mean(maps[0])


def test_training_draws_jitter_and_dropout_from_its_key_alone(started):
    variables, features = started
    losses = {}
    for name, method in {
        "both": small(),
        "no jitter": small(jitter_scale=0.0),
        "no dropout": small(dropout=0.0),
    }.items():
        loss = jax.jit(method.loss)
        losses[name] = [float(loss(variables, {"features": features}, jax.random.key(i))[0]) for i in (0, 0, 1)]
    for first, again, other in losses.values():
        assert first == again != other
    assert len({values[0] for values in losses.values()}) == 3


def test_jitter_is_in_proportion_to_the_token_and_not_in_the_target(started):
    variables, features = started
    tokens = jnp.concatenate([jnp.ones((2, 500, 8)), 3 * jnp.ones((2, 500, 8))])
    noise = small(jitter_scale=20.0).jitter(tokens, jax.random.key(0)) - tokens
    np.testing.assert_allclose(jnp.std(noise, (1, 2)), 20 * 8**-0.5 * np.array([1, 1, 3, 3]), rtol=0.05)
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["transformer"])
    zero = {**variables, "params": {**variables["params"], "transformer": silent}}
    loss, _ = jax.jit(small().loss)(zero, {"features": features}, jax.random.key(0))
    np.testing.assert_allclose(loss, jnp.mean(jnp.square(features)), rtol=1e-5)


def test_no_token_sees_its_neighbourhood(started):
    variables, features = started
    blocked = neighbour_mask((4, 4), (2, 2))
    assert blocked.sum() == 4 * 4 + 8 * 6 + 4 * 9

    @jax.jit
    def encoded(tokens):
        found: Any = small().transformer.apply({"params": variables["params"]["transformer"]}, tokens)
        return found[1]["enc0"]

    tokens = features.reshape(4, 16, -1)[:1]
    moved = encoded(tokens.at[0, 5].add(1.0)) - encoded(tokens)
    changed = np.abs(np.asarray(moved)[0]).max(-1) > 1e-6
    np.testing.assert_array_equal(changed, ~blocked[5] | (np.arange(16) == 5))


def test_learning_rate_is_a_tenth_after_four_fifths_of_the_steps():
    method = small(epochs=5, batch_size=10, weight_decay=0.0)
    (stage,) = method.stages()
    steps, parameters = stage.total_steps(20), {"transformer": {"kernel": jnp.ones((2, 2))}}
    optimizer = stage.optimizer(steps)
    state, sizes = optimizer.init(parameters), []
    for _ in range(steps):
        changes, state = optimizer.update(parameters, state, parameters)
        sizes.append(-float(changes["transformer"]["kernel"][0, 0]))
    np.testing.assert_allclose(sizes, [1e-4] * 8 + [1e-5] * 2, rtol=1e-3)


def test_image_score_is_of_the_pooled_map_or_of_the_whole():
    maps = jnp.zeros((1, 32, 32)).at[0, 3, 4].set(256.0)
    scores = {name: float(small(image_score=name).score(maps)[0]) for name in ("max", "mean", "std")}
    assert scores == pytest.approx({"max": 1.0, "mean": 0.25, "std": float(np.std(maps))})


def test_biases_decay_in_the_official_variant_only():
    """With a gradient of 0, weight decay is all that moves a parameter."""
    parameters = {"transformer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    zero, moved = jax.tree.map(jnp.zeros_like, parameters), []
    for config in (ADER, OFFICIAL):
        optimizer = make(config, UniAD, learning_rate=0.1, weight_decay=0.5).optimizer(10)
        changes, _ = optimizer.update(zero, optimizer.init(parameters), parameters)
        moved.append([float(jnp.min(changes["transformer"][leaf])) for leaf in ("kernel", "bias")])
    np.testing.assert_allclose(moved, [[-0.05, 0], [-0.05, -0.05]], rtol=1e-6)


def test_bfloat16_changes_neither_parameters_nor_losses_nor_predictions_much():
    image = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables, steps, predictions = {}, {}, {}
    for dtype in ("float32", "bfloat16"):
        backbone = FrozenBackbone("resnet18", "random", ("stem", "maxpool"), dtype)
        method = small(dtype, backbone=backbone, input_size=(16, 16), neighbor_size=2, learning_rate=1e-3)
        (stage,) = method.stages()
        variables = variables or jax.jit(method.init)(jax.random.key(1))
        features = jax.jit(method.features)(variables, {"image": image})
        assert features.dtype == jnp.float32
        after, steps[dtype] = run_steps(stage, variables, [{"features": features}], [jax.random.key(2)])
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}
        predictions[dtype] = jax.jit(method.predict)(after, {"image": image})
    half, single = (steps[dtype][0]["loss"] for dtype in ("bfloat16", "float32"))
    assert half.dtype == np.float32
    assert np.isfinite(half)
    assert half != single
    assert half == pytest.approx(single, rel=0.02)
    for half, single in zip(predictions["bfloat16"], predictions["float32"], strict=True):
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, single, rtol=0.1)


@pytest.mark.parametrize("position", ["learned", "sine"])
def test_bfloat16_is_the_type_of_every_layer_of_the_transformer(started, position):
    _, features = started
    method = small("bfloat16", position=position)
    params = {"params": method.init_transformer(jax.random.key(0))["params"]["transformer"]}
    how = {"train": True, "rngs": {"dropout": jax.random.key(1)}}
    rebuilt, layers = jax.eval_shape(lambda x: method.transformer.apply(params, x, **how), features.reshape(4, 16, -1))
    assert rebuilt.dtype == jnp.float32
    found = {name: str(layers[name].dtype) for name in ("input_proj", "enc0", "dec0")}
    assert found == {"input_proj": "bfloat16", "enc0": "bfloat16", "dec0": "bfloat16"}


@pytest.mark.slow
def test_one_model_for_two_data_sets_reports_each_category(tmp_path, capsys):
    elpv(tmp_path / "raw" / "elpv")
    magnetic_tile(tmp_path / "raw" / "tiles")
    settings = {
        **SMALL,
        "train.epochs": 1,
        "train.batch_size": 4,
        "evaluation.batch_size": 4,
        "dataset.manual_dir": str(tmp_path / "raw"),
        "dataset.data_dir": str(tmp_path / "data"),
    }
    config = jaxad.load_config(f"{runs.ROOT}/configs/uniad.py:elpv+magnetic_tile", settings)
    with pytest.warns(RuntimeWarning, match="without mono, poly"):
        results = jaxad.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "multi_class" / "checkpoints").is_dir()
    assert [r.category for r in results] == ["mono", "poly", "magnetic_tile"]
    assert [("AUPRO" in r.metrics, "I-AUROC" in r.metrics) for r in results] == [(False, True)] * 2 + [(True, True)]
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mean"))
    assert mean.split("|")[-2].strip() == f"{100 * results[2].metrics['AUPRO']:.1f}"
    assert float(mean.split("|")[2]) == pytest.approx(100 * np.mean([r.metrics["I-AUROC"] for r in results]), abs=0.051)


def test_the_neighbourhood_is_one_of_32_pixels_unless_it_is_given():
    assert uniad.create(ADER, ("parts",)).neighbourhood == (8, 8)
    assert uniad.create(OFFICIAL, ("parts",)).neighbourhood == (7, 7)
    assert small(input_size=(64, 128)).neighbourhood == (2, 4)
    assert small(neighbor_size=3).neighbourhood == (3, 3)


def test_variants_hold_the_settings_of_the_two_codes():
    ader, official = (uniad.create(config, ("parts",)) for config in (ADER, OFFICIAL))
    sizes = [(m.grid, m.width, m.heads, m.encoder_layers, m.decoder_layers, m.feedforward) for m in (ader, official)]
    assert sizes == [((16, 16), 256, 8, 4, 4, 1024), ((14, 14), 256, 8, 4, 4, 1024)]
    assert [(m.epochs, m.drop_last, m.decay_biases, m.clip_norm) for m in (ader, official)] == [
        (100, True, False, 5.0),
        (1000, False, True, 0.1),
    ]
    lite = uniad.create(config_uniad.get_config("magnetic_tile,lite"), ("parts",))
    assert (lite.backbone.channels, lite.backbone.strides) == ((16, 24, 40, 112), (2, 4, 8, 16))
    assert lite.normalization[0] == (127 / 255,) * 3


def test_a_checkpoint_of_something_else_is_refused():
    with pytest.raises(UserError, match=r"weights of UniAD: no entry 'net_ad\."):
        small().transformer_from_torch({"net_ad.input_proj.weight": np.ones((16, 320), np.float32)})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.neighbor_size", 40, "config.model.neighbor_size is 40.*16x16 tokens nothing to look at"),
        ("input.size", (16, 16), "config.model.neighbor_size is None.*1x1 tokens nothing to look at"),
        ("model.width", 250, "config.model.width is 250; expected a multiple of 4 and of config.model.heads, 8"),
        ("model.width", 12, "config.model.width is 12; expected a multiple of 4 and of config.model.heads, 8"),
        ("model.heads", 3, "config.model.width is 256; expected a multiple of 4 and of config.model.heads, 3"),
    ],
)
def test_values_that_do_not_fit_each_other_name_their_fields(field, value, message):
    config = config_uniad.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        uniad.create(config, ("parts",))
