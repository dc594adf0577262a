"""Batches: order, shards, resume, padding, the draws of `prepare`, and what a method may see of an item."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from jaxad import sharding
from jaxad.data.batches import (
    TRUTH,
    DeviceBatches,
    PreparedImages,
    TrainingBatches,
    evaluation_batches,
    normalise,
    read_ahead,
    rows_per_batch,
    training_iterator,
)
from jaxad.data.split import Split, load_split
from jaxad.errors import UserError
from jaxad.method import IMAGENET_NORMALIZATION, UNIT_NORMALIZATION, WITH_MASKS, Train
from tests.data.raw import dataset_config, input_config, mvtec_folder

SEED = 7


class Numbers:
    """A source whose items are their own places."""

    def __init__(self, length: int):
        self.length = length
        self.ids = [f"{i}.png" for i in range(length)]

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return {"index": np.int32(i), "square": np.full(2, i * i)}


class Pictures(Numbers):
    """A source of whole items: image i is grey 10 * i, its category i % 2, every third image anomalous."""

    def __getitem__(self, i):
        return {
            "image": np.full((4, 6, 3), 10 * i, np.uint8),
            "mask": np.full((4, 6), i % 3 == 0),
            "valid": np.ones((4, 6), bool),
            "label": np.int32(i % 3 == 0),
            "category": np.int32(i % 2),
            "has_mask": np.bool_(True),
            "index": np.int32(i),
        }


def make_stage(**fields: Any) -> Train:
    return Train(
        "drawn",
        loss=lambda variables, batch, key: (jnp.zeros(()), ({}, {})),
        optimizer=lambda total: optax.sgd(1.0),
        trainable=lambda path: True,
        **{"batch_size": 4, **fields},
    )


def make_mesh():
    return sharding.make_mesh(devices=jax.devices()[:1])


def iterator(images, seed: int = SEED, **fields: Any):
    """Grain's iterator over the batches of a stage, in a single process."""
    return training_iterator(make_stage(**fields), images, seed, make_mesh())


def shards(images, processes: int, parts: int = 1, **fields: Any) -> list[list[dict]]:
    """The batches that each of several processes reads in a stage."""
    stage = make_stage(**fields)
    whole = TrainingBatches(
        images,
        stage.batch_size,
        SEED,
        stage.steps_per_epoch(len(images)),
        stage.total_steps(len(images)),
        sampling=stage.sampling,
        prepare=stage.prepare,
        same_draws=stage.same_draws,
        masks=stage.data in WITH_MASKS,
        process_count=processes,
        parts=parts,
    )
    parts_of = [dataclasses.replace(whole, process_index=p) for p in range(processes)]
    return [[batches[step] for step in range(len(batches))] for batches in parts_of]


def indices(batches) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def epoch_order(seed: int, epoch: int, length: int) -> list[int]:
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    return np.random.Generator(bits).permutation(length).tolist()


