"""SimpleNet against the benchmark's and the official code, and its stage by itself."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import simplenet as config_simplenet
from jaxad.backbones.frozen import FrozenBackbone, PatchFeatures
from jaxad.errors import UserError
from jaxad.methods import simplenet
from jaxad.methods.simplenet import CANCELLED_BIASES, SimpleNet, hinge_loss
from jaxad.nn.scoring import anomaly_map, largest
from jaxad.trees import split_by_path
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, check_bfloat16, make, nhwc, run_steps

ADER, OFFICIAL = (config_simplenet.get_config(f"magnetic_tile{variant}") for variant in ("", ",official"))

OURS = {
    "pre_projection.layers.0fc.weight": "adaptor/kernel",
    "pre_projection.layers.0fc.bias": "adaptor/bias",
    "discriminator.body.block1.0.weight": "discriminator/hidden/kernel",
    "discriminator.body.block1.0.bias": "discriminator/hidden/bias",
    "discriminator.body.block1.1.weight": "discriminator/norm/scale",
    "discriminator.body.block1.1.bias": "discriminator/norm/bias",
    "discriminator.tail.weight": "discriminator/logit/kernel",
}


@dataclasses.dataclass(frozen=True)
class FedSimpleNet(SimpleNet):
    """SimpleNet that is given the noise in place of the key."""

    def noise(self, key, shape):
        return key.reshape(shape)


def patches_of(case: Case) -> PatchFeatures:
    s = case.settings
    taps = tuple(s.get("layers", ("layer2", "layer3")))
    dims = s.get("pretrain_embed_dimension", 1536), s.get("target_embed_dimension", 1536)
    return PatchFeatures(FrozenBackbone(s.get("backbone", "wide_resnet50_2"), "random", taps), *dims)


def corners(maps: np.ndarray) -> np.ndarray:
    return np.stack([maps[:, 0, 0], maps[:, 0, -1], maps[:, -1, 0], maps[:, -1, -1]], 1)[..., ::2]


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("simplenet", "forward"))
def test_forward_equals_the_reference(path):
    case = load(path)
    method = make(ADER, SimpleNet, patches=patches_of(case))
    variables = method.from_torch(case.state_dict)
    image = nhwc(case.inputs["x"])

    @jax.jit
    def outputs(variables, image):
        taps = method.patches.backbone(variables, image)
        embed = method.patches(variables, image)
        logit = method.logit(variables, embed)
        maps = anomaly_map(-logit, image.shape[1:3])
        return {
            **{name: tap.transpose(0, 3, 1, 2) for name, tap in taps.items()},
            "embed": embed,
            "proj": method.adapted(variables, embed),
            "disc": logit,
            "anomaly_map": maps,
            "anomaly_map_row0": maps,
            "image_score_patchmax": largest(-logit),
            "image_score_mapmax": largest(maps),
        }

    got = jax.device_get(outputs(variables, image))
    check_all(case, {**got, "embed_corner": corners(got["embed"])})
    for name, score in (("map_max", "image_score_mapmax"), ("patch_max", "image_score_patchmax")):
        prediction = jax.jit(dataclasses.replace(method, image_score=name).predict)(variables, {"image": image})
        np.testing.assert_allclose(prediction.map, got["anomaly_map"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(prediction.score, got[score], rtol=1e-5)


def norm(arrays: Sequence[Any]) -> float:
    """The common length of several arrays."""
    return float(np.sqrt(sum(np.sum(np.square(array)) for array in arrays)))


def trained_outputs(log: list[dict], variables, grad_keys: Sequence[str]) -> dict:
    """The fixtures' outputs of a training run."""
    groups = [
        [
            norm([g for k, g in e["gradient_norms"].items() if k.startswith(group)])
            for group in ("adaptor", "discriminator")
        ]
        for e in log
    ]
    head, statistics = variables["params"], variables["batch_stats"]["discriminator"]["norm"]
    gradients = log[0]["gradients"]
    return {
        "loss_seq": [e["loss"] for e in log],
        "loss_parts": [[e["loss_true"], e["loss_fake"]] for e in log],
        "grad_norm": [norm([gradients[OURS[key]]]) for key in grad_keys],
        "group_grad_norm": groups,
        "after_proj_weight": head["adaptor"]["kernel"].T if "adaptor" in head else None,
        "after_disc_weight": head["discriminator"]["hidden"]["kernel"].T,
        "after_tail_weight": head["discriminator"]["logit"]["kernel"].T,
        "after_bn_weight": head["discriminator"]["norm"]["scale"],
        "after_bn_running_mean": statistics["mean"],
        "after_bn_running_var": statistics["var"],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "config"),
    [
        pytest.param(*param.values, config, id=param.id, marks=param.marks)
        for kind, config in (("train_ader", ADER), ("train_official", OFFICIAL))
        for param in cases("simplenet", kind)
    ],
)
def test_training_steps_equal_the_reference(path, config):
    case = load(path)
    method = make(config, FedSimpleNet, patches=patches_of(case), cancelled_biases=True)
    variables = method.from_torch(case.state_dict)
    (stage,) = method.stages()
    assert stage.features is not None
    features = jax.jit(stage.features)(variables, {"image": nhwc(case.inputs["x"])})
    steps = case.settings["steps"]
    noise = [jnp.asarray(case.inputs[f"noise/{i}"]) for i in range(steps)]
    after, log = run_steps(stage, variables, [{"features": features}] * steps, noise)
    check_all(case, trained_outputs(log, after, case.settings.get("grad_keys", ())))


