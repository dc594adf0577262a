"""A method of two others: trained, interrupted, resumed and asked for predictions as any other method is.

`Better` is written as a composed method would be: a trained part (`Reconstruction`), a memory at half the size
(`NearestColour`), and a last stage of its own, which measures both on held-out images and keeps the better one.
"""

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float
from sklearn.metrics import roc_auc_score

from jaxad import sharding, training
from jaxad.checkpoint import Checkpoints, Progress, Restored
from jaxad.composition import Part
from jaxad.errors import UserError
from jaxad.log import MetricLog
from jaxad.method import (
    UNIT_NORMALIZATION,
    Batch,
    Batches,
    Fit,
    LossValue,
    Method,
    Normalization,
    Prediction,
    Stage,
    Train,
    Variables,
)
from jaxad.metrics import rank_images
from jaxad.metrics.ranking import auroc
from jaxad.nn.linear import Dense
from jaxad.nn.norm import BatchNorm
from jaxad.nn.resize import resize
from jaxad.nn.scoring import largest
from jaxad.optimizers import adamw, by_module, clip_by_global_norm, sgd, step_decay
from jaxad.prediction import Predictor
from jaxad.trees import inside, merge, under
from tests.methods.golden import run_fit

SIZE, HALF = (16, 16), (8, 8)


def cells(image: Float[Array, "b h w 3"]) -> Float[Array, "b h/2 w/2 12"]:
    """The colours of every 2 x 2 pixels."""
    b, h, w, c = image.shape
    return image.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def prediction(scores: Float[Array, "b gh gw"], size: tuple[int, int]) -> Prediction:
    maps = resize(scores[..., None], size)[..., 0]
    return Prediction(maps, largest(maps))


class Encoder(nn.Module):
    code: int

    @nn.compact
    def __call__(self, features: Float[Array, "*n d"], train: bool) -> Float[Array, "*n c"]:
        code = Dense(self.code, use_bias=False, name="linear")(features)
        return nn.relu(BatchNorm(name="norm")(code, train))


@dataclass(frozen=True)
class Reconstruction(Method):
    """Squeezes frozen features through a short code; where they are not rebuilt, the image is anomalous."""

    width: int
    code: int
    learning_rate: float
    epochs: int

    partition = ((r"^params/decoder/kernel$", PartitionSpec(None, "model")),)

    @property
    def normalization(self) -> Normalization:
        return (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)

    def init(self, key: Array) -> Variables:
        backbone, encoder, decoder = jax.random.split(key, 3)
        features, code = jnp.zeros((1, self.width)), jnp.zeros((1, self.code))
        return merge(
            under("backbone", {"params": {"kernel": 0.3 * jax.random.normal(backbone, (12, self.width))}}),
            under("encoder", dict(Encoder(self.code).init(encoder, features, train=False))),
            under("decoder", dict(Dense(self.width).init(decoder, code))),
        )

    def features(self, variables: Variables, batch: Batch) -> Float[Array, "b gh gw d"]:
        return jnp.tanh(cells(batch["image"]) @ variables["params"]["backbone"]["kernel"])

    def rebuilt(self, variables: Variables, features: Float[Array, "b gh gw d"], train: bool) -> tuple[Any, Variables]:
        """The features as they come out of the code, and the new statistics."""
        code, updates = Encoder(self.code).apply(
            inside(variables, "encoder"), features, train, mutable=["batch_stats"] if train else []
        )
        return Dense(self.width).apply(inside(variables, "decoder"), code), under("encoder", dict(updates))

    def loss(self, variables: Variables, batch: Batch, key: Array) -> LossValue:
        features = batch["features"]
        noisy = features + 0.1 * jax.random.normal(key, features.shape)
        rebuilt, updates = self.rebuilt(variables, noisy, train=True)
        errors = jnp.mean((rebuilt - features) ** 2, -1)
        return jnp.mean(errors), (updates, {"largest_error": jnp.max(errors)})

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        encoder = adamw(step_decay(self.learning_rate, 0.5), steps)
        decoder = optax.chain(clip_by_global_norm(1.0), sgd(10 * self.learning_rate, steps, momentum=0.9))
        return by_module({"encoder": encoder, "decoder": decoder})

    def monitor(self, variables: Variables, batches: Batches) -> float:
        """How well the images' scores tell the held-out defective images from the normal ones."""
        found = [(self.predict(variables, batch).score, batch["label"], batch["weight"]) for batch in batches]
        scores, labels, weights = (np.concatenate(values) for values in zip(*found, strict=True))
        return image_auroc(scores[weights > 0], labels[weights > 0])

    def stages(self) -> Sequence[Train]:
        return [
            Train(
                name="reconstruction",
                loss=self.loss,
                optimizer=self.optimizer,
                trainable=lambda path: path.startswith(("encoder/", "decoder/")),
                epochs=self.epochs,
                batch_size=4,
                features=self.features,
                monitor=self.monitor,
            )
        ]

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        features = self.features(variables, batch)
        rebuilt, _ = self.rebuilt(variables, features, train=False)
        return prediction(jnp.mean((rebuilt - features) ** 2, -1), batch["image"].shape[1:3])


