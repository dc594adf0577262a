"""SimpleNet against the benchmark's and the official code, and its stage by itself."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import simplenet as config_ader
from configs import simplenet_official as config_official
from jaxad.backbones.frozen import FrozenBackbone, PatchFeatures
from jaxad.errors import UserError
from jaxad.methods import simplenet
from jaxad.methods.simplenet import CANCELLED_BIASES, SimpleNet, hinge_loss
from jaxad.nn.scoring import anomaly_map, largest
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, nhwc, run_steps, split

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
    """SimpleNet that takes the place of the key for the noise."""

    def noise(self, key, shape):
        return key.reshape(shape)


def patches_of(case: Case) -> PatchFeatures:
    s = case.settings
    taps = tuple(s.get("layers", ("layer2", "layer3")))
    dims = s.get("pretrain_embed_dimension", 1536), s.get("target_embed_dimension", 1536)
    return PatchFeatures(FrozenBackbone(s.get("backbone", "wide_resnet50_2"), "random", taps), *dims)


def from_config(method: type[SimpleNet], config, case: Case, **changes) -> SimpleNet:
    """The method of a config file, on the fixture's backbone."""
    return method(**{**simplenet.settings(config), "patches": patches_of(case), **changes})


def corners(maps: np.ndarray) -> np.ndarray:
    return np.stack([maps[:, 0, 0], maps[:, 0, -1], maps[:, -1, 0], maps[:, -1, -1]], 1)[..., ::2]


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("simplenet", "forward"))
def test_forward_equals_the_reference(path):
    case = load(path)
    method = from_config(SimpleNet, config_ader.get_config(), case)
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
    batch = {"image": image}
    for name, score in (("map_max", "image_score_mapmax"), ("patch_max", "image_score_patchmax")):
        prediction = jax.jit(dataclasses.replace(method, image_score=name).predict)(variables, batch)
        np.testing.assert_array_equal(prediction.map.shape, image.shape[:3])
        np.testing.assert_allclose(prediction.score, got[score], rtol=1e-5)


def trained_outputs(log: list[dict], variables, grad_keys: Sequence[str]) -> dict:
    """The fixtures' outputs of a training run."""
    norm = lambda gradients: np.sqrt(sum(np.sum(np.square(g)) for g in gradients))  # noqa: E731
    groups = [
        [norm([g for k, g in e["gradients"].items() if k.startswith(group)]) for group in ("adaptor", "discriminator")]
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
        pytest.param(*param.values, config, id=f"{param.id}", marks=param.marks)
        for kind, config in (("train_ader", config_ader), ("train_official", config_official))
        for param in cases("simplenet", kind)
    ],
)
def test_training_steps_equal_the_reference(path, config):
    case = load(path)
    method = from_config(FedSimpleNet, config.get_config(), case, train_cancelled_biases=True)
    variables = method.from_torch(case.state_dict)
    (stage,) = method.stages(case.settings["batch"])
    features = jax.jit(stage.features)(variables, {"image": nhwc(case.inputs["x"])})
    steps = case.settings["steps"]
    noise = [jnp.asarray(case.inputs[f"noise/{i}"]) for i in range(steps)]
    after, log = run_steps(stage, variables, [{"features": features}] * steps, noise)
    check_all(case, trained_outputs(log, after, case.settings.get("grad_keys", ())))


def small(**changes) -> SimpleNet:
    patches = PatchFeatures(FrozenBackbone("resnet18", "random", ("layer1", "layer2")))
    return SimpleNet(patches, **{"epochs": 2, "batch_size": 2, **changes})