SMALL = {
    "backbone.name": "resnet18",
    "backbone.weights": "random",
    "backbone.taps": ("layer1", "layer2"),
    "model.pretrain_dim": 48,
    "model.target_dim": 64,
}


def small(dtype: str = "float32", **changes) -> SimpleNet:
    """SimpleNet on 64 features per patch of a ResNet-18."""
    config = config_simplenet.get_config()
    config.update_from_flattened_dict({**SMALL, "dtype": dtype})
    return make(config, SimpleNet, **changes)


@pytest.fixture(scope="module")
def started():
    method, image = small(), jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = method.init(jax.random.key(0))
    return variables, jax.jit(method.features)(variables, {"image": image})


def test_some_steps_tell_the_features_from_those_with_noise(started):
    variables, features = started
    (stage,) = small(sigma=0.5, discriminator_learning_rate=2e-3).stages()
    keys = list(jax.random.split(jax.random.key(2), 40))
    after, log = run_steps(stage, variables, [{"features": features}] * 40, keys)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    noisy = features + 0.5 * jax.random.normal(jax.random.key(3), features.shape)
    logit = jax.jit(small().logit)
    assert jnp.mean(logit(after, features)) > jnp.mean(logit(after, noisy)) + 0.5


def test_biases_that_batch_norm_cancels_have_no_gradient_and_are_left_out(started):
    variables, features = started
    (stage,) = small(cancelled_biases=True).stages()
    _, log = run_steps(stage, variables, [{"features": features}], [jax.random.key(3)])
    for path in CANCELLED_BIASES:
        assert np.abs(log[0]["gradients"][path]).max() < 1e-4
    assert set(trained_paths(small(), variables)) == set(OURS.values()) - set(CANCELLED_BIASES)
    assert set(trained_paths(small(cancelled_biases=True), variables)) == set(OURS.values())


