"""UniAD against the benchmark's and the official code, and its stage by itself."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import jaxad
from configs import uniad as config_ader
from configs import uniad_official as config_official
from jaxad import training
from jaxad.backbones.frozen import FrozenBackbone
from jaxad.checkpoint import Checkpoints
from jaxad.errors import UserError
from jaxad.methods import uniad
from jaxad.methods.uniad import Transformer, UniAD, torch_name
from jaxad.nn.torch_layout import to_state_dict
from jaxad.nn.transformer import neighbour_mask, sine_position
from tests import runs
from tests.data.raw import elpv, magnetic_tile
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, nhwc, run_steps


@dataclasses.dataclass(frozen=True)
class FedUniAD(UniAD):
    """UniAD that takes the place of the key for the noise, in the reference's order of axes."""

    def noise(self, key, shape):
        return key.transpose(1, 0, 2).reshape(shape)


def from_config(config, case: Case) -> FedUniAD:
    """The method of a config file, with the fixture's sizes."""
    s = case.settings
    method = uniad.create(config)
    sizes = Transformer(
        tuple(s["feature_size"]),
        tuple(s["neighbor_size"]),
        width=s["hidden_dim"],
        heads=s["nhead"],
        encoder_layers=s["num_encoder_layers"],
        decoder_layers=s["num_decoder_layers"],
        feedforward=s["dim_feedforward"],
        dropout=s.get("dropout", method.transformer.dropout),
        position=s["pos_embed"],
    )
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return FedUniAD(**{**fields, "transformer": sizes})


def variables_of(method: UniAD, case: Case) -> dict:
    """The fixture's weights; fixtures on fed features have none of the backbone."""
    if any(key.startswith("net_backbone.") for key in case.state_dict):
        return method.from_torch(case.state_dict)
    return {**method.transformer_from_torch(case.state_dict), "batch_stats": {}}


def features_of(method: UniAD, variables, case: Case):
    if "features" in case.inputs:
        return nhwc(case.inputs["features"])
    return jax.jit(method.features)(variables, {"image": nhwc(case.inputs["imgs"])})


def forward(method: UniAD, variables, features, size) -> dict:
    """The fixtures' outputs behind the backbone, in the reference's order of axes."""

    @jax.jit
    def outputs(variables, features):
        tokens = features.reshape(len(features), -1, features.shape[-1])
        found: Any = method.transformer.apply({"params": variables["params"]["transformer"]}, tokens)
        rebuilt, layers = found
        maps = method.maps(variables, features, size)
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
    method = from_config(config_official.get_config(), case)
    grid, width = method.transformer.grid, method.transformer.width
    variables = variables_of(method, case)
    blocked = neighbour_mask(grid, method.transformer.neighbor_size)
    got = forward(method, variables, features_of(method, variables, case), (16 * grid[0], 16 * grid[1]))
    masks = {
        "mask_blocked_per_query": blocked.sum(1),
        "mask_rows": blocked[[0, grid[0] // 2 * grid[1] + grid[1] // 2]],
        "pos_sine": sine_position(grid, width),
    }
    check_all(case, {**got, **masks})


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("uniad", "forward"))
def test_forward_equals_the_reference(path):
    case = load(path)
    method = from_config(config_ader.get_config(), case)
    variables = variables_of(method, case)
    batch = {"image": nhwc(case.inputs["imgs"])}
    taps = jax.device_get(jax.jit(method.backbone)(variables, batch["image"]))
    got = forward(method, variables, features_of(method, variables, case), batch["image"].shape[1:3])
    named = {f"backbone{i}": taps[tap].transpose(0, 3, 1, 2) for i, tap in enumerate(method.backbone.taps)}
    check_all(case, {**got, **named})
    prediction = jax.jit(method.predict)(variables, batch)
    np.testing.assert_allclose(prediction.map, got["anomaly_map"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.score, got["image_score"], rtol=1e-5)


def norms(tree, keys) -> list:
    """Of the transformer's arrays under the reference's names."""
    named = to_state_dict({"params": tree}, torch_name)
    return [np.linalg.norm(named[key]) for key in keys]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "config"),
    [
        pytest.param(*param.values, config, id=param.id, marks=param.marks)
        for kind, config in (("train_ader", config_ader), ("train_official", config_official))
        for param in cases("uniad", kind)
    ],
)
def test_training_steps_equal_the_reference(path, config):
    case = load(path)
    method = from_config(config.get_config(), case)
    variables = variables_of(method, case)
    features, keys = features_of(method, variables, case), case.settings["grad_keys"]
    (stage,) = method.stages(10_000)
    noise = [jnp.asarray(case.inputs[f"jitter{i}"]) for i in range(len(case.expected["losses"]))]
    after, log = run_steps(stage, variables, [{"features": features}] * (len(noise) - 1), noise[:-1])
    last, _ = jax.jit(stage.loss)(after, {"features": features}, noise[-1])
    gradients = [traverse_util.unflatten_dict(e["gradients"], sep="/") for e in log]
    grid = method.transformer.grid
    end = forward(method, after, features, (16 * grid[0], 16 * grid[1]))
    outputs = {
        "losses": [*(entry["loss"] for entry in log), last],
        "grad_norm": norms(gradients[0], keys),
        "total_grad_norm": [optax.global_norm(g) for g in gradients],
        "param_norm_after": norms({"transformer": after["params"]["transformer"]}, keys),
        "anomaly_map_after": end["anomaly_map"],
        "image_score_after": end["image_score"],
    }
    check_all(case, outputs)


