"""Optimizers and schedules against PyTorch's numbers and Python's arithmetic.

tests/golden/data/optimizers/torch.npz was made with PyTorch 2.14 in float64: `param/PATH`, `gradient/PATH` (step, ...)
and `CASE/PATH` (step, ...), the parameters after each step of a case. Gradients have a spike in the third step and are
small in the fourth.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from jaxad.optimizers import (
    Schedule,
    adam,
    adamw,
    by_module,
    clip_by_global_norm,
    constant,
    cosine,
    learning_rates,
    matrices,
    scale_by_adam,
    sgd,
    stable_adamw,
    step_decay,
)
from tests.golden.load import cases, load

TORCH = Path(__file__).parent / "golden" / "data" / "optimizers" / "torch.npz"
RATE, DECAY, STEPS = 0.125, 0.25, 5
RECIPES = {
    "sgd": lambda: sgd(RATE, STEPS),
    "sgd_momentum_decay": lambda: sgd(RATE, STEPS, momentum=0.9, weight_decay=DECAY),
    "sgd_matrices": lambda: sgd(RATE, STEPS, momentum=0.9, weight_decay=DECAY, decayed=matrices),
    "adam": lambda: adam(RATE, STEPS, b1=0.5),
    "adam_l2": lambda: adam(RATE, STEPS, eps=0.0625, l2=DECAY),
    "adam_amsgrad": lambda: adam(RATE, STEPS, b1=0.5, b2=0.75, amsgrad=True),
    "adamw": lambda: adamw(RATE, STEPS, weight_decay=DECAY),
    "adamw_matrices": lambda: adamw(RATE, STEPS, weight_decay=DECAY, decayed=matrices),
    "adamw_amsgrad": lambda: adamw(RATE, STEPS, b1=0.75, b2=0.75, weight_decay=DECAY, amsgrad=True),
    "clipped_sgd": lambda: optax.chain(clip_by_global_norm(1.0), sgd(RATE, STEPS)),
    "clipped_decayed_adamw": lambda: optax.chain(
        clip_by_global_norm(1.0), adamw(step_decay(RATE, (0.4, 0.8), 0.5), STEPS, weight_decay=DECAY)
    ),
}
PARAMS = {"encoder": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "head": {"kernel": jnp.ones((4, 2))}}


def part(name: str, dtype=np.float32) -> dict:
    """One case of the file as a nested dict."""
    with np.load(TORCH) as file:
        flat = {key: file[key].astype(dtype) for key in file.files}
    flat = {key.removeprefix(f"{name}/"): value for key, value in flat.items() if key.startswith(f"{name}/")}
    return traverse_util.unflatten_dict(flat, sep="/")


def trajectory(optimizer: optax.GradientTransformation, params, gradients, steps: int = STEPS):
    """(parameters, state) after each step, with the gradients of each, stacked on a first axis."""
    state, update, found = jax.jit(optimizer.init)(params), jax.jit(optimizer.update), []
    for step in range(steps):
        changes, state = update(jax.tree.map(lambda leaf, step=step: leaf[step], gradients), state, params)
        params = optax.apply_updates(params, changes)
        found.append((params, state))
    return found


def rates(schedule: Schedule, total: int, steps) -> np.ndarray:
    marks = jnp.asarray(schedule.marks(total))
    return np.asarray(jax.vmap(lambda step: jnp.asarray(schedule.rate(step, marks), jnp.float32))(jnp.asarray(steps)))


def stacked(found) -> dict:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[params for params, _ in found])


@pytest.mark.parametrize("name", RECIPES)
def test_equals_pytorch_in_float64(name):
    with jax.enable_x64(True):
        params, gradients = (jax.tree.map(jnp.asarray, part(key, np.float64)) for key in ("param", "gradient"))
        found = stacked(trajectory(RECIPES[name](), params, gradients))
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-11), found, part(name, np.float64))


@pytest.mark.parametrize("name", RECIPES)
def test_equals_pytorch_in_float32(name):
    found = stacked(trajectory(RECIPES[name](), part("param"), part("gradient")))
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=0, atol=4e-7), found, part(name))


@pytest.mark.parametrize("path", cases("dinomaly", "optimizer"))
def test_stable_adamw_equals_dinomaly(path):
    case = load(path)
    given, names = case.settings["optimizer"], case.settings["parameters"]
    b1, b2 = given["betas"]
    rate = cosine(given["base_lr"], given["final_lr"], case.settings["warmup_iterations"])
    threshold = given["clip_threshold"]
    recipe = stable_adamw(
        rate,
        case.settings["total_iterations"],
        b1,
        b2,
        given["eps"],
        given["weight_decay"],
        amsgrad=given["amsgrad"],
        clip_threshold=threshold,
    )
    clip = clip_by_global_norm(case.settings["clip_global_norm"])
    params, gradients = (
        {name: jnp.asarray(case.inputs[f"{kind}/{name}"]) for name in names} for kind in ("param", "grad")
    )
    found = trajectory(optax.chain(clip, recipe), params, gradients, case.settings["steps"])

    def rms(step: int, name: str) -> float:
        """By the state's moments, from the clipped gradient."""
        each = {name: values[step] for name, values in gradients.items()}
        gradient = clip.update(each, clip.init(each))[0][name]
        _, moments = optax.tree_utils.tree_get_all_with_path(found[step][1], "nu_max" if given["amsgrad"] else "nu")[0]
        denominator = np.sqrt(moments[name]) / math.sqrt(1 - b2 ** (step + 1)) + given["eps"]
        return float(np.sqrt(np.mean(np.square(gradient / denominator))))

    steps = range(case.settings["steps"])
    outputs = {
        "lr": [learning_rates(state)["learning_rate"] for _, state in found],
        "rms": [[rms(step, name) for name in names] for step in steps],
        "total_norm": [optax.global_norm([values[step] for values in gradients.values()]) for step in steps],
        **{f"after/{name}": values for name, values in stacked(found).items()},
    }
    for key in case.expected:
        case.check(key, np.asarray(outputs[key]))


