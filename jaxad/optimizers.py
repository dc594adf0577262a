"""Training recipes with the arithmetic of PyTorch's optimizers, and schedules that know the length of their stage.

A stage's `optimizer` is a function of its number of steps. What depends on this number, such as the step at which the
learning rate drops, is kept in the optimizer's state, so that stages of different lengths share one compiled program.

    optimizer = lambda steps: optax.chain(clip_by_global_norm(5.0), adam(step_decay(0.005), steps, b1=0.5))

Moments and learning rates are float32, or float64 in runs that are.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

Decayed = Callable[[Any], Any] | None  # params -> tree of bool, True where weight decay acts; None: everywhere


@dataclass(frozen=True)
class Schedule:
    """A learning rate over the steps of a stage, which count from 0.

    Attributes:
      marks: total steps -> int32 (n,), the steps on which `rate` depends; computed on the host. n is the same for
        every length and at least 1, since a checkpoint holds no empty arrays.
      rate: (step (), marks (n,)) -> learning rate (); traced.
    """

    marks: Callable[[int], np.ndarray]
    rate: Callable[[Int[Array, ""], Int[Array, " n"]], Float[Array, ""]]


def constant(rate: float) -> Schedule:
    """The same learning rate throughout."""
    return Schedule(lambda total: np.array([total], np.int32), lambda step, marks: jnp.asarray(rate, float))


def step_decay(rate: float, at: float | Sequence[float] | None = (0.8,), factor: float = 0.1) -> Schedule:
    """`rate`, multiplied by `factor` at each boundary: step ceil(share * total), for the shares of the stage in `at`.

    Without boundaries (None) the rate is constant.
    """
    shares = [at] if isinstance(at, int | float) else list(at or ())
    if not shares:
        return constant(rate)
    rates = np.array([rate * factor**drops for drops in range(len(shares) + 1)])
    return Schedule(
        lambda total: np.array([math.ceil(share * total) for share in shares], np.int32),
        lambda step, marks: jnp.asarray(rates, float)[jnp.sum(step >= marks)],
    )


def cosine(rate: float, final: float = 0.0, warmup: int = 0, start: float = 0.0) -> Schedule:
    """Half a cosine from `rate` down to `final`, which the step `total` would reach and later ones keep.

    The first `warmup` steps go in a line from `start` to `rate` instead, both included; the cosine begins after them.
    """

    def at(step: Array, marks: Array) -> Array:
        total = marks[0]
        left = jnp.maximum(total - step, 0) / jnp.maximum(total - warmup, 1)
        falling = final + (rate - final) * jnp.sin(0.5 * math.pi * left) ** 2  # 1 + cos would cancel near the end
        rising = start + (rate - start) * (step / max(warmup - 1, 1))
        return jnp.where(step < jnp.minimum(warmup, total), rising, falling)

    return Schedule(lambda total: np.array([total], np.int32), at)


class RateState(NamedTuple):
    """State of `scale_by_rate`."""

    step: Int[Array, ""]  # updates so far
    marks: Int[Array, " n"]
    learning_rate: Float[Array, ""]  # of the last update; before the first one, of that one


def scale_by_rate(rate: Schedule | float, total_steps: int) -> optax.GradientTransformation:
    """Multiplies updates by minus the learning rate, the last link of a recipe over `total_steps` steps."""
    schedule = rate if isinstance(rate, Schedule) else constant(rate)

    def learning_rate(step: Array, marks: Array) -> Array:
        return jnp.asarray(schedule.rate(step, marks), float)

    def init(params: Any) -> RateState:
        step, marks = jnp.zeros((), jnp.int32), jnp.asarray(schedule.marks(total_steps), jnp.int32)
        return RateState(step, marks, learning_rate(step, marks))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RateState]:
        used = learning_rate(state.step, state.marks)
        return jax.tree.map(lambda u: -used * u, updates), RateState(state.step + 1, state.marks, used)

    return optax.GradientTransformation(init, update)


def learning_rates(state: Any) -> dict[str, Float[Array, ""]]:
    """The learning rates of the last update, found anywhere in an optimizer's state: {"learning_rate": ...}, or one
    entry "learning_rate/GROUP" for each group of `by_module` or `optax.partition`.
    """
    rates = {}
    for path, node in jax.tree.leaves_with_path(state, is_leaf=lambda node: isinstance(node, RateState)):
        if isinstance(node, RateState):
            pairs = itertools.pairwise(path)
            groups = [str(key.key) for above, key in pairs if getattr(above, "name", "") == "inner_states"]
            rates["/".join(["learning_rate", *groups])] = node.learning_rate
    return rates


def clip_by_global_norm(max_norm: float | None) -> optax.GradientTransformation:
    """`torch.nn.utils.clip_grad_norm_`: scales all gradients where their common norm is above `max_norm`; None: never.

    PyTorch adds 1e-6 to the norm, which optax does not: after a few steps of a deep network that shows.
    """
    if max_norm is None:
        return optax.identity()

    def clip(gradients: Any, _) -> Any:
        scale = jnp.minimum(1.0, max_norm / (optax.global_norm(_widened(gradients)) + 1e-6))
        return jax.tree.map(lambda gradient: gradient * scale, gradients)

    return optax.stateless(clip)


def matrices(params: Any) -> Any:
    """True on leaves of two axes or more, False on biases and norms: what ADer's recipes decay."""
    return jax.tree.map(lambda value: value.ndim > 1, params)


