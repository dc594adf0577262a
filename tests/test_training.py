"""The loop itself, with a method small enough to know the answer."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import sharding, stopping, training
from jaxad.checkpoint import Checkpoints, Progress, Restored
from jaxad.errors import UserError
from jaxad.log import MetricLog
from jaxad.method import Fit, Method, Prediction, Train
from jaxad.optimizers import adam, sgd, step_decay


class Images:
    """Image i is grey, of level i."""

    def __init__(self, count: int):
        self.ids = [f"image {i}" for i in range(count)]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        truth = {"mask": np.zeros((4, 4), bool), "has_mask": np.bool_(True), "label": np.int32(0)}
        return {"image": np.full((4, 4, 3), i, np.uint8), "index": np.int32(i), "valid": np.ones((4, 4), bool), **truth}


@dataclass(frozen=True)
class Mean(Method):
    """Learns the mean of the images' levels by gradient descent; `memory` sums them in one pass."""

    train: Train

    @property
    def normalization(self):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def init(self, key):
        return {"params": {"level": jnp.zeros(()), "frozen": jnp.ones(())}, "counts": {"steps": jnp.zeros((), int)}}

    def stages(self):
        return [self.train, Fit("sum", self.start, self.update, self.finish)]

    def start(self, variables, examples, batch_size):
        return {"sum": jnp.zeros(())}

    def update(self, variables, carry, batch, step):
        level = batch["image"][:, 0, 0, 0] * 255
        return {"sum": carry["sum"] + jnp.sum(level * batch["weight"])}

    def finish(self, variables, carry, examples, key):
        return {**variables, "memory": {"sum": carry["sum"], "examples": jnp.asarray(examples)}}

    def predict(self, variables, batch):
        return Prediction(batch["image"][..., 0], batch["image"].max((1, 2, 3)))


def loss(variables, batch, key):
    level = batch["features"] if "features" in batch else batch["image"][:, 0, 0, 0] * 255
    counts = {"counts": {"steps": variables["counts"]["steps"] + 1}}
    return jnp.mean((variables["params"]["level"] - level) ** 2) * variables["params"]["frozen"], (counts, {})


def stage(**settings):
    given = {"epochs": 3, "batch_size": 4, **settings}
    return Train("mean", loss, lambda steps: sgd(0.1, steps), lambda path: path == "level", **given)


def run(train, folder: Path, count=10, splits=None, **settings):
    given = {"checkpoint_every": 1000, "log_every": 1, "feature_bytes": (2.0**20, 0.0), **settings}
    return training.Run(
        method=Mean(train),
        mesh=sharding.make_mesh(devices=jax.devices()[:1]),
        seed=0,
        splits={"train": Images(count), "validation": Images(3), **(splits or {})},
        checkpoints=Checkpoints(folder / "checkpoints"),
        log=MetricLog(folder),
        workdir=folder,
        batch_size=4,
        **given,
    )


def test_only_what_is_trainable_changes_and_other_collections_are_updated(tmp_path):
    variables, progress = training.run_stages(run(stage(), tmp_path), None)
    assert float(variables["params"]["frozen"]) == 1
    assert 1 < float(variables["params"]["level"]) < 8
    assert int(variables["counts"]["steps"]) == 9  # 3 epochs of 4 + 4 + 2
    assert progress.total == (9 + 1) + (3 + 1)


def test_incomplete_batches_are_dropped_when_asked_for(tmp_path):
    variables, _ = training.run_stages(run(stage(drop_last=True), tmp_path), None)
    assert int(variables["counts"]["steps"]) == 6


def test_a_pass_sees_every_image_once_and_filling_never_counts(tmp_path):
    variables, _ = training.run_stages(run(stage(), tmp_path), None)
    assert float(variables["memory"]["sum"]) == pytest.approx(45)
    assert int(variables["memory"]["examples"]) == 10


def features(variables, batch):
    return batch["image"][:, 0, 0, 0] * 255


