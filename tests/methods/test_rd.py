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
import optax
import pytest

from configs import rd as config_rd
from jaxad import backbones, sharding, training
from jaxad.backbones import resnet
from jaxad.errors import UserError
from jaxad.methods import rd
from jaxad.methods.rd import RD, cosine_distance, distillation_losses, fused_map
from jaxad.nn.blur import gaussian_blur
from jaxad.nn.scoring import largest
from jaxad.nn.torch_layout import to_state_dict
from jaxad.trees import inside, split_by_path, under
from tests import runs
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, check_bfloat16, make, nhwc, run_steps

ADER, OFFICIAL, LITE = (config_rd.get_config(f"magnetic_tile{variant}") for variant in ("", ",official", ",lite"))


def method_of(case: Case) -> RD:
    """The method of the default config on the fixture's teacher."""
    name = next(word for word in re.findall(r"\w+", case.settings["teacher"]) if word in backbones.names())
    width = re.search(r"base width (\d+)", case.settings["bottleneck_block"])
    wide = width is not None and int(width[1]) == 64 * resnet.ARCHITECTURES[name].width > 64
    config = config_rd.get_config()
    config.backbone.name = name
    config.model.wide_embedding = wide
    return rd.create(config, ("parts",))


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
    check_all(case, got)
    prediction = jax.jit(method.predict)(variables, {"image": image})
    np.testing.assert_allclose(prediction.map, got["map"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(prediction.score, got["score"], rtol=1e-5)


by_name = functools.partial(to_state_dict, torch_name=rd.torch_name)


def norm(arrays) -> float:
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


def begun(case: Case, method: RD, dtype: str):
    """The student's variables from the fixture and the teacher's features, all of `dtype`."""
    variables = method.from_torch(case.state_dict)
    student = under("student", jax.tree.map(lambda x: x.astype(dtype), inside(variables, "student")))
    network = backbones.create(method.teacher.name, method.teacher.taps, dtype=dtype)
    frozen = jax.tree.map(lambda x: x.astype(dtype), inside(variables, "backbone"))
    return student, jax.jit(network.apply)(frozen, jnp.asarray(nhwc(case.inputs["input"]), dtype))


def statistics_outputs(case: Case, step: int, statistics) -> dict:
    values = by_name({"batch_stats": {"student": statistics["student"]}})
    norms = [norm([values[key]]) for key in case.settings["bn_keys"]]
    return {f"bn_norm_step{step}": norms, **{f"bn_step{step}/{key}": value[:64] for key, value in values.items()}}


def trained_outputs(case: Case) -> dict:
    """The fixture's outputs of a training run, in the precision of the moment."""
    method = method_of(case)
    variables, features = begun(case, method, str(jnp.zeros(()).dtype))
    (stage,) = method.stages()
    steps = case.settings["steps"]
    after, log = run_steps(stage, variables, [{"features": features}] * steps, [jax.random.key(0)] * steps, donate=True)
    teacher = [features[tap] for tap in method.teacher.taps]

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
        "grad_total_norm": [norm(entry["gradient_norms"].values()) for entry in log],
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
    failures = []
    for key in case.expected:
        try:
            case.check(key, found[key.removeprefix("f64/")])
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("rd", "train"))
def test_losses_and_statistics_of_the_first_step_in_float32_equal_the_reference(path):
    case = load(path)
    method = method_of(case)
    variables, features = begun(case, method, "float32")
    (stage,) = method.stages()
    _, (updates, metrics) = jax.jit(stage.loss)(variables, {"features": features}, jax.random.key(0))
    found = statistics_outputs(case, 1, updates["batch_stats"])
    found["loss_per_scale"] = [metrics[f"loss_stride{stride}"] for stride in rd.STRIDES]
    keys = [key for key in case.expected if re.match(r"loss_per_scale$|bn_(norm_)?step1\b", key)]
    assert keys
    for key in keys:
        case.check(key, found[key])


@dataclasses.dataclass(frozen=True)
class Shallow(RD):
    """RD with one block per layer."""

    @property
    def student(self):
        shallow = resnet.Architecture((1, 1, 1, 1), bottleneck=False)
        return dataclasses.replace(super().student, embedding=shallow, mirror=shallow)


def small(dtype: str = "float32", **changes) -> RD:
    """Shallow RD on a ResNet-18."""
    config = config_rd.get_config()
    config.update_from_flattened_dict({"backbone.name": "resnet18", "backbone.weights": "random", "dtype": dtype})
    return make(config, Shallow, **changes)


@pytest.fixture(scope="module")
def started():
    return small().init(jax.random.key(0))


def first_step(count: int):
    """What the engine's first step makes of the state on the first `count` devices, in float64, and its metrics."""
    method, mesh, draw = small(), sharding.make_mesh(devices=jax.devices()[:count]), np.random.default_rng(0)
    shapes = jax.eval_shape(method.init_student, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: draw.normal(0, 0.1, leaf.shape), shapes)
    variables = sharding.put(variables, sharding.shardings(mesh, variables, method.partition))
    teacher = method.teacher
    maps = [draw.normal(size=(8, 64 // s, 64 // s, c)) for s, c in zip(rd.STRIDES, teacher.channels, strict=True)]
    batch = sharding.put_batch(mesh, {"features": dict(zip(teacher.taps, maps, strict=True))})
    (stage,) = method.stages()
    optimizer = stage.optimizer(10)
    rest = {"batch_stats": variables["batch_stats"]}
    state = training.State(variables["params"], rest, jax.jit(optimizer.init)(variables["params"]))
    update = jax.jit(functools.partial(training.training_step, stage, optimizer, method.normalization))
    return jax.device_get(update(state, {}, batch, jax.random.key(0)))


def compare_one_and_eight_devices() -> None:
    """Runs where there are eight."""
    sharding.use_compilation_cache()
    assert jax.device_count() == 8
    with jax.enable_x64(True):  # Adam's first step blows float32's rounding of small gradients up to a whole step
        one, eight = first_step(1), first_step(8)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-7), eight, one)


@pytest.mark.slow
def test_batch_norm_sees_the_whole_batch_on_eight_devices():
    code = "from tests.methods import test_rd; test_rd.compare_one_and_eight_devices()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=runs.environment(8), capture_output=True, text=True, timeout=300, check=False, cwd=runs.ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_bfloat16_is_the_type_of_the_computation_and_of_nothing_else(started):
    image, method = jax.random.normal(jax.random.key(1), (2, 64, 64, 3)), small("bfloat16")
    check_bfloat16(small, started, image)

    def student(variables, image):
        return method.rebuild(variables, list(method.features(variables, {"image": image}).values()))

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(student, started, image))} == {jnp.dtype("float32")}