def small(**changes) -> UniAD:
    """On a 4x4 grid of two taps."""
    sizes = Transformer((4, 4), (2, 2), width=16, heads=2, encoder_layers=1, decoder_layers=1, feedforward=32)
    backbone = FrozenBackbone("resnet18", "random", ("layer1", "layer3"))
    return UniAD(backbone, sizes, **{"epochs": 2, "batch_size": 4, **changes})


@pytest.fixture(scope="module")
def started():
    method = small()
    variables = {**jax.jit(method.init_transformer)(jax.random.key(0)), "batch_stats": {}}
    features = jax.random.normal(jax.random.key(1), (4, 4, sum(method.backbone.channels)))
    return variables, jnp.stack([features] * 4)


def test_some_steps_bring_the_reconstruction_nearer_to_the_clean_features(started):
    variables, features = started
    (stage,) = small(learning_rate=3e-3).stages(1000)
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
        "no dropout": dataclasses.replace(small(), transformer=small().transformer.clone(dropout=0.0)),
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
    (stage,) = method.stages(20)
    parameters = {"transformer": {"kernel": jnp.ones((2, 2))}}
    state, sizes = stage.optimizer.init(parameters), []
    for _ in range(stage.total_steps(20)):
        changes, state = stage.optimizer.update(parameters, state, parameters)
        sizes.append(-float(changes["transformer"]["kernel"][0, 0]))
    np.testing.assert_allclose(sizes, [1e-4] * 8 + [1e-5] * 2, rtol=1e-3)


def test_image_score_is_of_the_pooled_map_or_of_the_whole():
    maps = jnp.zeros((1, 32, 32)).at[0, 3, 4].set(256.0)
    scores = {name: float(small(image_score=name).score(maps)[0]) for name in ("max", "mean", "std")}
    assert scores == pytest.approx({"max": 1.0, "mean": 0.25, "std": float(np.std(maps))})


class Interrupted(Exception):
    pass


@pytest.mark.slow
def test_one_model_for_two_data_sets_reports_each_category_and_resumes_to_the_same_bits(tmp_path, monkeypatch, capsys):
    elpv(tmp_path / "raw" / "elpv")
    magnetic_tile(tmp_path / "raw" / "tiles")
    settings = {
        "backbone.name": "resnet18",
        "backbone.weights": "random",
        "backbone.taps": ("layer1", "layer3"),
        "input.size": (64, 64),
        "model.width": 16,
        "model.heads": 2,
        "model.encoder_layers": 1,
        "model.decoder_layers": 1,
        "train.epochs": 3,
        "train.batch_size": 4,
        "evaluation.batch_size": 4,
        "checkpoint.every_steps": 2,
        "dataset.manual_dir": str(tmp_path / "raw"),
        "dataset.data_dir": str(tmp_path / "data"),
    }
    config = jaxad.load_config(f"{runs.ROOT}/configs/uniad.py:elpv+magnetic_tile", settings)
    mixed, step = [], training.LossWatch.add

    def watch(self, progress, index, metrics):
        mixed.append({self.source.split.categories[i] for i in index})
        step(self, progress, index, metrics)

    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning, match="without mono, poly"):
        patch.setattr(training.LossWatch, "add", watch)
        whole = jaxad.run(config, tmp_path / "whole")
    assert max(map(len, mixed)) > 1
    assert [r.category for r in whole] == ["mono", "poly", "magnetic_tile"]
    assert [("AUPRO" in r.metrics, "I-AUROC" in r.metrics) for r in whole] == [(False, True)] * 2 + [(True, True)]
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| mean"))
    assert mean.split("|")[-2].strip() == f"{100 * whole[2].metrics['AUPRO']:.1f}"
    assert float(mean.split("|")[2]) == pytest.approx(100 * np.mean([r.metrics["I-AUROC"] for r in whole]), abs=0.051)

    save = Checkpoints.save

    def save_and_stop(self, variables, state, progress):
        save(self, variables, state, progress)
        if progress.step == 4:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoints, "save", save_and_stop)
        jaxad.run(config, tmp_path / "resumed")
    with pytest.warns(RuntimeWarning, match="without mono, poly"):
        resumed = jaxad.run(config, tmp_path / "resumed")
        again = jaxad.run(config, tmp_path / "whole", mode="evaluate")
    ends = [
        Checkpoints(tmp_path / name / "multi_class" / "checkpoints", read_only=True).restore()[0]
        for name in ("whole", "resumed")
    ]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    for results in (resumed, again):
        assert [r.metrics for r in results] == [r.metrics for r in whole]


def test_checkpoint_of_something_else_is_refused():
    with pytest.raises(UserError, match=r"weights of UniAD: no entry 'net_ad\."):
        small().transformer_from_torch({"net_ad.input_proj.weight": np.ones((16, 320), np.float32)})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.image_score", "maximum", "expected one of max, mean, std"),
        ("model.position", "sinus", "expected one of learned, sine. Did you mean 'sine'"),
        ("model.neighbor_size", 40, "config.model.neighbor_size is 40.*16x16 tokens nothing to look at"),
        ("model.width", 250, "config.model.width is 250; expected a multiple of 4 and of config.model.heads, 8"),
        ("model.dropout", 1.0, "config.model.dropout is 1.0; expected a number of at least 0 and at most 0.99"),
        ("train.learning_rate_drop", 1.5, "config.train.learning_rate_drop is 1.5"),
        ("train.epochs", 0, "config.train.epochs is 0; expected a whole number of at least 1"),
    ],
)
def test_wrong_config_values_name_the_field(field, value, message):
    config = config_ader.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        uniad.create(config)