def test_a_batch_that_cannot_be_made_is_reported_before_features_are_computed(tmp_path):
    called = []

    def counted(variables, batch):
        called.append(batch)
        return features(variables, batch)

    with pytest.raises(UserError, match="10 training images make no whole batch of 16"):
        training.run_stages(run(stage(features=counted, batch_size=16, drop_last=True), tmp_path), None)
    assert not called


@pytest.mark.parametrize("budget", [(2.0**20, 0.0), (0.0, 2.0**20), (0.0, 0.0)], ids=["memory", "disk", "none"])
def test_cached_features_train_as_images_do(tmp_path, budget):
    plain, _ = training.run_stages(run(stage(), tmp_path / "plain"), None)
    cached, _ = training.run_stages(run(stage(features=features), tmp_path / "cached", feature_bytes=budget), None)
    np.testing.assert_allclose(cached["params"]["level"], plain["params"]["level"], rtol=1e-6)


def test_features_can_be_several_arrays(tmp_path):
    def several(variables, batch):
        return {"fine": batch["image"][:, :2, 0, 0] * 255, "coarse": (batch["image"][:, 0, 0, 0],)}

    def of_several(variables, batch, key):
        fine, coarse = batch["features"]["fine"], batch["features"]["coarse"][0]
        return loss(variables, {"features": (fine.mean(1) + coarse * 255) / 2}, key)

    plain, _ = training.run_stages(run(stage(), tmp_path / "plain"), None)
    train = dataclasses.replace(stage(features=several), loss=of_several)
    cached, _ = training.run_stages(run(train, tmp_path / "cached"), None)
    np.testing.assert_allclose(cached["params"]["level"], plain["params"]["level"], rtol=1e-6)


def test_a_batch_can_be_cut_into_several_steps(tmp_path):
    def cut(batch, key):
        return {"features": batch["features"].reshape(-1, 1)}

    whole = stage(features=features, minibatches=cut, drop_last=True)
    variables, _ = training.run_stages(run(whole, tmp_path), None)
    assert int(variables["counts"]["steps"]) == 6 * 4


def test_the_stage_ends_early_with_the_best_epoch_of_its_monitor(tmp_path):
    seen = []

    def monitor(variables, batches):
        assert sum(float(jnp.sum(batch["weight"])) for batch in batches) == 3
        seen.append(float(variables["params"]["level"]))
        return -abs(len(seen) - 2)  # the second epoch is the best

    variables, _ = training.run_stages(run(stage(epochs=10, monitor=monitor, patience=3), tmp_path), None)
    assert len(seen) == 5
    assert float(variables["params"]["level"]) == pytest.approx(seen[1])


def test_an_interrupted_stage_keeps_its_best_epoch(tmp_path):
    values = iter([1.0, 5.0, 2.0, 3.0])
    seen = []

    def monitor(variables, batches):
        seen.append(float(variables["params"]["level"]))
        return next(values)

    class Stop(Exception):
        pass

    first = run(stage(epochs=4, monitor=monitor), tmp_path, checkpoint_every=1)
    save = first.checkpoints.save

    def save_until(variables, state, progress):
        save(variables, state, progress)
        if progress.step == 8:
            raise Stop

    first.checkpoints.save = save_until
    with pytest.raises(Stop):
        training.run_stages(first, None)
    second = run(stage(epochs=4, monitor=monitor), tmp_path, checkpoint_every=1)
    variables, _ = training.run_stages(second, second.checkpoints.restore())
    assert len(seen) == 4
    assert float(variables["params"]["level"]) == pytest.approx(seen[1])


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    first = run(stage(), tmp_path)
    variables = first.method.init(jax.random.key(0))
    with pytest.raises(UserError, match="does not fit this config"):
        training.run_stages(first, Restored(variables, [np.zeros(7)], Progress(step=1, total=1)))