def test_the_clip_threshold_bounds_the_first_step():
    """There the gradient's rms over the denominator is 1, whatever the gradient."""
    gradients = part("gradient")

    def first(threshold: float | None):
        recipe = stable_adamw(RATE, STEPS, weight_decay=0.0, clip_threshold=threshold)
        return trajectory(recipe, jax.tree.map(jnp.zeros_like, part("param")), gradients, 1)[0][0]

    for threshold, share in [(0.25, 0.25), (2.0, 1.0), (None, 1.0)]:
        want = jax.tree.map(lambda leaf, share=share: -share * RATE * np.sign(leaf[0]), gradients)
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4), first(threshold), want)


@pytest.mark.parametrize("path", cases("dinomaly", "schedule"))
def test_cosine_equals_dinomaly(path):
    case = load(path)
    given = case.settings
    schedule = cosine(given["base_lr"], given["final_lr"], given["warmup_iterations"])
    case.check("lr", rates(schedule, given["total_iterations"], given["iterations"]))


def test_cosine_over_the_whole_run_ends_at_its_final_rate():
    found = rates(cosine(0.03), 250, np.arange(252))
    want = [0.015 * (1 + math.cos(math.pi * step / 250)) for step in range(250)] + [0.0, 0.0]
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-12)
    rising = np.array([0.0, 0.003, 0.006, 0.009])
    np.testing.assert_allclose(rates(cosine(0.027, 0.001, warmup=10), 4, np.arange(6)), [*rising, 0.001, 0.001], 1e-6)
    np.testing.assert_allclose(rates(cosine(0.03, 0.001, warmup=1, start=0.002), 4, [0, 1, 4]), [0.002, 0.03, 0.001])


@pytest.mark.parametrize("total", [1, 5, 100, 218, 250])
@pytest.mark.parametrize("at", [0.8, (0.8,), (0.07, 0.9), [0.5, 0.55, 1.0], 0.0])
def test_step_decay_drops_at_pythons_ceiling(at, total):
    shares = [at] if isinstance(at, float) else at
    want = [0.4 * 0.1 ** sum(step >= math.ceil(share * total) for share in shares) for step in range(total)]
    np.testing.assert_array_equal(rates(step_decay(0.4, at), total, np.arange(total)), np.float32(want))


def test_step_decay_of_the_benchmarks_length():
    found = rates(step_decay(0.005), 218, [0, 173, 174, 175, 217])
    np.testing.assert_array_equal(found, np.float32([0.005, 0.005, 0.005, 0.0005, 0.0005]))
    found = rates(step_decay(0.005, factor=0.5), 250, [199, 200])
    np.testing.assert_array_equal(found, np.float32([0.005, 0.0025]))
    for at in (None, ()):
        np.testing.assert_array_equal(rates(step_decay(0.005, at), 250, [0, 249]), np.float32([0.005, 0.005]))


@pytest.mark.parametrize("rate", [0.1, constant(0.1), step_decay(0.1), step_decay(0.1, (0.5, 0.9)), cosine(0.1, 0, 9)])
@pytest.mark.parametrize("make", [sgd, adam, adamw, stable_adamw])
def test_the_compiled_update_does_not_know_the_number_of_steps(make, rate):
    def lowered(total: int) -> str:
        optimizer = optax.chain(clip_by_global_norm(1.0), make(rate, total))
        state = jax.jit(optimizer.init)(PARAMS)
        assert all(leaf.size for leaf in jax.tree.leaves(state))  # Orbax saves no empty arrays
        return jax.jit(optimizer.update).lower(PARAMS, state, PARAMS).as_text()

    assert lowered(218) == lowered(250)