def assert_same(got, want) -> None:
    """The same batches: the same keys and the same arrays."""
    for one, other in zip(got, want, strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_shards_make(whole: list[dict], found: list[list[dict]], processes: int) -> None:
    """The parts of all processes, joined, are the batches of a single process."""
    for want, *parts in zip(whole, *found, strict=True):
        if len(want["index"]) % processes:
            assert all(part.pop("replicated") is True for part in parts)
            assert_same(parts, [want] * processes)
        else:
            assert_same([jax.tree.map(lambda *rows: np.concatenate(rows), *parts)], [want])


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    """Six images of bolts and five of nuts, at 32x48."""
    root = tmp_path_factory.mktemp("raw")
    mvtec_folder(root / "bolt", train=6)
    mvtec_folder(root / "nut", train=5, seed=50)
    return load_split(
        dataset_config("folder", tmp_path_factory.mktemp("tfds"), path=str(root)), input_config(), "train"
    )


def test_each_epoch_is_the_permutation_of_seed_and_epoch():
    batches = indices(iterator(Numbers(11), epochs=3))
    assert [len(b) for b in batches] == [4, 4, 3] * 3
    for epoch in range(3):
        order = [i for batch in batches[3 * epoch : 3 * epoch + 3] for i in batch]
        assert order == epoch_order(SEED, epoch, 11)
        assert sorted(order) == list(range(11))
    assert epoch_order(SEED, 0, 11) != epoch_order(SEED, 1, 11)


def test_batches_are_the_same_in_whatever_order_they_are_asked_for():
    (want,) = shards(Numbers(11), 1, epochs=3)
    batches = TrainingBatches(Numbers(11), 4, SEED, per_epoch=3, steps=9)
    assert_same([batches[step] for step in reversed(range(9))], reversed(want))
    assert_same(iterator(Numbers(11), epochs=3), want)


def test_items_of_a_batch_belong_together():
    for batch in iterator(Numbers(11), epochs=1):
        np.testing.assert_array_equal(batch["square"][:, 1], batch["index"] ** 2)


def test_dropping_the_last_batch_keeps_all_batches_full():
    batches = indices(iterator(Numbers(11), steps=5, drop_last=True))
    assert [len(b) for b in batches] == [4] * 5
    assert batches[2] + batches[3] == epoch_order(SEED, 1, 11)[:8]


def test_steps_may_end_within_an_epoch():
    assert indices(iterator(Numbers(11), steps=4)) == indices(iterator(Numbers(11), epochs=2))[:4]


def test_another_seed_gives_another_order():
    first, second = (indices(iterator(Numbers(50), seed=seed, batch_size=50, epochs=1)) for seed in (1, 2))
    assert first != second


@pytest.mark.parametrize("done", [0, 1, 4, 8])
def test_restored_state_gives_the_same_following_batches(done):
    whole = indices(iterator(Numbers(11), epochs=3))
    begun = iterator(Numbers(11), epochs=3)
    for _ in range(done):
        next(begun)
    state = json.loads(json.dumps(begun.get_state()))
    resumed = iterator(Numbers(11), epochs=3)
    resumed.set_state(state)
    assert indices(resumed) == whole[done:] == indices(begun)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("length", [11, 12, 14])
def test_shards_of_the_processes_make_the_single_process_batch(processes, length):
    whole = list(iterator(Numbers(length), epochs=2))
    assert_shards_make(whole, shards(Numbers(length), processes, epochs=2), processes)


def test_the_part_of_a_process_can_be_read_ahead_and_resumed():
    batches = TrainingBatches(Numbers(16), 8, SEED, per_epoch=2, steps=6, process_index=1, process_count=2)
    want = [epoch_order(SEED, epoch, 16)[start + 4 : start + 8] for epoch in range(3) for start in (0, 8)]
    begun = read_ahead(batches)
    assert indices(next(begun) for _ in range(3)) == want[:3]
    resumed = read_ahead(batches)
    resumed.set_state(begun.get_state())
    assert indices(resumed) == want[3:]


def test_batches_that_the_devices_do_not_divide_go_whole_to_every_process():
    found = shards(Numbers(14), 2, parts=4, batch_size=8, epochs=1)
    assert [len(batch["index"]) for batch in found[0]] == [4, 6]
    assert [batch.get("replicated", False) for batch in found[0]] == [False, True]
    assert found[0][1]["index"].tolist() == found[1][1]["index"].tolist()


def test_a_single_process_marks_the_batches_that_its_devices_do_not_divide():
    (found,) = shards(Numbers(14), 1, parts=4, batch_size=8, epochs=1)
    assert [batch.get("replicated", False) for batch in found] == [False, True]


def test_impossible_batches_are_named():
    with pytest.raises(UserError, match=r"config\.train\.batch_size is 0; expected a positive number"):
        iterator(Numbers(20), batch_size=0, epochs=1)
    with pytest.raises(UserError, match=r"stage 'drawn': 7 training images make no whole batch of 8: set .*lower"):
        iterator(Numbers(7), batch_size=8, epochs=1, drop_last=True)
    with pytest.raises(UserError, match="0 training images make no whole batch of 4"):
        iterator(Numbers(0), epochs=1)
    with pytest.raises(UserError, match=r"config\.evaluation\.batch_size is 6; .*number of processes, 4"):
        list(evaluation_batches(Numbers(20), 6, process_count=4))


@pytest.mark.parametrize("length", [1, 7, 8, 9])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_sees_every_image_once_in_full_batches(length, processes):
    found = [
        list(evaluation_batches(Numbers(length), 4, process_index=p, process_count=processes)) for p in range(processes)
    ]
    assert {len(batches) for batches in found} == {-(-length // 4)}
    seen = []
    for parts in zip(*found, strict=True):
        for part in parts:
            assert len(part["index"]) == len(part["weight"]) == 4 // processes
            assert part["weight"].dtype == np.float32
            seen += part["index"][part["weight"] == 1].tolist()
    assert seen == list(range(length))


def test_images_of_weight_0_stay_so_in_evaluation():
    class Weighted(Numbers):
        def __getitem__(self, i):
            return {**super().__getitem__(i), "weight": np.float32(i != 4)}

    weights = [batch["weight"].tolist() for batch in evaluation_batches(Weighted(6), 4)]
    assert weights == [[1, 1, 1, 1], [0, 1, 0, 0]]


@pytest.mark.parametrize("start", [0, 2, 3])
def test_evaluation_goes_on_where_it_stopped(start):
    whole = indices(evaluation_batches(Numbers(10), 4))
    assert indices(evaluation_batches(Numbers(10), 4, start=start)) == whole[start:]


def test_error_of_a_source_reaches_the_caller_as_it_is():
    class Broken(Numbers):
        def __getitem__(self, i):
            if i == 5:
                raise UserError("part 5.png is damaged")
            return super().__getitem__(i)

    with pytest.raises(UserError) as info:
        list(iterator(Broken(11), epochs=1))
    assert str(info.value) == "part 5.png is damaged"


def test_error_of_prepare_reaches_the_caller_as_it_is():
    def prepare(images, i, rng):
        raise UserError(f"no texture for {images.ids[i]}")

    with pytest.raises(UserError) as info:
        list(iterator(Numbers(11), epochs=1, prepare=prepare))
    assert str(info.value) in [f"no texture for {i}.png" for i in range(11)]


def draw(images, i, rng):
    return {"drawn": rng.random(3)}


def drawn_by_image(batches) -> dict[int, list[bytes]]:
    """The draws of each image, in the order of the batches."""
    found: dict[int, list[bytes]] = {}
    for batch in batches:
        for i, drawn in zip(batch["index"].tolist(), batch["drawn"], strict=True):
            found.setdefault(i, []).append(drawn.tobytes())
    return found


def test_draws_depend_on_seed_step_and_place_and_not_on_the_images():
    first = [batch["drawn"] for batch in iterator(Numbers(12), epochs=2, prepare=draw)]
    other = [batch["drawn"] for batch in iterator(Pictures(24), epochs=1, prepare=draw)]
    np.testing.assert_array_equal(first, other)
    rows = np.concatenate(first)
    assert len(np.unique(rows, axis=0)) == len(rows) == 24
    another_seed = next(iterator(Numbers(12), seed=SEED + 1, epochs=2, prepare=draw))["drawn"]
    assert not np.isin(another_seed, rows).any()


def test_draws_do_not_depend_on_the_place_in_an_epoch():
    long, short = (iterator(Numbers(n), steps=6, prepare=draw) for n in (40, 8))
    np.testing.assert_array_equal([b["drawn"] for b in long], [b["drawn"] for b in short])


def test_an_image_is_drawn_anew_in_each_epoch():
    found = drawn_by_image(iterator(Numbers(11), epochs=3, prepare=draw))
    assert sorted(found) == list(range(11))
    assert all(len(set(draws)) == 3 for draws in found.values())


def test_same_draws_prepare_an_image_in_the_same_way_in_each_epoch():
    found = drawn_by_image(iterator(Numbers(11), epochs=3, prepare=draw, same_draws=True))
    assert all(len(draws) == 3 and len(set(draws)) == 1 for draws in found.values())
    assert len({draws[0] for draws in found.values()}) == 11
    again = drawn_by_image(iterator(Numbers(11), epochs=1, batch_size=11, prepare=draw, same_draws=True))
    assert all(again[i] == draws[:1] for i, draws in found.items())
    other = drawn_by_image(iterator(Numbers(11), seed=SEED + 1, epochs=1, prepare=draw, same_draws=True))
    assert all(other[i] != draws[:1] for i, draws in found.items())


@pytest.mark.parametrize("same_draws", [False, True])
@pytest.mark.parametrize("sampling", ["shuffled", "replacement"])
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_prepare_the_same_items_as_one(processes, sampling, same_draws):
    fields = {"epochs": 2, "sampling": sampling, "prepare": draw, "same_draws": same_draws}
    whole = list(iterator(Numbers(14), **fields))
    assert_shards_make(whole, shards(Numbers(14), processes, **fields), processes)


@pytest.mark.parametrize("same_draws", [False, True])
@pytest.mark.parametrize("sampling", ["shuffled", "replacement"])
def test_a_resumed_stage_prepares_the_same_items(sampling, same_draws):
    fields = {"epochs": 3, "sampling": sampling, "prepare": draw, "same_draws": same_draws}
    whole = list(iterator(Numbers(11), **fields))
    begun = iterator(Numbers(11), **fields)
    for _ in range(4):
        next(begun)
    resumed = iterator(Numbers(11), **fields)
    resumed.set_state(json.loads(json.dumps(begun.get_state())))
    assert_same(resumed, whole[4:])


def test_replacement_draws_about_63_percent_of_the_images_in_an_epoch():
    batches = indices(iterator(Numbers(400), epochs=10, batch_size=32, sampling="replacement"))
    assert [len(b) for b in batches] == ([32] * 12 + [16]) * 10
    epochs = [[i for batch in batches[13 * epoch : 13 * epoch + 13] for i in batch] for epoch in range(10)]
    shares = [len(set(epoch)) / 400 for epoch in epochs]
    assert all(0.56 < share < 0.70 for share in shares)
    assert np.mean(shares) == pytest.approx(1 - 1 / np.e, abs=0.015)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    assert {i for epoch in epochs for i in epoch} == set(range(400))


def test_replacement_depends_on_the_seed_only():
    def order(seed):
        return indices(iterator(Numbers(40), seed=seed, epochs=2, sampling="replacement"))

    assert order(1) == order(1) != order(2)


def test_what_prepare_returns_takes_the_place_of_the_item_and_the_rest_stays():
    def prepare(images, i, rng):
        partner = images[(i + 1) % len(images)]
        return {"image": 255 - images[i]["image"], "index": partner["index"], "partner": {"image": partner["image"]}}

    for batch in iterator(Pictures(8), epochs=2, prepare=prepare):
        assert batch.keys() == {"image", "category", "index", "partner"}
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], 255 - 10 * batch["index"])  # its own index, always
        np.testing.assert_array_equal(batch["partner"]["image"][:, 0, 0, 0], 10 * ((batch["index"] + 1) % 8))
        np.testing.assert_array_equal(batch["category"], batch["index"] % 2)


@pytest.mark.parametrize("prepare", [None, lambda images, i, rng: images[i]])
def test_only_data_with_masks_has_masks_and_labels(prepare):
    for batch in iterator(Pictures(6), epochs=1, prepare=prepare):
        assert batch.keys() == {"image", "category", "index"}
    for data in ("train+masks", "auxiliary"):
        for batch in iterator(Pictures(6), epochs=1, prepare=prepare, data=data):
            assert batch.keys() == {"image", "category", "index", *TRUTH}
            np.testing.assert_array_equal(batch["label"], batch["index"] % 3 == 0)
            np.testing.assert_array_equal(batch["mask"][:, 0, 0], batch["index"] % 3 == 0)


def rotated(images: Split, i, rng):
    """The photograph, turned at its own size."""
    photograph, _ = images.original(i)
    turned = Image.fromarray(photograph).rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR, fillcolor=(9, 9, 9))
    return {"image": images.geometry.apply(np.asarray(turned))[0]}