def trained_paths(method: SimpleNet, variables) -> list[str]:
    (stage,) = method.stages()
    trained, frozen = split_by_path(variables["params"], stage.trainable)
    assert "backbone" in frozen
    return ["/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(trained)]


def test_noise_has_its_standard_deviation_and_is_another_in_every_step():
    method = small(sigma=0.3)
    one, other = (method.noise(jax.random.key(i), (2, 4, 4, 64)) for i in range(2))
    assert not np.array_equal(one, other)
    assert float(jnp.std(one)) == pytest.approx(0.3, rel=0.1)


def ones() -> dict:
    """Parameters of ones in the place of adaptor and discriminator."""
    return {name: {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for name in ("adaptor", "discriminator")}


@pytest.mark.parametrize(("decay_biases", "moved"), [(False, 0.0), (True, 1.0)])
def test_weight_decay_acts_on_biases_where_that_is_asked_for(decay_biases, moved):
    """With a gradient of 0, weight decay is all that moves a parameter: AdamW by its share, Adam by a whole step."""
    optimizer, params = small(decay_biases=decay_biases).optimizer(10), ones()
    changes, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for name, step in (("adaptor", 1e-4 * 0.01), ("discriminator", 2e-4)):
        np.testing.assert_allclose(changes[name]["kernel"], -step, rtol=0.01)
        np.testing.assert_allclose(changes[name]["bias"], -step * moved, rtol=0.01)


def test_gradients_of_adaptor_and_discriminator_are_clipped_each_by_itself():
    params, optimizer = ones(), small(clip_norm=0.5, discriminator_decay=0.0).optimizer(10)
    gradients = {"adaptor": params["adaptor"], "discriminator": jax.tree.map(lambda x: 0.1 * x, params["adaptor"])}
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    moments = optax.tree_utils.tree_get_all_with_path(state, "mu")
    sizes = [float(optax.global_norm(mu)) for _, mu in moments]
    np.testing.assert_allclose(sorted(sizes), [0.1 * 0.1 * 6**0.5, 0.1 * 0.5], rtol=1e-5)


def test_hinge_loss_is_zero_beyond_the_margin():
    true, fake = jnp.array([0.6, 0.5, 0.0]), jnp.array([-0.6, 0.5])
    np.testing.assert_allclose(hinge_loss(true, fake, 0.5), (0.5 / 3, 0.5))
    np.testing.assert_allclose(small(margin=0.7).loss_terms(true, fake), (1.0 / 3, 0.65), rtol=1e-6)


def test_bfloat16_is_the_type_of_the_computation_and_of_nothing_else(started):
    check_bfloat16(small, started[0], jax.random.normal(jax.random.key(4), (2, 32, 32, 3)))


def test_variants_hold_the_settings_of_the_two_codes():
    ader, official = (simplenet.create(config, ("parts",)) for config in (ADER, OFFICIAL))
    assert [(m.epochs, m.batch_size, m.drop_last, m.decay_biases, m.clip_norm) for m in (ader, official)] == [
        (100, 32, True, False, 5.0),
        (160, 8, False, True, None),
    ]
    assert (ader.image_score, official.image_score) == ("map_max", "patch_max")
    geometry = [(config.input.geometry, config.input.resize, config.input.size) for config in (ADER, OFFICIAL)]
    assert geometry == [("stretch", 256, (256, 256)), ("crop", 329, (288, 288))]
    same = {"adaptor": True, "margin": 0.5, "sigma": 0.015, "cancelled_biases": False}
    rates = {"adaptor_learning_rate": 1e-4, "adaptor_decay": 0.01}
    rates |= {"discriminator_learning_rate": 2e-4, "discriminator_decay": 1e-5}
    for method in (ader, official):
        assert {name: getattr(method, name) for name in same | rates} == same | rates
        assert (method.patches.pretrain_dim, method.patches.target_dim, method.patches.dim) == (1536, 1536, 1536)


def test_a_checkpoint_of_the_benchmark_is_read_under_its_prefix():
    with pytest.raises(UserError, match=r"no entry 'net_simplenet\.discriminator"):
        small().from_torch({"net_simplenet.discriminator.tail.weight": np.ones((1, 1024), np.float32)})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.target_dim", None, "config.model.pretrain_dim is 1536, config.model.target_dim None; expected two"),
        ("model.pretrain_dim", None, "config.model.pretrain_dim is None, config.model.target_dim 1536; expected two"),
        ("backbone.taps", ("layer2", "layer9"), "config.backbone.taps has 'layer9'; wide_resnet50_2 has .*layer3"),
        ("backbone.taps", (), "config.backbone.taps is empty; wide_resnet50_2 has .*layer3"),
    ],
)
def test_values_that_do_not_fit_each_other_name_their_fields(field, value, message):
    config = config_simplenet.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        simplenet.create(config, ("parts",))
