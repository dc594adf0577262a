"""RD against the benchmark's code, and its stage by itself."""

import dataclasses
import functools
import re
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxad
from configs import rd as config_ader
from configs import rd_lite, rd_official
from jaxad import backbones, sharding, training
from jaxad.backbones import resnet
from jaxad.backbones.frozen import FrozenBackbone
from jaxad.checkpoint import Checkpoints
from jaxad.errors import UserError
from jaxad.methods import rd
from jaxad.methods.rd import RD, cosine_distance, distillation_losses, fused_map
from jaxad.nn.blur import gaussian_blur
from jaxad.nn.scoring import largest
from jaxad.nn.torch_layout import to_state_dict
from tests import runs
from tests.golden.load import Case, cases, load
from tests.methods.golden import nhwc, run_steps

TAPS = ("layer1", "layer2", "layer3")
LITE_TAPS = ("stage1", "stage2", "stage4")


def method_of(case: Case) -> RD:
    """The default method on the fixture's teacher."""
    name = next(word for word in re.findall(r"\w+", case.settings["teacher"]) if word in backbones.NAMES)
    width = re.search(r"base width (\d+)", case.settings["bottleneck_block"])
    wide = width is not None and int(width[1]) == 64 * resnet.ARCHITECTURES[name].width > 64
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


@dataclasses.dataclass(frozen=True)
class Shallow(RD):
    """RD with one block a layer."""

    @property
    def student(self):
        shallow = resnet.Architecture((1, 1, 1, 1), bottleneck=False)
        return dataclasses.replace(super().student, embedding=shallow, mirror=shallow)


def small(**changes) -> RD:
    return Shallow(
        FrozenBackbone("efficientnet_lite0", "random", LITE_TAPS), **{"epochs": 3, "batch_size": 8, **changes}
    )


def random_features(method: RD, count: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    shapes = [(count, 64 // s, 64 // s, c) for s, c in zip(rd.STRIDES, method.teacher.channels, strict=True)]
    return {tap: draw.normal(size=shape) for tap, shape in zip(LITE_TAPS, shapes, strict=True)}


def placed(count: int, dtype: str):
    """The stage, and variables and a batch of features on the first `count` devices."""
    method = small()
    variables = jax.tree.map(lambda x: np.asarray(x, dtype), jax.jit(method.init_student)(jax.random.key(0)))
    mesh = sharding.make_mesh(devices=jax.devices()[:count])
    batch = {"features": jax.tree.map(lambda x: x.astype(dtype), random_features(method, 8))}
    where = sharding.shardings(mesh, variables, method.partition)
    return method.stages(8)[0], sharding.put(variables, where), sharding.put_batch(mesh, batch)


def first_losses(count: int):
    stage, variables, batch = placed(count, "float32")
    loss, (updates, metrics) = jax.jit(stage.loss)(variables, batch, jax.random.key(0))
    return jax.device_get({"loss": loss, **metrics, **updates})


def trained_on(count: int, steps: int):
    """Losses, parameters and statistics of some steps of the engine, in float64."""
    stage, variables, batch = placed(count, "float64")
    rest = {"batch_stats": variables["batch_stats"]}
    state = training.State(variables["params"], rest, jax.jit(stage.optimizer.init)(variables["params"]))
    update = jax.jit(functools.partial(training.training_step, stage, small().normalization))
    losses = []
    for _ in range(steps):
        state, metrics = update(state, {}, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return jax.device_get((losses, state.trained, state.rest))


def compare_one_and_eight_devices() -> None:
    """Runs where there are eight."""
    assert jax.device_count() == 8
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(same, first_losses(8), first_losses(1))
    with jax.enable_x64(True):  # Adam's first steps blow float32's rounding of small gradients up to whole steps
        jax.tree.map(same, trained_on(8, 2), trained_on(1, 2))


@pytest.mark.slow
def test_batch_norm_sees_the_whole_batch_on_eight_devices():
    code = "from tests.methods import test_rd; test_rd.compare_one_and_eight_devices()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=runs.environment(8), capture_output=True, text=True, timeout=300, check=False, cwd=runs.ROOT
    )
    assert done.returncode == 0, done.stderr


class Interrupted(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits_and_its_evaluation_repeats_them(tmp_path, monkeypatch):
    settings = {
        "backbone.weights": "random",
        "input.size": (64, 64),
        "evaluation.batch_size": 4,
        "train.epochs": 3,
        "train.batch_size": 4,
        "checkpoint.every_steps": 2,
        "dataset.path": str(runs.write_photographs(tmp_path / "parts")),
        "dataset.data_dir": str(tmp_path / "data"),
    }
    config = jaxad.load_config(f"{runs.ROOT}/configs/rd_lite.py:folder", settings)
    whole = jaxad.run(config, tmp_path / "whole")
    save = Checkpoints.save

    def save_and_stop(self, variables, state, progress):
        save(self, variables, state, progress)
        if progress.step == 2:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Checkpoints, "save", save_and_stop)
        jaxad.run(config, tmp_path / "resumed")
    resumed = jaxad.run(config, tmp_path / "resumed")
    ends = [
        Checkpoints(tmp_path / name / "parts" / "checkpoints", read_only=True).restore()[0]
        for name in ("whole", "resumed")
    ]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert resumed[0].metrics == whole[0].metrics
    assert jaxad.run(config, tmp_path / "whole", mode="evaluate")[0].metrics == whole[0].metrics


def test_the_teacher_has_neither_gradient_nor_optimizer_state():
    method = small()
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    (stage,) = method.stages(8)
    trained, frozen = training.select(shapes["params"], stage.trainable)
    assert (set(trained), set(frozen)) == ({"student"}, {"backbone"})
    moments = jax.tree.leaves(jax.eval_shape(stage.optimizer.init, trained))
    assert sum(m.size for m in moments if m.size > 1) == 2 * sum(p.size for p in jax.tree.leaves(trained))


def test_the_learning_rate_falls_to_a_tenth_after_four_fifths_of_the_steps():
    def changes(decay_at):
        optimizer = small(decay_at=decay_at).optimizer(10)
        state, found = optimizer.init(jnp.zeros(1)), []
        for _ in range(10):
            change, state = optimizer.update(jnp.ones(1), state)
            found.append(-float(change[0]))
        return found

    np.testing.assert_allclose(changes(0.8), [5e-3] * 8 + [5e-4] * 2, rtol=1e-4)
    np.testing.assert_allclose(changes(None), [5e-3] * 10, rtol=1e-4)


def test_networks_start_as_the_reference_does():
    params = small().init_student(jax.random.key(0))["params"]["student"]
    kernel = params["decoder"]["layer1_0"]["conv2"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (112 * 9)), rtol=0.01)
    transposed = np.abs(params["decoder"]["layer1_0"]["upsample_0"]["transposed_kernel"])
    np.testing.assert_allclose(transposed.max(), 1 / np.sqrt(4 * 112), rtol=0.01)
    np.testing.assert_array_equal(params["bottleneck"]["bn_layer_0"]["bn2"]["scale"], 1)


def test_features_from_the_cache_and_images_give_the_same_loss():
    cached, direct = small(), small(cache_features=False)
    variables = jax.jit(cached.init)(jax.random.key(0))
    image, key = jax.random.normal(jax.random.key(1), (2, 64, 64, 3)), jax.random.key(2)
    features = jax.jit(cached.features)(variables, {"image": image})
    one = jax.jit(cached.loss)(variables, {"features": features}, key)
    other = jax.jit(direct.loss)(variables, {"image": image}, key)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), one, other)
    assert (cached.stages(8)[0].features is None, direct.stages(8)[0].features is None) == (False, True)