def mosaic(images: Split, i, rng):
    """Four quarters from four images of the category of image i."""
    own = np.flatnonzero(np.asarray(images.categories) == images.categories[i])
    chosen = [i, *(int(j) for j in rng.choice(own, 3, replace=False))]
    quarters = [images[j]["image"][::2, ::2] for j in chosen]
    return {"image": np.block([[[quarters[0]], [quarters[1]]], [[quarters[2]], [quarters[3]]]]), "of": np.array(chosen)}


def textured(images, i, rng):
    return {"texture": rng.integers(0, 256, (32, 48, 3), np.uint8), "angle": np.float32(rng.uniform(0, 90))}


@pytest.mark.parametrize("prepare", [rotated, mosaic, textured])
def test_photographs_are_prepared_the_same_by_one_process_by_two_and_after_a_resume(split, prepare):
    fields = {"epochs": 2, "prepare": prepare}
    whole = list(iterator(split, **fields))
    assert [len(batch["index"]) for batch in whole] == [4, 4, 3] * 2
    assert all(batch["image"].shape[1:] == (32, 48, 3) and batch["image"].dtype == np.uint8 for batch in whole)
    assert_shards_make(whole, shards(split, 2, **fields), 2)
    begun = iterator(split, **fields)
    next(begun)
    resumed = iterator(split, **fields)
    resumed.set_state(begun.get_state())
    assert_same(resumed, whole[1:])


