"""RADL against the reading of its equations that the fixtures fix, and its noise by itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import radl as config_radl
from jaxad.errors import UserError
from jaxad.methods import radl
from jaxad.methods.radl import RADL, hce_loss
from jaxad.nn.scoring import anomaly_map, largest
from jaxad.trees import split_by_path
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, check_bfloat16, make, nhwc, run_steps
from tests.methods.test_simplenet import SMALL, patches_of, trained_outputs


@dataclasses.dataclass(frozen=True)
class FedRADL(RADL):
    """RADL that is given (standard normal, uniform) draws in place of the key."""

    def draws(self, key, shape):
        return key

    def noise(self, key, shape):
        return super().noise(key, shape) if self.noise_kind == "fdfa" else self.sigma * key[0]


def fed(case: Case, **changes) -> FedRADL:
    """The method of the config on the fixture's backbone."""
    return make(config_radl.get_config(), FedRADL, patches=patches_of(case), cancelled_biases=True, **changes)


@pytest.mark.parametrize("path", cases("radl", "hce_loss"))
def test_loss_and_its_gradients_equal_the_formula(path):
    case = load(path)
    true, fake = (jnp.asarray(case.inputs[f"{name}_logit"]) for name in ("true", "fake"))
    outputs = {}
    for tau in case.settings["taus"]:
        terms = hce_loss(true, fake, tau)
        gradients = jax.grad(lambda t, f, tau=tau: sum(hce_loss(t, f, tau)), (0, 1))(true, fake)
        outputs[f"tau{tau}"] = [*terms, sum(terms)]
        outputs[f"tau{tau}_grad_true"], outputs[f"tau{tau}_grad_fake"] = (g.ravel() for g in gradients)
    check_all(case, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("radl", "forward"))