def test_the_teacher_has_neither_gradient_nor_optimizer_state():
    method = small()
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    (stage,) = method.stages()
    trained, frozen = split_by_path(shapes["params"], stage.trainable)
    assert (set(trained), set(frozen)) == ({"student"}, {"backbone"})
    moments = jax.tree.leaves(jax.eval_shape(stage.optimizer(8).init, trained))
    assert sum(m.size for m in moments if m.size > 1) == 2 * sum(p.size for p in jax.tree.leaves(trained))


def test_the_learning_rate_is_a_tenth_after_four_fifths_of_the_steps():
    def changes(decay_at):
        optimizer = small(decay_at=decay_at).optimizer(10)
        state, found = optimizer.init(jnp.zeros(1)), []
        for _ in range(10):
            change, state = optimizer.update(jnp.ones(1), state)
            found.append(-float(change[0]))
        return found

    np.testing.assert_allclose(changes(0.8), [5e-3] * 8 + [5e-4] * 2, rtol=1e-4)
    np.testing.assert_allclose(changes(None), [5e-3] * 10, rtol=1e-4)


def test_adam_forgets_half_of_its_first_moment_and_bottleneck_and_decoder_are_clipped_together():
    params = {"student": {"bottleneck": jnp.zeros(2), "decoder": jnp.zeros(2)}}
    gradients = {"student": {"bottleneck": jnp.array([3.0, 0.0]), "decoder": jnp.array([0.0, 4.0])}}
    for clip_norm, share in ((2.5, 0.5), (10.0, 1.0), (None, 1.0)):
        optimizer = small(clip_norm=clip_norm).optimizer(10)
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        ((_, mu),) = optax.tree_utils.tree_get_all_with_path(state, "mu")
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5),
            mu,
            jax.tree.map(lambda g, share=share: 0.5 * share * g, gradients),
        )