def sgd(
    rate: Schedule | float, total_steps: int, momentum: float = 0.0, weight_decay: float = 0.0, decayed: Decayed = None
) -> optax.GradientTransformation:
    """`torch.optim.SGD`.

    Args:
      weight_decay: multiple of the parameters that is added to their gradients.
      decayed: which parameters; None: all.
    """
    velocity = optax.trace(momentum) if momentum else optax.identity()
    return _recipe(_decay(weight_decay, decayed), velocity, scale_by_rate(rate, total_steps))


def adam(
    rate: Schedule | float,
    total_steps: int,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    l2: float = 0.0,
    decayed: Decayed = None,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    """`torch.optim.Adam`.

    Args:
      l2: PyTorch's `weight_decay`, the multiple of the parameters that is added to their gradients.
      decayed: which parameters; None: all.
    """
    return _recipe(_decay(l2, decayed), scale_by_adam(b1, b2, eps, amsgrad), scale_by_rate(rate, total_steps))


def adamw(
    rate: Schedule | float,
    total_steps: int,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decayed: Decayed = None,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    """`torch.optim.AdamW`.

    Args:
      weight_decay: the share of the parameters, times the learning rate, that is taken from them at each step.
      decayed: which parameters; None: all.
    """
    return stable_adamw(rate, total_steps, b1, b2, eps, weight_decay, decayed, amsgrad, clip_threshold=None)


def stable_adamw(
    rate: Schedule | float,
    total_steps: int,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    decayed: Decayed = None,
    amsgrad: bool = False,
    clip_threshold: float | None = 1.0,
) -> optax.GradientTransformation:
    """AdamW that takes smaller steps, tensor by tensor, while the gradient is large for its second moment.

    Wortsman et al., "Stable and low-precision training for large-scale vision-language models", NeurIPS 2023,
    with the AMSGrad option of Dinomaly's code; `clip_threshold` as in `scale_by_adam`.
    """
    adam = scale_by_adam(b1, b2, eps, amsgrad, clip_threshold)
    return _recipe(adam, _decay(weight_decay, decayed), scale_by_rate(rate, total_steps))


class AdamState(NamedTuple):
    """State of `scale_by_adam`."""

    count: Int[Array, ""]
    mu: Any  # first moments
    nu: Any  # second moments
    nu_max: Any  # largest second moments so far; None without AMSGrad


def scale_by_adam(
    b1: float, b2: float, eps: float, amsgrad: bool = False, clip_threshold: float | None = None
) -> optax.GradientTransformation:
    """Adam's direction, mu / (1 - b1^t) / (sqrt(nu) / sqrt(1 - b2^t) + eps), as PyTorch computes it.

    Two things differ from optax. AMSGrad keeps the largest nu, not the largest nu / (1 - b2^t). And 1 - b2^t is exact:
    optax rounds b2 to float32, which with b2 = 0.999 makes the first hundreds of updates too small by 7e-6.

    Args:
      clip_threshold: a tensor's direction is divided by max(1, rms / threshold), where rms is the root mean square of
        gradient / denominator; None: it is not.
    """

    def correction(decay: float, count: Array) -> Array:
        return -jnp.expm1(count * (math.log(decay) if decay else -math.inf))

    def init(params: Any) -> AdamState:
        mu, nu, nu_max = (jax.tree.map(jnp.zeros_like, params) for _ in range(3))
        return AdamState(jnp.zeros((), jnp.int32), mu, nu, nu_max if amsgrad else None)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdamState]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, updates)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None
        first, second = correction(b1, count), jnp.sqrt(correction(b2, count))

        def direction(g: Array, m: Array, v: Array) -> Array:
            denominator = jnp.sqrt(v) / second + eps
            if clip_threshold is None:
                return m / first / denominator
            rms = jnp.sqrt(jnp.mean(jnp.square(g / denominator)))
            return m / (first * jnp.maximum(1.0, rms / clip_threshold)) / denominator

        directions = jax.tree.map(direction, updates, mu, nu_max if amsgrad else nu)
        return directions, AdamState(count, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def by_module(transforms: Mapping[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """One transformation for each top-level module of the parameters; clipping inside one sees its module only.

    Raises:
      ValueError: (in init and update) a module has no transformation; the message names it.
    """

    def labels(params: Mapping[str, Any]) -> dict[str, Any]:
        if missing := sorted(set(params) - set(transforms)):
            raise ValueError(f"no optimizer for {', '.join(missing)}; by_module has {', '.join(transforms)}")
        return {name: jax.tree.map(lambda _, name=name: name, module) for name, module in params.items()}

    return optax.partition({**transforms}, labels)


def _decay(weight: float, decayed: Decayed) -> optax.GradientTransformation:
    return optax.add_decayed_weights(weight, decayed) if weight else optax.identity()


def _widened(tree: Any) -> Any:
    """The tree in float32; float64 stays."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), tree)


def _recipe(*links: optax.GradientTransformation) -> optax.GradientTransformation:
    """The chain of the links, with bfloat16 parameters and gradients widened before the first."""
    chain = optax.chain(*links)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return chain.update(_widened(updates), state, _widened(params))

    return optax.GradientTransformation(lambda params: chain.init(_widened(params)), update)
