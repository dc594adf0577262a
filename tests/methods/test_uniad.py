"""UniAD against the benchmark's and the official code, and its stage by itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from configs import uniad as config_ader
from configs import uniad_official as config_official
from jaxad.methods import uniad
from jaxad.methods.uniad import Transformer, UniAD, torch_name
from jaxad.nn.torch_layout import to_state_dict
from jaxad.nn.transformer import neighbour_mask, sine_position
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
        rebuilt, layers = method.transformer.apply({"params": variables["params"]["transformer"]}, tokens)
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