@dataclass(frozen=True)
class NearestColour(Method):
    """Keeps some cells of the normal images; a cell far from all of them is anomalous."""

    input_size: tuple[int, int]
    kept: int

    partition = ((r"^memory/bank$", PartitionSpec("data")), (r"^carry/rows$", PartitionSpec(None, "data")))

    @property
    def normalization(self) -> Normalization:
        return (0.3, 0.5, 0.6), (0.5, 0.2, 0.4)

    def init(self, key: Array) -> Variables:
        return {"constants": {"weights": jnp.tile(jnp.array([1.0, 2.0, 1.0]), 4)}}

    def rows(self, variables: Variables, batch: Batch) -> Float[Array, "b gh gw 12"]:
        return cells(batch["image"]) * variables["constants"]["weights"]

    def stages(self) -> Sequence[Fit]:
        return [Fit("memory", self.start, self.update, self.finish)]

    def start(self, variables: Variables, examples: int, batch_size: int) -> dict[str, Array]:
        count = self.input_size[0] * self.input_size[1] // 4
        return {"rows": jnp.zeros((-(-examples // batch_size), batch_size * count, 12))}

    def update(self, variables: Variables, carry: dict[str, Array], batch: Batch, step: Array) -> dict[str, Array]:
        rows = self.rows(variables, batch).reshape(-1, 12)
        return {"rows": jax.lax.dynamic_update_index_in_dim(carry["rows"], rows, step, 0)}

    def finish(self, variables: Variables, carry: dict[str, Array], examples: int, key: Array) -> Variables:
        count = examples * self.input_size[0] * self.input_size[1] // 4  # what fills the last batch is left out
        rows = carry["rows"].reshape(-1, 12)[:count]
        return {**variables, "memory": {"bank": jax.random.choice(key, rows, (self.kept,), replace=False)}}

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        differences = self.rows(variables, batch)[..., None, :] - variables["memory"]["bank"]
        return prediction(jnp.min(jnp.sum(differences**2, -1), -1), batch["image"].shape[1:3])


@dataclass(frozen=True)
class Better(Method):
    """Two parts, of which the one predicts that ranks the validation images better.

    The collection "choice" holds `index`, the better part's place in `parts`, and `auroc` of each.
    """

    reconstruction: Part
    colour: Part

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.reconstruction, self.colour

    @property
    def partition(self) -> Sequence[tuple[str, PartitionSpec]]:
        return [rule for part in self.parts for rule in part.partition]

    @property
    def normalization(self) -> Normalization:
        return UNIT_NORMALIZATION

    def init(self, key: Array) -> Variables:
        keys = jax.random.split(key, len(self.parts))
        choice = {"index": jnp.zeros((), jnp.int32), "auroc": jnp.zeros(len(self.parts))}
        return merge({"choice": choice}, *(part.init(key) for part, key in zip(self.parts, keys, strict=True)))

    def stages(self) -> Sequence[Stage]:
        choice = Fit("choice", self.start, self.update, self.finish, data="validation")
        return [*(stage for part in self.parts for stage in part.stages()), choice]

    def start(self, variables: Variables, examples: int, batch_size: int) -> dict[str, Array]:
        batches = -(-examples // batch_size)
        return {"scores": jnp.zeros((batches, batch_size, 2)), "labels": jnp.zeros((batches, batch_size), bool)}

    def update(self, variables: Variables, carry: dict[str, Array], batch: Batch, step: Array) -> dict[str, Array]:
        scores = jnp.stack([part.predict(variables, batch).score for part in self.parts], -1)
        new = {"scores": scores, "labels": batch["label"] > 0}
        return {name: jax.lax.dynamic_update_index_in_dim(carry[name], new[name], step, 0) for name in new}

    def finish(self, variables: Variables, carry: dict[str, Array], examples: int, key: Array) -> Variables:
        scores, labels = np.asarray(carry["scores"]).reshape(-1, 2)[:examples], np.asarray(carry["labels"]).ravel()
        found = np.array([image_auroc(column, labels[:examples]) for column in scores.T])
        if np.isnan(found).any():
            raise UserError("the validation images are all normal or all defective; expected some of both")
        choice = {"index": jnp.int32(np.argmax(found)), "auroc": jnp.asarray(found, jnp.float32)}
        return {**variables, "choice": choice}

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        ways = [functools.partial(part.predict, variables) for part in self.parts]
        return jax.lax.switch(variables["choice"]["index"], ways, batch)


def image_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return auroc(rank_images(scores, labels.astype(bool)))


RECONSTRUCTION = Reconstruction(width=8, code=3, learning_rate=0.05, epochs=3)
COLOUR = NearestColour(HALF, kept=24)
METHOD = Better(Part("reconstruction", RECONSTRUCTION), Part("colour", COLOUR, HALF))


class Images:
    """Stripes with noise; the defective images have a stain. Items are as a `Split` gives them."""

    def __init__(self, normal: int, defective: int = 0):
        self.labels = np.arange(normal + defective) >= normal
        self.ids = [f"image {i}" for i in range(len(self.labels))]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        draw, (y, x) = np.random.default_rng((len(self), i)), np.mgrid[: SIZE[0], : SIZE[1]]
        image = 120 + 40 * np.sin(x / 2 + draw.uniform(0, 6))[..., None] + draw.normal(0, 12, (*SIZE, 3))
        mask = self.labels[i] & ((y - draw.integers(4, 12)) ** 2 + (x - draw.integers(4, 12)) ** 2 < 6)
        image[mask] += draw.uniform(-60, 60, 3)
        return {
            "image": np.clip(image, 0, 255).astype(np.uint8),
            "mask": mask,
            "valid": (y >= 2) & (x < 15),
            "label": np.int32(self.labels[i]),
            "category": np.int32(0),
            "has_mask": np.bool_(True),
            "index": np.int32(i),
        }


SPLITS = {"train": Images(10), "validation": Images(5, 5)}


def make_run(folder: Path, method: Method = METHOD) -> training.Run:
    return training.Run(
        method=method,
        mesh=sharding.make_mesh(devices=jax.devices()[:1]),
        seed=0,
        splits=SPLITS,
        checkpoints=Checkpoints(folder / "checkpoints"),
        log=MetricLog(folder),
        workdir=folder,
        batch_size=4,
        checkpoint_every=1,
        log_every=1,
        feature_bytes=(2.0**20, 0.0),
    )


def logged(folder: Path) -> list[dict[str, float]]:
    """The records of a run, without its speed."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Variables, Path]:
    """The variables of a run that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("trained")
    variables, _ = training.run_stages(make_run(folder), None)
    return variables, folder


@pytest.fixture(scope="module")
def variables() -> Variables:
    return METHOD.init(jax.random.key(1))


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    """Held-out images as a composed method gets them, in [0, 1]."""
    found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(SPLITS["validation"][i] for i in (0, 3, 5, 6, 9)))
    return {**found, "image": found["image"] / np.float32(255), "weight": jnp.ones(5)}


def as_seen_alone(part: Part, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch that the part's method would get without the composition: in its size, by its normalisation."""
    size = part.size or SIZE
    mean, std = (np.asarray(numbers, np.float32) for numbers in part.method.normalization)
    rows, columns = SIZE[0] // size[0], SIZE[1] // size[1]
    masks = {name: batch[name][:, ::rows, ::columns] for name in ("mask", "valid")}
    return {**batch, **masks, "image": (resize(batch["image"], size, antialias=True) - mean) / std}


def assert_equal(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_close(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6), found, expected)


def paths(tree: Any, prefix: str = "") -> list[str]:
    return jax.tree.leaves(sharding.path_names(tree, prefix))


def test_every_array_of_a_part_lies_below_its_name(variables):
    for part in METHOD.parts:
        own = part.method.init(jax.random.key(2))
        assert jax.tree.structure(part.inside(variables)) == jax.tree.structure(own)
        assert_equal(part.inside(part.init(jax.random.key(2))), own)
    below = {path.split("/")[1] for path in paths(variables) if not path.startswith("choice/")}
    assert below == {"reconstruction", "colour"}


def test_stages_are_named_after_their_part():
    names = [stage.name for stage in METHOD.stages()]
    assert names == ["reconstruction/reconstruction", "colour/memory", "choice"]


def test_a_stage_keeps_the_settings_that_say_when_and_on_what_it_runs():
    settings = {"epochs": None, "steps": 7, "batch_size": 3, "drop_last": True, "data": "auxiliary", "patience": 2}
    drawn = {"sampling": "replacement", "same_draws": True, "prepare": lambda images, i, rng: images[i]}
    train = METHOD.reconstruction.stage(replace(RECONSTRUCTION.stages()[0], **settings, **drawn))
    assert {name: getattr(train, name) for name in settings | drawn} == settings | drawn
    fit = METHOD.colour.stage(replace(COLOUR.stages()[0], data="train+masks"))
    assert fit.data == "train+masks"
    bare = METHOD.reconstruction.stage(replace(RECONSTRUCTION.stages()[0], features=None, monitor=None))
    assert isinstance(bare, Train) and bare.features is bare.monitor is bare.minibatches is None


@pytest.mark.parametrize(
    "path, trainable",
    [
        ("reconstruction/encoder/linear/kernel", True),
        ("reconstruction/decoder/bias", True),
        ("reconstruction/backbone/kernel", False),
        ("encoder/linear/kernel", False),
        ("colour/encoder/linear/kernel", False),
        ("reconstruction2/encoder/linear/kernel", False),
    ],
)
def test_a_stage_trains_its_own_part_only(path, trainable):
    stage = METHOD.stages()[0]
    assert isinstance(stage, Train)
    assert stage.trainable(path) is trainable


def specs(run: training.Run, tree: Any, prefix: str = "") -> dict[str, PartitionSpec]:
    """Where the arrays of a tree live that are cut at all, by path."""
    where = jax.tree.leaves(sharding.shardings(run.mesh, tree, run.method.partition, prefix))
    found = dict(zip(paths(tree, prefix), (place.spec for place in where), strict=True))
    return {path: spec for path, spec in found.items() if any(spec)}


def test_the_rules_of_the_parts_find_their_arrays(trained, tmp_path):
    run, (variables, _) = make_run(tmp_path), trained
    assert specs(run, variables) == {
        "params/reconstruction/decoder/kernel": PartitionSpec(None, "model"),
        "memory/colour/bank": PartitionSpec("data", None),
    }
    memory, choice = METHOD.stages()[1:]
    assert isinstance(memory, Fit) and isinstance(choice, Fit)
    cut = specs(run, memory.start(variables, 10, 4), "carry")
    assert list(cut.values()) == [PartitionSpec(None, "data", None)]
    assert specs(run, choice.start(variables, 10, 4), "carry") == {}


RULES = [
    r"^memory/bank$",
    r"^memory/(bank|norms)$",
    r"^(params|batch_stats)/decoder/",
    r"^carry/rows$",
    r"^params/",
    r"kernel$",
    r"/kernel$",
    r"kernel$|bias$",
    r"decoder/.*kernel$",
    r"^.*bias$",
]
PATHS = [
    "memory/bank",
    "memory/bank2",
    "carry/rows",
    "params/kernel",
    "params/bias",
    "params/decoder/kernel",
    "params/decoder/norm/bias",
    "batch_stats/decoder/mean",
]


def partition_below(name: str, rules: Sequence[tuple[str, PartitionSpec]]) -> Sequence[tuple[str, PartitionSpec]]:
    """The rules of a method, as those of a part of this name."""

    @dataclass(frozen=True)
    class Partitioned(Method):
        partition = tuple(rules)

    return Part(name, Partitioned()).partition


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("names", [("two",), ("two", "one"), ("part.1", "two")], ids="/".join)
def test_a_rule_finds_below_the_name_what_it_finds_alone(rule, names):
    """For a part, and for the part of a part."""
    rules: Sequence[tuple[str, PartitionSpec]] = [(rule, PartitionSpec("data"))]
    for name in reversed(names):
        rules = partition_below(name, rules)
    ((found, spec),) = rules
    assert spec == PartitionSpec("data")
    for path in PATHS:
        collection, rest = path.split("/", 1)
        below = "/".join(names)
        assert bool(re.search(found, f"{collection}/{below}/{rest}")) == bool(re.search(rule, path))
        assert not re.search(found, f"{collection}/three/{rest}")
        assert not re.search(found, f"{collection}/three/{below}/{rest}")


def test_moments_live_beside_the_parameters_of_their_part(variables, tmp_path):
    """Those of `by_module` too, whose state names the module twice."""
    run, stage = make_run(tmp_path), METHOD.stages()[0]
    assert isinstance(stage, Train)
    optimizer = stage.optimizer(9)
    state, _, _ = training.begin(run, stage, optimizer, training.place(run, variables), [], Progress())
    kernels = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.shape == (3, 8)]
    assert [leaf.sharding.spec for leaf in kernels] == [PartitionSpec(None, "model")]


@pytest.mark.parametrize("part", METHOD.parts, ids=lambda part: part.name)
def test_a_part_sees_images_and_masks_in_its_size_and_by_its_normalisation(part, batch):
    assert batch["mask"].any() and not batch["valid"].all()
    more = {"texture": batch["image"][:, ::-1], "made_up": batch["mask"][:, ::-1], "noise": jnp.ones((5, 16, 16, 1))}
    features = {"fine": jnp.ones((5, 4, 4, 3)), "coarse": (jnp.ones((5, 2)),)}
    found, expected = part.batch({**batch, **more, "features": features}), as_seen_alone(part, batch)
    assert set(found) == {*batch, *more, "features"}
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
    size = part.size or SIZE
    assert found["image"].shape == found["texture"].shape == (5, *size, 3)
    assert found["made_up"].shape == (5, *size) and found["made_up"].dtype == bool
    np.testing.assert_allclose(found["texture"][:, ::-1], found["image"], atol=1e-5)
    assert_equal(found["features"], features)
    assert_equal(found["noise"], more["noise"])


@pytest.mark.parametrize("size", [None, HALF])
def test_a_part_has_the_loss_and_the_features_of_the_method_alone(size, batch):
    part, key = Part("inner", RECONSTRUCTION, size), jax.random.key(3)
    stage, own = part.stages()[0], RECONSTRUCTION.stages()[0]
    assert isinstance(stage, Train) and stage.features is not None and own.features is not None
    variables, alone = part.init(jax.random.key(1)), as_seen_alone(part, batch)
    features = own.features(part.inside(variables), alone)
    assert_close(stage.features(variables, batch), features)
    value, (updates, metrics) = stage.loss(variables, {**batch, "features": features}, key)
    expected, (own_updates, own_metrics) = own.loss(part.inside(variables), {**alone, "features": features}, key)
    assert_close((value, updates, metrics), (expected, under("inner", own_updates), own_metrics))
    assert float(stage.loss(variables, {**batch, "features": features}, jax.random.key(4))[0]) != float(value)


@pytest.mark.parametrize("size", [None, HALF])
def test_a_training_step_changes_a_part_as_it_changes_the_method_alone(size, batch, tmp_path):
    part, key = Part("inner", RECONSTRUCTION, size), jax.random.key(3)
    variables = merge(part.init(jax.random.key(1)), under("other", RECONSTRUCTION.init(jax.random.key(5))))

    def steps(stage: Stage, variables: Variables, batch: dict[str, Any]) -> tuple[Variables, list[Any]]:
        """Three steps of a stage of six, and what they log."""
        assert isinstance(stage, Train)
        optimizer, metrics = stage.optimizer(6), []
        step = jax.jit(functools.partial(training.training_step, stage, optimizer, UNIT_NORMALIZATION))
        state, frozen, _ = training.begin(run, stage, optimizer, variables, [], Progress())
        for place in range(3):
            state, found = step(state, frozen, batch, jax.random.fold_in(key, place))
            metrics.append(found)
        return state.variables(frozen), metrics

    run = make_run(tmp_path)
    variables = training.place(run, variables)
    found, metrics = steps(part.stages()[0], variables, batch)
    expected, own_metrics = steps(RECONSTRUCTION.stages()[0], part.inside(variables), as_seen_alone(part, batch))
    assert_close(part.inside(found), expected, rtol=1e-4)
    assert_close(metrics, own_metrics, rtol=1e-4)
    assert_equal(inside(found, "other"), inside(variables, "other"))
    moved = jax.tree.map(lambda new, old: float(jnp.abs(new - old).max()), found, variables)
    assert moved["params"]["inner"]["encoder"]["linear"]["kernel"] > 1e-3
    assert moved["batch_stats"]["inner"]["encoder"]["norm"]["mean"] > 1e-3
    assert set(metrics[0]) == {
        "loss",
        "gradient_norm",
        "largest_error",
        "learning_rate/encoder",
        "learning_rate/decoder",
    }


def test_a_batch_is_cut_into_steps_as_the_method_alone_cuts_it(batch):
    """What the cut makes of the images is neither resized nor normalised again."""
    part = Part("inner", RECONSTRUCTION, HALF)

    def halves(batch: Batch, key: Array) -> Batch:
        image, middle = batch["image"], batch["image"].shape[1] // 2
        return {"image": jnp.stack([image[:, :middle], image[:, middle:]])}

    def loss(variables: Variables, batch: Batch, key: Array) -> LossValue:
        return jnp.mean(RECONSTRUCTION.features(variables, batch) ** 2), ({}, {})

    own = replace(RECONSTRUCTION.stages()[0], features=None, minibatches=halves, loss=loss)
    stage, variables, key = part.stage(own), part.init(jax.random.key(1)), jax.random.key(0)
    assert isinstance(stage, Train) and stage.minibatches is not None
    cut, expected = stage.minibatches(batch, key), halves(as_seen_alone(part, batch), key)
    assert_close(cut, expected)
    for place in range(2):
        found, _ = stage.loss(variables, {"image": cut["image"][place]}, key)
        alone, _ = loss(part.inside(variables), {"image": expected["image"][place]}, key)
        assert_close(found, alone)


def test_a_memory_is_filled_as_the_method_alone_fills_it(variables, batch):
    part, key = METHOD.colour, jax.random.key(6)
    stage = METHOD.stages()[1]
    assert isinstance(stage, Fit)
    later = {**batch, "image": batch["image"][:, ::-1]}
    other = {"memory": {"other": {"bank": jnp.ones(3)}}, "constants": {"other": jnp.ones(2)}}
    found = run_fit(stage, merge(variables, other), [batch, later], 9, key)
    alone = [as_seen_alone(part, one) for one in (batch, later)]
    expected = run_fit(COLOUR.stages()[0], part.inside(variables), alone, 9, key)
    assert_close(part.inside(found), expected)
    kept = {**found, **{name: {"other": found[name]["other"]} for name in other}}
    assert_equal(kept, {**variables, **other})


def test_a_part_predicts_as_the_method_alone_in_the_size_of_the_composed_images(trained, batch):
    variables, _ = trained
    for part in METHOD.parts:
        found = part.predict(variables, batch)
        alone = part.method.predict(part.inside(variables), as_seen_alone(part, batch))
        assert found.map.shape == (5, *SIZE)
        assert_close(found.score, alone.score)
        assert_close(found.map, resize(alone.map[..., None], SIZE)[..., 0])


def test_the_first_part_ends_where_it_ends_alone(trained, tmp_path):
    """The seeds of stages depend on their place, which is the first one either way."""
    variables, folder = trained
    alone = make_run(tmp_path, RECONSTRUCTION)
    start = METHOD.reconstruction.inside(METHOD.init(jax.random.key(0)))
    expected, _ = training.run_stages(alone, Restored(start, [], Progress()))
    assert_close(METHOD.reconstruction.inside(variables), expected, rtol=1e-3)
    named = [{name.removeprefix("reconstruction/"): value for name, value in line.items()} for line in logged(folder)]
    for line, own in zip(named, logged(tmp_path), strict=True):
        assert line == pytest.approx(own, rel=1e-3)


def test_logs_are_named_after_part_and_stage(trained):
    _, folder = trained
    names = {name for line in logged(folder) for name in line} - {"step"}
    prefix = "reconstruction/reconstruction"
    own = ("loss", "gradient_norm", "largest_error", "learning_rate/encoder", "learning_rate/decoder", "monitor")
    assert names == {f"{prefix}/{name}" for name in own}


def test_a_part_ends_with_the_best_epoch_of_its_monitor(trained, tmp_path):
    """The second of three, so that the resumed runs below take it from their checkpoints."""
    variables, folder = trained
    monitored = [value for line in logged(folder) for name, value in line.items() if name.endswith("/monitor")]
    assert int(np.argmax(monitored)) == 1 and len(monitored) == 3
    run, part = make_run(tmp_path), METHOD.reconstruction
    batches = map(part.batch, run.batches(SPLITS["validation"], masks=True))
    assert RECONSTRUCTION.monitor(part.inside(variables), list(batches)) == pytest.approx(monitored[1])  # type: ignore


def test_the_better_part_predicts(trained, tmp_path):
    variables, _ = trained
    images, run = SPLITS["validation"], make_run(tmp_path)
    parts = []
    for index in range(2):
        chosen = {**variables, "choice": {**variables["choice"], "index": jnp.int32(index)}}
        parts.append(Predictor(METHOD, chosen, 4, run.mesh).all(images))
    expected = [roc_auc_score(images.labels, found.scores) for found in parts]
    assert expected[0] != expected[1]
    np.testing.assert_allclose(variables["choice"]["auroc"], expected, atol=1e-6)
    assert int(variables["choice"]["index"]) == int(np.argmax(expected))
    found = Predictor(METHOD, variables, 4, run.mesh).all(images)
    assert found.maps.shape == (len(images), *SIZE)
    assert_equal(found.scores, parts[int(np.argmax(expected))].scores)


class Stopped(Exception):
    """The end of a run that is interrupted."""


def stop_after(run: training.Run, stage: int, step: int) -> None:
    """Lets the run die once it has written the checkpoint of this step."""
    save = run.checkpoints.save

    def save_and_stop(variables: Any, stage_state: Any, progress: Progress) -> None:
        save(variables, stage_state, progress)
        if (progress.stage, progress.step) == (stage, step):
            raise Stopped

    run.checkpoints.save = save_and_stop


@pytest.mark.parametrize("stage, step", [(0, 7), (1, 0), (1, 2), (2, 1)])
def test_a_run_that_was_interrupted_in_any_part_ends_with_the_same_bits(stage, step, trained, tmp_path):
    first = make_run(tmp_path)
    stop_after(first, stage, step)
    with pytest.raises(Stopped):
        training.run_stages(first, None)
    second = make_run(tmp_path)
    restored = second.checkpoints.restore()
    assert restored is not None and (restored.progress.stage, restored.progress.step) == (stage, step)
    found, progress = training.run_stages(second, restored)
    variables, folder = trained
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    assert_equal(found, variables)
    assert progress.total == max(second.checkpoints.steps())
    assert logged(tmp_path) == logged(folder)