def test_forward_equals_the_reference(path):
    case = load(path)
    s = case.settings
    method = fed(case, tau=s["tau"], adaptor=s["adaptor"])
    variables = method.from_torch(case.state_dict)
    image = nhwc(case.inputs["x"])

    @jax.jit
    def outputs(variables, image):
        embed = method.patches(variables, image)
        logit = method.logit(variables, embed)
        maps = anomaly_map(method.patch_score(logit), image.shape[1:3], sigma=s["gaussian_sigma"])
        return {
            "embed": embed,
            "disc": logit,
            "prob_anomaly": dataclasses.replace(method, score="prob").patch_score(logit),
            "anomaly_map": maps,
            "image_score_patchmax": largest(-logit),
            "image_score_mapmax": largest(maps),
        }

    got = jax.device_get(outputs(variables, image))
    check_all(case, got)
    prediction = jax.jit(method.predict)(variables, {"image": image})
    np.testing.assert_allclose(prediction.map, got["anomaly_map"], atol=1e-5)
    np.testing.assert_allclose(prediction.score, got["image_score_patchmax"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("radl", "train"))
def test_training_steps_equal_the_reference(path):
    case = load(path)
    s = case.settings
    base = fed(case, sigma=s["sigma"], sigma_low=s["sigma_low"], sigma_high=s["sigma_high"], tau=s["tau"])
    variables = dataclasses.replace(base, adaptor=True).from_torch(case.state_dict)
    features = jax.jit(base.patches)(variables, nhwc(case.inputs["x"]))
    b, h, w, d = features.shape
    outputs = {}
    for name, variant in s["variants"].items():
        method = dataclasses.replace(
            base,
            loss_kind=variant["loss"],
            noise_kind="fdfa" if variant["fdfa"] else "fixed",
            sigma_per=variant.get("per", "patch"),
            tau=variant.get("tau", s["tau"]),
            adaptor=variant.get("adaptor", False),
        )
        cells = {"patch": (b, h, w, 1), "image": (b, 1, 1, 1), "batch": (1, 1, 1, 1)}[method.sigma_per]
        draws = []
        for i in range(s["steps"]):
            sigma = case.inputs[f"sigma/{i}"][: math.prod(cells)].reshape(cells)
            strength = (sigma - s["sigma_low"]) / (s["sigma_high"] - s["sigma_low"])
            draws.append((jnp.float32(case.inputs[f"noise/{i}"].reshape(b, h, w, d)), jnp.float32(strength)))
        (stage,) = method.stages()
        params = {k: v for k, v in variables["params"].items() if method.adaptor or k != "adaptor"}
        after, log = run_steps(stage, {**variables, "params": params}, [{"features": features}] * s["steps"], draws)
        found = trained_outputs(log, after, s["grad_keys"][name])
        outputs |= {f"{name}/{key}": value for key, value in found.items()}
    check_all(case, outputs)


def small(dtype: str = "float32", **changes) -> RADL:
    """RADL on 64 features per patch of a ResNet-18."""
    config = config_radl.get_config()
    config.update_from_flattened_dict({**SMALL, "dtype": dtype})
    return make(config, RADL, **changes)


@pytest.mark.parametrize(("per", "cells"), [("patch", 2 * 4 * 5), ("image", 2), ("batch", 1)])
def test_one_standard_deviation_in_its_range_is_drawn_per_patch_image_or_batch(per, cells):
    method = small(sigma_per=per, sigma_low=0.1, sigma_high=0.4)
    normal, uniform = method.draws(jax.random.key(0), (2, 4, 5, 3000))
    assert uniform.size == cells
    assert len(np.unique(uniform)) == cells
    spread = np.std(method.noise(jax.random.key(0), (2, 4, 5, 3000)), axis=-1)
    np.testing.assert_allclose(spread, np.broadcast_to(0.1 + 0.3 * uniform[..., 0], spread.shape), rtol=0.1)
    assert normal.shape == (2, 4, 5, 3000)


def test_fixed_noise_has_one_standard_deviation():
    method = small(noise_kind="fixed", sigma=0.2, sigma_low=1.0, sigma_high=2.0)
    spread = np.std(method.noise(jax.random.key(0), (2, 4, 5, 3000)), axis=-1)
    np.testing.assert_allclose(spread, 0.2, rtol=0.1)


@pytest.mark.parametrize("adaptor", [False, True])
def test_discriminator_and_where_there_is_one_the_adaptor_are_trained(adaptor):
    method = small(adaptor=adaptor)
    (stage,) = method.stages()
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    trained, _ = split_by_path(shapes["params"], stage.trainable)
    assert set(trained) == {"discriminator", *["adaptor"] * adaptor}
    assert ("adaptor" in shapes["params"]) == adaptor


def test_bfloat16_is_the_type_of_the_computation_and_of_nothing_else():
    image = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    check_bfloat16(small, small().init(jax.random.key(0)), image)


def test_variants_are_the_settings_of_table_1():
    variants = {"c": "magnetic_tile", "a": "magnetic_tile,a", "b": "magnetic_tile,b", "lite": "magnetic_tile,lite"}
    found = {name: radl.create(config_radl.get_config(argument), ("parts",)) for name, argument in variants.items()}
    assert {name: (m.loss_kind, m.noise_kind) for name, m in found.items()} == {
        "a": ("hinge", "fixed"),
        "b": ("hce", "fixed"),
        "c": ("hce", "fdfa"),
        "lite": ("hce", "fdfa"),
    }
    true, fake = jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))
    np.testing.assert_allclose(found["a"].loss_terms(true, fake), (0.5, 1.5))
    for name in ("b", "c"):
        np.testing.assert_allclose(found[name].loss_terms(true, fake), (np.log(2), np.log1p(np.exp(2))), rtol=1e-6)
    for method in found.values():
        assert (method.epochs, method.batch_size, method.adaptor, method.tau) == (40, 8, False, 0.5)
        assert (method.decay_biases, method.clip_norm, method.sigma_per, method.score) == (True, None, "patch", "logit")
    spreads = {name: (m.sigma_low, m.sigma, m.sigma_high) for name, m in found.items()}
    assert spreads == {**dict.fromkeys("abc", (0.005, 0.015, 0.025)), "lite": (0.32, 0.96, 1.6)}
    assert (found["c"].patches.dim, found["lite"].patches.dim) == (1536, 40 + 112)
    assert config_radl.get_config().input.geometry == "pad"


def test_a_range_of_standard_deviations_upside_down_names_both_ends():
    config = config_radl.get_config()
    config.model.sigma_low = 0.05
    with pytest.raises(UserError, match=r"config\.model\.sigma_low is 0\.05, above config\.model\.sigma_high 0\.025"):
        radl.create(config, ("parts",))