def test_learning_rates_are_those_of_the_last_update():
    optimizer = optax.chain(clip_by_global_norm(1.0), optax.masked(sgd(step_decay(0.5, 0.5), 4), matrices))
    gradients = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), PARAMS)
    states = [optimizer.init(PARAMS), *(state for _, state in trajectory(optimizer, PARAMS, gradients, 4))]
    found = [learning_rates(state) for state in states]
    assert [list(each) for each in found] == [["learning_rate"]] * 5
    np.testing.assert_allclose([each["learning_rate"] for each in found], [0.5, 0.5, 0.5, 0.05, 0.05])
    assert learning_rates(optax.sgd(0.1).init(PARAMS)) == {}


def test_each_module_has_its_own_recipe_and_rate():
    recipes = {
        "encoder": optax.chain(clip_by_global_norm(1.0), adamw(0.25, 4, decayed=matrices)),
        "head": sgd(step_decay(0.5, 0.5), 4),
        "absent": sgd(0.75, 4),
    }
    gradients = jax.tree.map(lambda leaf: jnp.stack([leaf * step for step in (1, 2, 3, 4)]), PARAMS)
    found = trajectory(by_module(recipes), PARAMS, gradients, 4)
    for name in PARAMS:
        alone = trajectory(recipes[name], PARAMS[name], gradients[name], 4)
        jax.tree.map(np.testing.assert_array_equal, found[-1][0][name], alone[-1][0])
    got = learning_rates(found[-1][1])
    assert {name: float(value) for name, value in got.items()} == {
        "learning_rate/encoder": 0.25,
        "learning_rate/head": pytest.approx(0.05),
        "learning_rate/absent": 0.75,
    }


def test_a_module_without_a_recipe_is_named():
    with pytest.raises(ValueError, match=r"no optimizer for encoder; by_module has head, neck"):
        by_module({"head": sgd(0.1, 4), "neck": sgd(0.1, 4)}).init(PARAMS)


@pytest.mark.parametrize(
    "make", [lambda **kw: sgd(0.5, 4, weight_decay=0.5, **kw), lambda **kw: adam(0.5, 4, l2=0.5, **kw)]
)
def test_a_mask_leaves_biases_undecayed(make):
    zero = jax.tree.map(jnp.zeros_like, PARAMS)

    def change(optimizer):
        return optimizer.update(zero, optimizer.init(PARAMS), PARAMS)[0]

    everything, masked = change(make()), change(make(decayed=matrices))
    assert np.all(everything["encoder"]["bias"] != 0) and np.all(masked["encoder"]["bias"] == 0)
    np.testing.assert_array_equal(masked["encoder"]["kernel"], everything["encoder"]["kernel"])
    assert np.all(masked["encoder"]["kernel"] != 0)


def test_matrices_are_the_leaves_of_two_axes_or_more():
    params = {"conv": np.ones((3, 3, 4, 8)), "norm": {"scale": np.ones(8)}, "temperature": np.ones(())}
    assert matrices(params) == {"conv": True, "norm": {"scale": False}, "temperature": False}


def test_clipping_adds_pytorchs_epsilon_to_the_norm():
    gradients = {"a": jnp.array([3e-6]), "b": jnp.array([0.0, 4e-6])}
    clip = clip_by_global_norm(1e-6)
    found = clip.update(gradients, clip.init(gradients))[0]
    np.testing.assert_allclose(found["a"], 3e-6 * 1e-6 / 6e-6, rtol=1e-5)
    np.testing.assert_allclose(found["b"], [0.0, 4e-6 * 1e-6 / 6e-6], rtol=1e-5)


@pytest.mark.parametrize("max_norm", [5.1, None])
def test_gradients_below_the_limit_or_without_one_are_left(max_norm):
    gradients = {"a": jnp.array([3.0]), "b": jnp.array([0.0, 4.0])}
    clip = clip_by_global_norm(max_norm)
    found = clip.update(gradients, clip.init(gradients))[0]
    jax.tree.map(np.testing.assert_array_equal, found, gradients)


def test_bias_correction_is_exact_in_float32():
    link = scale_by_adam(0.9, 0.999, 1e-8)
    gradients = jnp.array([0.3, -2.0, 1e-3])
    state = link.init(gradients)
    for _ in range(300):
        found, state = jax.jit(link.update)(gradients, state)
    np.testing.assert_allclose(found, gradients / (jnp.abs(gradients) + 1e-8), rtol=3e-6)  # optax: 7e-6


@pytest.mark.parametrize("make", [sgd, adam, adamw, stable_adamw])
def test_bfloat16_parameters_have_float32_moments(make):
    settings = {"momentum": 0.9} if make is sgd else {"amsgrad": True}
    narrow, wide = (jax.tree.map(lambda leaf, t=t: leaf.astype(t), PARAMS) for t in (jnp.bfloat16, jnp.float32))
    optimizer = optax.chain(clip_by_global_norm(1.0), make(0.1, 4, **settings))

    def change(params):
        gradients = jax.tree.map(lambda leaf: leaf * 0.25, params)
        return optimizer.update(gradients, optimizer.init(params), params)

    changes, state = change(narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(np.float32), np.dtype(np.int32)}
    jax.tree.map(np.testing.assert_array_equal, changes, change(wide)[0])
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(optax.apply_updates(narrow, changes)))
