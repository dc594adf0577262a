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
from tests.golden.load import cases, load
from tests.methods.golden import check_all, nhwc, run_steps
from tests.methods.test_simplenet import patches_of, small, trained_outputs


@dataclasses.dataclass(frozen=True)
class FedRADL(RADL):
    """RADL that takes the place of the key for (standard normal, uniform) draws."""

    def draws(self, key, shape):
        return key

    def noise(self, key, shape):
        return super().noise(key, shape) if self.noise_name == "fdfa" else self.sigma * key[0]


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
    method = dataclasses.replace(radl_of(case), tau=s["tau"], adapt=s["adaptor"])
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


def radl_of(case) -> RADL:
    return dataclasses.replace(FedRADL(patches_of(case)), train_cancelled_biases=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("radl", "train"))
def test_training_steps_equal_the_reference(path):
    case = load(path)
    s = case.settings
    base = dataclasses.replace(
        radl_of(case), sigma=s["sigma"], sigma_low=s["sigma_low"], sigma_high=s["sigma_high"], tau=s["tau"]
    )
    variables = dataclasses.replace(base, adapt=True).from_torch(case.state_dict)
    features = jax.jit(base.patches)(variables, nhwc(case.inputs["x"]))
    b, h, w, d = features.shape
    outputs = {}
    for name, variant in s["variants"].items():
        method = dataclasses.replace(
            base,
            loss_name=variant["loss"],
            noise_name="fdfa" if variant["fdfa"] else "fixed",
            sigma_per=variant.get("per", "patch"),
            tau=variant.get("tau", s["tau"]),
            adapt=variant.get("adaptor", False),
        )
        cells = {"patch": (b, h, w, 1), "image": (b, 1, 1, 1), "batch": (1, 1, 1, 1)}[method.sigma_per]
        draws = []
        for i in range(s["steps"]):
            sigma = case.inputs[f"sigma/{i}"][: math.prod(cells)].reshape(cells)
            strength = (sigma - s["sigma_low"]) / (s["sigma_high"] - s["sigma_low"])
            draws.append((jnp.float32(case.inputs[f"noise/{i}"].reshape(b, h, w, d)), jnp.float32(strength)))
        (stage,) = method.stages(b)
        params = {k: v for k, v in variables["params"].items() if method.adapt or k != "adaptor"}
        after, log = run_steps(stage, {**variables, "params": params}, [{"features": features}] * s["steps"], draws)
        found = trained_outputs(log, after, s["grad_keys"][name])
        outputs |= {f"{name}/{key}": value for key, value in found.items()}
    check_all(case, outputs)


@pytest.mark.parametrize(("per", "cells"), [("patch", 2 * 4 * 5), ("image", 2), ("batch", 1)])
def test_standard_deviation_is_drawn_in_its_range_once_a_patch_image_or_batch(per, cells):
    method = RADL(small().patches, sigma_per=per, sigma_low=0.1, sigma_high=0.4)
    normal, uniform = method.draws(jax.random.key(0), (2, 4, 5, 3000))
    assert uniform.size == cells
    assert len(np.unique(uniform)) == cells
    spread = np.std(method.noise(jax.random.key(0), (2, 4, 5, 3000)), axis=-1)
    np.testing.assert_allclose(spread, np.broadcast_to(0.1 + 0.3 * uniform[..., 0], spread.shape), rtol=0.1)
    assert normal.shape == (2, 4, 5, 3000)


def test_settings_of_table_1_come_from_the_config():
    config = config_radl.get_config()
    setting_c = radl.create(config)
    assert (setting_c.loss_name, setting_c.noise_name, setting_c.tau) == ("hce", "fdfa", 0.5)
    assert (setting_c.epochs, setting_c.batch_size, setting_c.adapt) == (40, 8, False)
    config.model.loss, config.model.noise = "hinge", "fixed"
    setting_a = radl.create(config)
    true, fake = jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1))
    np.testing.assert_allclose(setting_a.loss_terms(true, fake), (0.5, 1.5))
    np.testing.assert_allclose(setting_c.loss_terms(true, fake), (np.log(2), np.log1p(np.exp(2))), rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.loss", "bce", "config.model.loss is 'bce'; expected one of hinge, hce"),
        ("model.noise", "fdfe", "Did you mean 'fdfa'"),
        ("model.sigma_low", 0.05, "config.model.sigma_low is 0.05, above config.model.sigma_high 0.025"),
        ("model.tau", 0.0, "config.model.tau is 0.0; expected a number above 0"),
        ("model.sigma_per", "pixel", "expected one of patch, image, batch"),
    ],
)
def test_wrong_config_values_name_the_field(field, value, message):
    config = config_radl.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        radl.create(config)