@pytest.fixture(scope="module")
def started():
    method = small()
    variables = method.init(jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    return variables, method.features(variables, {"image": image})


def test_loss_separates_the_noise_after_some_steps(started):
    variables, features = started
    method = small(sigma=0.5, discriminator_learning_rate=2e-3)
    (stage,) = method.stages(2)
    keys = list(jax.random.split(jax.random.key(2), 40))
    after, log = run_steps(stage, variables, [{"features": features}] * 40, keys)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    prediction = method.predict(after, {"image": jnp.zeros((1, 32, 32, 3))})
    assert prediction.map.shape == (1, 32, 32)
    assert np.isfinite(prediction.map).all()


def test_biases_that_batch_norm_cancels_have_no_gradient_and_are_left_out(started):
    variables, features = started
    with_biases = small(train_cancelled_biases=True)
    (stage,) = with_biases.stages(2)
    _, log = run_steps(stage, variables, [{"features": features}], [jax.random.key(3)])
    for path in CANCELLED_BIASES:
        assert np.abs(log[0]["gradients"][path]).max() < 1e-4
    trained, frozen = split(variables["params"], small().stages(2)[0].trainable)
    assert set(CANCELLED_BIASES) <= set(frozen)
    assert {path.split("/")[0] for path in trained} == {"adaptor", "discriminator"}


def test_every_step_draws_other_noise():
    method = small()
    one, other = (method.noise(jax.random.key(i), (2, 4, 4, 8)) for i in range(2))
    assert not np.array_equal(one, other)
    assert abs(float(jnp.std(one)) / method.sigma - 1) < 0.2


def test_weight_decay_leaves_biases_alone_unless_asked_for(started):
    variables, _ = started
    nested = {name: tree for name, tree in variables["params"].items() if name != "backbone"}
    nested["adaptor"]["bias"] = jnp.ones_like(nested["adaptor"]["bias"])
    zeros = jax.tree.map(jnp.zeros_like, nested)
    for decay_biases in (False, True):
        optimizer = small(decay_biases=decay_biases).optimizer()
        changes, _ = optimizer.update(zeros, optimizer.init(nested), nested)
        assert np.any(changes["adaptor"]["kernel"])
        assert bool(np.any(changes["adaptor"]["bias"])) == decay_biases
        assert bool(np.any(changes["discriminator"]["norm"]["scale"])) == decay_biases


def test_gradients_of_adaptor_and_discriminator_are_clipped_each_by_itself(started):
    variables, _ = started
    nested = {name: tree for name, tree in variables["params"].items() if name != "backbone"}
    gradients = {**jax.tree.map(jnp.zeros_like, nested), "adaptor": jax.tree.map(jnp.ones_like, nested["adaptor"])}
    optimizer = small(clip_norm=0.5, discriminator_decay=0.0).optimizer()
    _, state = optimizer.update(gradients, optimizer.init(nested), nested)
    moments = optax.tree_utils.tree_get_all_with_path(state, "mu")
    sizes = [float(optax.global_norm(mu)) for _, mu in moments]
    np.testing.assert_allclose(sorted(sizes), [0.0, 0.1 * 0.5], rtol=1e-5)


def test_hinge_loss_is_zero_beyond_the_margin():
    true, fake = jnp.array([0.6, 0.5, 0.0]), jnp.array([-0.6, 0.5])
    np.testing.assert_allclose(hinge_loss(true, fake, 0.5), (0.5 / 3, 0.5))


def test_checkpoint_of_the_benchmark_is_read_under_its_prefix():
    with pytest.raises(UserError, match=r"no entry 'net_simplenet\.discriminator"):
        small().from_torch({"net_simplenet.discriminator.tail.weight": np.ones((1, 1024), np.float32)})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.image_score", "map-max", "expected one of map_max, patch_max. Did you mean 'map_max'"),
        ("model.sigma", 0.0, r"config.model.sigma is 0.0; expected a number above 0"),
        ("model.target_dim", None, "config.model.pretrain_dim is 1536, config.model.target_dim None"),
        ("train.epochs", 0, "config.train.epochs is 0; expected a whole number of at least 1"),
        ("backbone.name", "resnet81", "expected one of .* Did you mean 'resnet18'"),
        ("backbone.taps", ("layer2", "layer9"), "config.backbone.taps has 'layer9'; wide_resnet50_2 has"),
        ("backbone.taps", (), "config.backbone.taps is empty"),
        ("dtype", "float16", "config.dtype is 'float16'; expected one of float32, bfloat16"),
    ],
)
def test_wrong_config_values_name_the_field(field, value, message):
    config = config_ader.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        simplenet.create(config)


def test_missing_config_field_is_named():
    config = config_ader.get_config()
    del config.model["margin"]
    with pytest.raises(UserError, match=r"config\.model\.margin is missing"):
        simplenet.create(config)