def test_distance_is_of_directions_and_its_gradient_is_finite_at_zero():
    ones = jnp.ones((1, 2, 2, 3))
    np.testing.assert_allclose(cosine_distance(ones, 5 * ones), 0, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(ones, -ones), 2, rtol=1e-6)
    gradient = jax.grad(lambda x: distillation_losses([ones], [x], "pixel")[0])(0 * ones)
    assert np.isfinite(gradient).all()


def test_scales_are_added_or_multiplied():
    ones = jnp.ones((1, 2, 2, 1))
    pyramid = ([ones] * 3, [ones, -ones, -ones])
    for fusion, want in (("add", 4 / 9), ("sum", 4), ("mul", 0)):
        np.testing.assert_allclose(fused_map(*pyramid, (4, 4), fusion), np.full((1, 4, 4), want), atol=1e-6)


def test_the_student_of_another_teacher_rebuilds_signed_maps_of_its_shapes():
    config = rd_lite.get_config()
    config.backbone.weights = "random"
    method = rd.create(config)
    assert (method.student.signed, rd.create(config_ader.get_config()).student.signed) == (True, False)

    def both(key):
        variables = method.init(key)
        teacher = method.features(variables, {"image": jnp.zeros((1, 64, 96, 3))})
        return teacher, method.rebuild(variables, list(teacher.values()))[0]

    teacher, student = jax.eval_shape(both, jax.random.key(0))
    assert [x.shape for x in student] == [x.shape for x in teacher.values()]
    assert [x.shape for x in student] == [(1, 16, 24, 24), (1, 8, 12, 40), (1, 4, 6, 112)]


def test_the_official_embedding_is_twice_as_wide():
    def parameters(config):
        shapes = jax.eval_shape(rd.create(config).init_student, jax.random.key(0))["params"]["student"]["bottleneck"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    ader, official = parameters(config_ader.get_config()), parameters(rd_official.get_config())
    assert (round(ader / 1e6, 2), round(official / 1e6, 2)) == (30.83, 58.89)


def test_checkpoint_of_something_else_is_refused():
    with pytest.raises(UserError, match=r"weights of RD: no entry 'mff_oce\."):
        small().from_torch({"net_t.conv1.weight": np.ones((64, 3, 7, 7), np.float32)})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "model.loss",
            "flat",
            "config.model.loss is 'flat'; expected one of flattened, pixel",
        ),
        ("model.fusion", "max", "expected one of add, sum, mul"),
        ("train.decay_at", 1.5, "config.train.decay_at is 1.5; expected a number of at least 0 and at most 1, or None"),
        ("backbone.taps", ("layer2", "layer3"), r"have strides \(8, 16\); RD needs three taps of strides \(4, 8, 16\)"),
        ("input.size", (224, 200), r"config.input.size is \(224, 200\).* take multiples of 32"),
    ],
)
def test_wrong_config_values_name_the_field(field, value, message):
    config = config_ader.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        rd.create(config)