def test_a_stage_without_images_names_what_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"needs 'auxiliary' images and there are none: name a data set in config\.aux"):
        training.run_stages(run(stage(data="auxiliary"), tmp_path), None)
    with pytest.raises(UserError, match="10 training images make no whole batch of 16"):
        training.run_stages(run(stage(batch_size=16, drop_last=True), tmp_path), None)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stage_knows_its_own_length_and_logs_rate_and_gradient_norm(tmp_path):
    lengths = []

    def optimizer(steps):
        lengths.append(steps)
        return adam(step_decay(0.1, at=0.5), steps)

    train = dataclasses.replace(stage(data="auxiliary"), optimizer=optimizer)
    training.run_stages(run(train, tmp_path, count=10, splits={"auxiliary": Images(6)}), None)
    assert set(lengths) == {3 * 2}  # the length of its own split, not of the normal training images
    log = records(tmp_path)
    assert [round(record["mean/learning_rate"], 6) for record in log] == [0.1] * 3 + [0.01] * 3
    assert all(record["mean/gradient_norm"] > 0 for record in log)


def test_features_that_do_not_fit_are_computed_in_each_step_and_give_the_same_parameters(tmp_path):
    seen = []

    def loss_of(variables, batch, key):
        seen.append("image" in batch)
        return loss(variables, batch, key)

    train = dataclasses.replace(stage(features=features), loss=loss_of)
    cached, _ = training.run_stages(run(train, tmp_path / "cached"), None)
    computed, _ = training.run_stages(run(train, tmp_path / "computed", feature_bytes=(0.0, 0.0)), None)
    assert set(seen) == {True, False}
    np.testing.assert_allclose(computed["params"]["level"], cached["params"]["level"], rtol=1e-6)


@pytest.mark.parametrize("budget", [(2.0**20, 0.0), (0.0, 0.0)], ids=["cached", "computed in each step"])
def test_prepared_images_stand_beside_features_of_the_plain_ones(tmp_path, budget):
    def brighter(images, i, rng):
        assert isinstance(images, Images)  # the split itself, not its cached features
        return {"image": images[i]["image"] + np.uint8(100), "draw": rng.random(dtype=np.float32)}

    def loss_of(variables, batch, key):
        level = batch["image"][:, 0, 0, 0] * 255 - 100
        draws = jnp.mean(batch["draw"])
        value, (updates, _) = loss(variables, {"features": (batch["features"] + level) / 2}, key)
        return value, (updates, {"draws": draws})

    plain, _ = training.run_stages(run(stage(), tmp_path / "plain"), None)
    train = dataclasses.replace(stage(features=features, prepare=brighter), loss=loss_of)
    both, _ = training.run_stages(run(train, tmp_path / "both", feature_bytes=budget), None)
    np.testing.assert_allclose(both["params"]["level"], plain["params"]["level"], rtol=1e-5)
    draws = [record["mean/draws"] for record in records(tmp_path / "both")]
    assert len(set(draws)) == len(draws)


def test_an_interrupted_stage_draws_what_it_would_have_drawn(tmp_path):
    def noisy(images, i, rng):
        return {"image": rng.integers(0, 256, (4, 4, 3), np.uint8)}

    class Stop(Exception):
        pass

    whole, _ = training.run_stages(run(stage(prepare=noisy), tmp_path / "whole"), None)
    first = run(stage(prepare=noisy), tmp_path / "cut", checkpoint_every=2)
    save = first.checkpoints.save

    def save_once(variables, state, progress):
        save(variables, state, progress)
        raise Stop

    first.checkpoints.save = save_once
    with pytest.raises(Stop):
        training.run_stages(first, None)
    second = run(stage(prepare=noisy), tmp_path / "cut", checkpoint_every=2)
    resumed, _ = training.run_stages(second, second.checkpoints.restore())
    np.testing.assert_array_equal(resumed["params"]["level"], whole["params"]["level"])


