"""Every backbone against torchvision, timm and the EfficientNet package."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxad import backbones
from tests.golden.load import Case, cases, load

NOT_BUILT = ("hrnet_w32",)  # fixtures of networks that jaxad does not have yet


def state_dict_of(case: Case):
    if not case.external_weights:
        return case.state_dict
    package = case.external_weights["package"].partition("==")[0]
    weights = pytest.importorskip("jaxad.weights")
    pytest.importorskip(package.replace("-", "_"))
    return weights.load_state_dict(f"package:{package}")


def built(case: Case) -> str:
    """The name of the fixture's network; skips the test where there is no such network yet."""
    name = case.settings["arch"]
    if name in NOT_BUILT:
        assert name not in backbones.names()
        pytest.skip(f"there is no backbone {name} yet")
    return name


@functools.cache
def forward(name: str, taps: tuple[str, ...], num_classes: int):
    return jax.jit(backbones.create(name, taps, num_classes=num_classes).apply)


def outputs_of(taps: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The fixtures' outputs by name, from the taps by name in NHWC."""
    outputs = {}
    for name, tap in taps.items():
        if name == "logits":
            logits = np.asarray(tap, np.float64)
            order = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
            top5 = np.take_along_axis(logits, order, -1)
            share = np.exp(top5 - np.log(np.sum(np.exp(logits), -1, keepdims=True)))
            outputs |= {"logits": logits, "top5_index": order, "top5_logit": top5, "top5_prob": share}
        else:
            maps = np.asarray(tap, np.float64).transpose(0, 3, 1, 2)
            outputs |= {f"{name}/sub": maps, f"{name}/mean": maps.mean((2, 3)), f"{name}/std": maps.std((2, 3))}
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("backbones", "features"))
def test_features_equal_the_reference(path):
    case = load(path)
    name = built(case)
    tapped = {key.partition("/")[0] for key in case.expected}
    order = (*backbones.channels(name), "logits")
    taps = tuple(tap for tap in order if tap in tapped or (tap == "logits" and any("top5" in key for key in tapped)))
    variables = backbones.from_torch(name, state_dict_of(case), taps=taps)
    images = case.inputs["x"].transpose(0, 2, 3, 1)
    outputs = outputs_of(forward(name, taps, case.settings.get("classes", 1000))(variables, images))
    for key in case.expected:
        case.check(key, outputs[key])


@pytest.mark.parametrize("path", cases("backbones", "picture"))
def test_photographs_are_classified_as_the_reference_does(path):
    case = load(path)
    name = built(case)
    mean, std = backbones.normalization(name)
    images = (case.inputs["image_u8"] / 255 - np.array(mean)) / np.array(std)
    variables = backbones.from_torch(name, state_dict_of(case), taps=("logits",))
    outputs = outputs_of(forward(name, ("logits",), 1000)(variables, jnp.float32(images)))
    for key in case.expected:
        case.check(key, outputs[key])


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("backbones", "train"))
def test_training_mode_equals_the_reference(path):
    case = load(path)
    name = built(case)
    variables = backbones.from_torch(name, case.state_dict)
    images = jnp.asarray(case.inputs["x"].transpose(0, 2, 3, 1))
    classifier = "fc" if "fc" in variables["params"] else "classifier"
    classes = len(variables["params"][classifier]["bias"])
    model = backbones.create(name, ("logits",), num_classes=classes)
    sgd = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.01, momentum=0.9))

    def loss_of(params, batch_stats):
        taps, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.mean(taps["logits"] ** 2), (taps["logits"], updated["batch_stats"])

    @jax.jit
    def step(params, batch_stats, state):
        (loss, (logits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, batch_stats)
        changes, state = sgd.update(gradients, state, params)
        return optax.apply_updates(params, changes), batch_stats, state, loss, logits, gradients

    params, batch_stats, state = variables["params"], variables["batch_stats"], sgd.init(variables["params"])
    losses, outputs = [], {}
    for _ in range(len(case.expected.get("loss_sequence", [0]))):
        params, batch_stats, state, loss, logits, gradients = step(params, batch_stats, state)
        losses.append(loss)
        if not outputs:
            by_name = backbones.to_torch({"params": gradients})
            norms = [np.linalg.norm(by_name[key]) for key in case.settings["grad_keys"]]
            outputs = {"logits": logits, "loss": [loss], "grad_norm": norms}
            outputs |= backbones.to_torch({"batch_stats": batch_stats})
    outputs["loss_sequence"] = losses
    for key in case.expected:
        case.check(key, outputs[key])