def test_prepare_may_rotate_the_photograph(split):
    seen = {}
    for batch in iterator(split, epochs=2, prepare=rotated):
        for i, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            assert (image != split[i]["image"]).any()
            assert np.abs(image[12:20, 20:28].astype(int) - split[i]["image"][12:20, 20:28]).mean() < 12  # the middle
            seen.setdefault(i, []).append(image.tobytes())
    assert all(len(set(images)) == 2 for images in seen.values())


def test_prepare_may_read_other_images_of_the_split(split):
    for batch in iterator(split, epochs=1, prepare=mosaic):
        for i, category, of, image in zip(*(batch[k] for k in ("index", "category", "of", "image")), strict=True):
            assert of[0] == i
            assert {split.categories[int(j)] for j in of} == {split.category_names[int(category)]}
            for place, j in enumerate(of.tolist()):
                top, left = 16 * (place // 2), 24 * (place % 2)
                np.testing.assert_array_equal(image[top : top + 16, left : left + 24], split[j]["image"][::2, ::2])


def test_prepare_may_add_pictures_and_numbers(split):
    for batch in iterator(split, epochs=1, prepare=textured):
        assert batch["texture"].shape == batch["image"].shape
        assert batch["angle"].dtype == np.float32 and batch["angle"].shape == batch["index"].shape
        for i, image in zip(batch["index"].tolist(), batch["image"], strict=True):
            np.testing.assert_array_equal(image, split[i]["image"])


def test_pictures_are_normalised_and_nothing_else():
    rng = np.random.default_rng(0)
    image, texture = (rng.integers(0, 256, (2, 4, 6, 3), np.uint8) for _ in range(2))
    others = {
        "features": {"layer1": texture},
        "depth": rng.integers(0, 256, (2, 4, 6, 1), np.uint8),
        "classes": rng.integers(0, 3, (2, 4, 6), np.uint8),
        "float": rng.random((2, 4, 6, 3), np.float32),
        "mask": rng.random((2, 4, 6)) > 0.5,
        "index": np.arange(2, dtype=np.int32),
        "angle": np.float32([3, 4]),
    }
    got = normalise({"image": image, "texture": texture, **others}, IMAGENET_NORMALIZATION)
    for name, picture in (("image", image), ("texture", texture)):
        want = (picture / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        assert got[name].dtype == jnp.float32
        np.testing.assert_allclose(got.pop(name), want, atol=1e-6)
    assert_same([got], [others])
    assert jax.tree.map(lambda leaf: leaf.dtype, got) == jax.tree.map(lambda leaf: leaf.dtype, others)


def test_features_are_left_alone_even_where_they_look_like_pictures():
    features = np.full((2, 4, 6, 3), 200, np.uint8)
    assert normalise({"features": features}, UNIT_NORMALIZATION)["features"] is features


def test_watch_sees_masks_and_the_method_none_of_the_truth():
    watched: list = []
    batches = DeviceBatches(Pictures(10), 4, make_mesh(), UNIT_NORMALIZATION, watch=watched.append)
    found = list(batches)
    assert len(batches) == len(found) == len(watched) == 3
    for place, (seen, given) in enumerate(zip(watched, found, strict=True)):
        assert seen.keys() == {"image", "category", "index", "weight", *TRUTH}
        assert given.keys() == {"image", "category", "index", "weight"}
        assert all(isinstance(value, np.ndarray) for value in seen.values())
        assert all(isinstance(value, jax.Array) for value in given.values())
        want = np.minimum(np.arange(4 * place, 4 * place + 4), 9)
        np.testing.assert_array_equal(given["index"], want)
        np.testing.assert_array_equal(seen["label"], want % 3 == 0)
        np.testing.assert_array_equal(seen["mask"][:, 0, 0], want % 3 == 0)
        assert seen["image"].dtype == np.uint8
        np.testing.assert_allclose(given["image"][:, 0, 0, 0], want * 10 / 255, atol=1e-6)
    assert found[2]["weight"].tolist() == [1, 1, 0, 0]


def test_passes_that_ask_for_masks_get_them():
    for batch in DeviceBatches(Pictures(10), 4, make_mesh(), UNIT_NORMALIZATION, masks=True):
        assert set(TRUTH) <= batch.keys()
        np.testing.assert_array_equal(batch["label"], batch["index"] % 3 == 0)
        np.testing.assert_array_equal(batch["mask"][:, 0, 0], batch["label"])


def test_device_batches_can_be_iterated_over_again_and_from_a_later_start():
    batches = DeviceBatches(Pictures(10), 4, make_mesh(), UNIT_NORMALIZATION)
    first = list(batches)
    assert_same(batches, first)
    assert_same(dataclasses.replace(batches, start=2), first[2:])


def test_batches_are_rounded_up_to_what_the_devices_divide():
    mesh: Any = SimpleNamespace(shape={"data": 4, "model": 2})
    assert [rows_per_batch(size, mesh) for size in (1, 4, 5, 16, 17)] == [4, 4, 8, 16, 20]


def test_prepared_images_repeat_their_draws(split):
    images = PreparedImages(split, rotated, seed=3)
    assert (len(images), images.ids) == (11, split.ids)
    first = [images[i] for i in range(11)]
    assert_same([images[i] for i in reversed(range(11))], reversed(first))
    assert any((item["image"] != split[i]["image"]).any() for i, item in enumerate(first))
    assert first[2].keys() == split[2].keys()
    other = PreparedImages(split, rotated, seed=4)
    assert (other[0]["image"] != first[0]["image"]).any()
    drawn = PreparedImages(Numbers(8), draw, seed=3)
    assert len({drawn[i]["drawn"].tobytes() for i in range(8)}) == 8


def test_a_pass_over_prepared_images_is_the_same_each_time(split):
    batches = DeviceBatches(PreparedImages(split, mosaic, SEED), 4, make_mesh(), IMAGENET_NORMALIZATION, masks=True)
    first = list(batches)
    assert_same(batches, first)
    assert set(TRUTH) <= first[0].keys()