def test_networks_start_as_the_reference_does(started):
    params = started["params"]["student"]
    kernel = params["decoder"]["layer1_0"]["conv2"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (256 * 9)), rtol=0.01)
    transposed = np.abs(params["decoder"]["layer1_0"]["upsample_0"]["transposed_kernel"])
    np.testing.assert_allclose(transposed.max(), 1 / np.sqrt(4 * 256), rtol=0.01)
    np.testing.assert_array_equal(params["bottleneck"]["bn_layer_0"]["bn2"]["scale"], 1)


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
    config = config_rd.get_config("magnetic_tile,lite")
    config.backbone.weights = "random"
    method = rd.create(config, ("parts",))
    assert (method.student.signed, rd.create(ADER, ("parts",)).student.signed) == (True, False)

    def both(key):
        variables = method.init(key)
        teacher = method.features(variables, {"image": jnp.zeros((1, 64, 96, 3))})
        return teacher, method.rebuild(variables, list(teacher.values()))[0]

    teacher, student = jax.eval_shape(both, jax.random.key(0))
    assert [x.shape for x in student] == [x.shape for x in teacher.values()]
    assert [x.shape for x in student] == [(1, 16, 24, 24), (1, 8, 12, 40), (1, 4, 6, 112)]


def test_the_official_embedding_is_twice_as_wide():
    def parameters(config):
        init = rd.create(config, ("parts",)).init_student
        shapes = jax.eval_shape(init, jax.random.key(0))["params"]["student"]["bottleneck"]
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert (round(parameters(ADER) / 1e6, 2), round(parameters(OFFICIAL) / 1e6, 2)) == (30.83, 58.89)


def test_variants_hold_the_settings_of_the_two_codes_and_a_small_student():
    ader, official, lite = (rd.create(config, ("parts",)) for config in (ADER, OFFICIAL, LITE))
    assert [(m.wide_embedding, m.fusion, m.epochs, m.drop_last, m.decay_at, m.clip_norm) for m in (ader, official)] == [
        (False, "add", 100, True, 0.8, 5.0),
        (True, "sum", 200, False, None, None),
    ]
    assert [m.teacher.weights.split(".")[-1] for m in (ader, official)] == ["racm_in1k", "tv_in1k"]
    for method in (ader, official):
        assert (method.loss_kind, method.learning_rate, method.batch_size) == ("flattened", 5e-3, 16)
        assert method.teacher.channels == (256, 512, 1024)
    teacher = {"teacher": ader.teacher}
    assert dataclasses.replace(lite, **teacher) == ader
    assert (lite.teacher.channels, lite.teacher.strides) == ((24, 40, 112), rd.STRIDES)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("backbone.taps", ("layer2", "layer3"), r"strides \(8, 16\); expected three taps of strides \(4, 8, 16\)"),
        ("backbone.taps", ("layer3", "layer2", "layer1"), r"config.backbone.taps have strides \(16, 8, 4\)"),
        ("input.size", (224, 200), r"config.input.size is \(224, 200\).* take multiples of 32"),
        ("input.size", (200, 224), r"config.input.size is \(200, 224\).* take multiples of 32"),
    ],
)
def test_values_that_do_not_fit_each_other_name_their_fields(field, value, message):
    config = config_rd.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        rd.create(config, ("parts",))