@pytest.mark.parametrize(("data", "known"), [("train", False), ("train+masks", True), ("auxiliary", True)])
def test_masks_and_labels_go_only_where_a_stage_asks_for_them(tmp_path, data, known):
    def loss_of(variables, batch, key):
        assert [name in batch for name in ("mask", "has_mask", "label")] == [known] * 3
        return loss(variables, batch, key)

    train = dataclasses.replace(stage(data=data), loss=loss_of)
    splits = {"train+masks": Images(5), "auxiliary": Images(5)}
    training.run_stages(run(train, tmp_path, splits=splits), None)


def test_the_monitor_sees_prepared_images_with_the_same_draws_each_time(tmp_path):
    seen = []

    def noisy(images, i, rng):
        return {"image": rng.integers(0, 256, (4, 4, 3), np.uint8)}

    def monitor(variables, batches):
        seen.append(np.concatenate([np.asarray(batch["image"]) for batch in batches]))
        assert all("mask" in batch for batch in batches)
        return 0.0

    training.run_stages(run(stage(epochs=3, prepare=noisy, monitor=monitor), tmp_path), None)
    assert len(seen) == 3
    np.testing.assert_array_equal(seen[0], seen[2])


class AskToStop(Images):
    """Asks the run to stop when image `at` is read."""

    def __init__(self, count: int, at: int):
        super().__init__(count)
        self.at = at

    def __getitem__(self, i):
        if i == self.at:
            stopping.request()
        return super().__getitem__(i)


@pytest.fixture
def not_asked(monkeypatch):
    """Forgets that a stop was asked for: now, and again whenever it is called."""

    def forget():
        monkeypatch.setattr(stopping, "_state", stopping._State())

    forget()
    return forget


@pytest.mark.parametrize(("data", "stopped_in"), [("auxiliary", "mean"), ("train", "sum")])
def test_a_stop_is_saved_at_the_next_step_and_goes_on_to_the_same_state(data, stopped_in, tmp_path, not_asked):
    train, plain = stage(data="auxiliary"), {"auxiliary": Images(10), "train": Images(40)}
    whole, progress = training.run_stages(run(train, tmp_path / "whole", splits=plain), None)
    asking = run(train, tmp_path / "stopped", splits={**plain, data: AskToStop(len(plain[data]), at=6)})
    with pytest.raises(stopping.Stopped, match=f"after step . of stage {stopped_in}"):
        training.run_stages(asking, None)
    not_asked()
    again = run(train, tmp_path / "stopped", splits=plain)
    restored = again.checkpoints.restore()
    assert restored is not None
    assert restored.progress.step > 0
    resumed, after = training.run_stages(again, restored)
    assert after.total == progress.total
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_nothing_is_begun_after_a_stop_was_asked_for(tmp_path, not_asked):
    stopping.request()
    asked = run(stage(), tmp_path)
    with pytest.raises(stopping.Stopped):
        training.run_stages(asked, None)
    assert asked.checkpoints.steps() == []


def test_models_of_one_method_share_its_programs_whatever_their_numbers_of_images(tmp_path):
    traced = []

    def counted(variables, batch, key):
        traced.append("loss")
        return loss(variables, batch, key)

    def counted_features(variables, batch):
        traced.append("features")
        return features(variables, batch)

    given = stage(drop_last=True, features=counted_features)
    train = dataclasses.replace(given, loss=counted, optimizer=lambda steps: adam(step_decay(0.1, at=0.5), steps))
    found = {}
    for count in (8, 13, 22):
        found[count], _ = training.run_stages(run(train, tmp_path / f"{count}", count=count), None)
        if len(found) == 1:
            first = list(traced)
    assert {"loss", "features"} <= set(first)
    assert traced == first
    # the rate drops halfway through each model's own steps, although the program was made for another number of them
    rates = [record["mean/learning_rate"] for record in records(tmp_path / "22")]
    assert [round(rate, 6) for rate in rates] == [0.1] * 8 + [0.01] * 7
