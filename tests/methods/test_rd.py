"""RD against the benchmark's code, and its stage by itself."""

import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import rd as config_ader
from jaxad import backbones
from jaxad.methods import rd
from jaxad.methods.rd import RD, cosine_distance, distillation_losses, fused_map
from jaxad.nn.blur import gaussian_blur
from jaxad.nn.scoring import largest
from jaxad.nn.torch_layout import to_state_dict
from tests.golden.load import Case, cases, load
from tests.methods.golden import nhwc, run_steps

TAPS = ("layer1", "layer2", "layer3")


def method_of(case: Case) -> RD:
    """The default method on the fixture's teacher."""
    name = next(word for word in re.findall(r"\w+", case.settings["teacher"]) if word in backbones.NAMES)
    width = re.search(r"base width (\d+)", case.settings["bottleneck_block"])
    wide = width is not None and int(width[1]) == 64 * backbones.resnet.ARCHITECTURES[name].width > 64
    config = config_ader.get_config()
    config.backbone.name = name
    config.model.wide_embedding = wide
    return rd.create(config)


def check_all(case: Case, outputs):
    """Every output of the fixture, all failures in one message."""
    failures = []
    for key in case.expected:
        try:
            case.check(key, outputs(key))
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("rd", "forward"))
def test_forward_equals_the_reference(path):
    case = load(path)
    method = method_of(case)
    variables = method.from_torch(case.state_dict)
    image = nhwc(case.inputs["input"])

    @jax.jit
    def outputs(variables, image):
        teacher = list(method.features(variables, {"image": image}).values())
        student, embedding = method.rebuild(variables, teacher)
        size = image.shape[1:3]
        everything = [*teacher, embedding, *student]
        found = {"loss_per_scale": jnp.stack(distillation_losses(teacher, student)), "bottleneck": embedding}
        found["loss"] = found["loss_per_scale"].sum()
        found["loss_pixelwise"] = sum(distillation_losses(teacher, student, "pixel"))
        found["feat_norms"] = jnp.stack([jnp.sqrt(jnp.square(x).sum((1, 2, 3))) for x in everything], 1)
        for k, (t, s) in enumerate(zip(teacher, student, strict=True)):
            found |= {f"feat_t{k}": t, f"feat_s{k}": s, f"map_raw{k}": cosine_distance(t, s)}
        found["map_unsmoothed"] = fused_map(teacher, student, size)
        for name, fusion in (("map", "add"), ("map_official", "sum"), ("map_mul", "mul")):
            found[name] = gaussian_blur(fused_map(teacher, student, size, fusion), rd.SIGMA)
        found |= {"score": largest(found["map"]), "score_mul": largest(found["map_mul"])}
        return {k: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for k, v in found.items()}

    got = jax.device_get(outputs(variables, image))
    check_all(case, got.__getitem__)
    prediction = jax.jit(method.predict)(variables, {"image": image})
    np.testing.assert_allclose(prediction.map, got["map"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(prediction.score, got["score"], rtol=1e-5)


by_name = functools.partial(to_state_dict, torch_name=rd.torch_name)


def norm(arrays) -> float:
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


def begun(case: Case, method: RD, dtype: str):
    """The fixture's variables and the teacher's features, all of `dtype`."""
    variables = jax.tree.map(lambda x: x.astype(dtype), method.from_torch(case.state_dict))
    network = backbones.create(method.teacher.name, TAPS, dtype=dtype)
    frozen = {name: variables[name]["backbone"] for name in ("params", "batch_stats")}
    return variables, jax.jit(network.apply)(frozen, jnp.asarray(nhwc(case.inputs["input"]), dtype))


def statistics_outputs(case: Case, step: int, statistics) -> dict:
    values = by_name({"batch_stats": {"student": statistics["student"]}})
    norms = [norm([values[key]]) for key in case.settings["bn_keys"]]
    return {f"bn_norm_step{step}": norms, **{f"bn_step{step}/{key}": value[:64] for key, value in values.items()}}


def trained_outputs(case: Case) -> dict:
    """The fixture's outputs of a training run, in the precision of the moment."""
    method = method_of(case)
    variables, features = begun(case, method, str(jnp.zeros(()).dtype))
    (stage,) = method.stages(1000)
    steps = case.settings["steps"]
    after, log = run_steps(stage, variables, [{"features": features}] * steps, [jax.random.key(0)] * steps)
    teacher = [features[tap] for tap in TAPS]

    @jax.jit
    def evaluated(variables, teacher):
        student, _ = method.rebuild(variables, teacher)
        maps = gaussian_blur(fused_map(teacher, student, case.inputs["input"].shape[2:]), rd.SIGMA)
        return {"loss_eval_after": sum(distillation_losses(teacher, student)), "score_after": largest(maps)}

    found = jax.device_get(evaluated(after, teacher))
    gradients = by_name({"params": flax.traverse_util.unflatten_dict(log[0]["gradients"], sep="/")})
    found |= {
        "loss_per_scale": [log[0][f"loss_stride{stride}"] for stride in rd.STRIDES],
        "losses": [entry["loss"] for entry in log],
        "grad_total_norm": [norm(entry["gradients"].values()) for entry in log],
        "grad_norm": [norm([gradients[key]]) for key in case.settings["grad_keys"]],
        **{f"grad/{key}": gradient.ravel()[:64] for key, gradient in gradients.items()},
    }
    for step, entry in enumerate(log, start=1):
        found |= statistics_outputs(case, step, entry["statistics"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("rd", "train"))
def test_training_steps_equal_the_reference(path):
    """In float64, for the outputs of the reference in float32 too: a ReLU that flips by rounding moves a float32
    gradient further than any difference of code.
    """
    case = load(path)
    with jax.enable_x64(True):
        found = trained_outputs(case)
    check_all(case, lambda key: found[key.removeprefix("f64/")])


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("rd", "train"))
def test_losses_and_statistics_of_the_first_step_in_float32_equal_the_reference(path):
    case = load(path)
    method = method_of(case)
    variables, features = begun(case, method, "float32")
    (stage,) = method.stages(1000)
    _, (updates, metrics) = jax.jit(stage.loss)(variables, {"features": features}, jax.random.key(0))
    found = statistics_outputs(case, 1, updates["batch_stats"])
    found["loss_per_scale"] = [metrics[f"loss_stride{stride}"] for stride in rd.STRIDES]
    keys = [key for key in case.expected if re.match(r"loss_per_scale$|bn_(norm_)?step1\b", key)]
    assert keys
    for key in keys:
        case.check(key, found[key])
