"""Order, shards, resume, padding and the memory of decoded images."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxad.data import pipeline
from jaxad.data.pipeline import evaluation_batches, holdout, load_split, steps_per_epoch, training_iterator
from jaxad.data.preparation import prepare
from jaxad.errors import UserError
from tests.data.raw import dataset_config, input_config, mvtec_folder


class Numbers:
    """A source whose items are their own places."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return {"index": np.int32(i), "square": np.full(2, i * i)}


def indices(iterator) -> list[list[int]]:
    return [batch["index"].tolist() for batch in iterator]


def epoch_order(seed: int, epoch: int, length: int) -> list[int]:
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    return np.random.Generator(bits).permutation(length).tolist()


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("räw data")
    mvtec_folder(root / "bolt", train=20)
    mvtec_folder(root / "nut", train=10, seed=50)
    return root


@pytest.fixture
def config(raw, tmp_path_factory):
    return dataset_config("folder", tmp_path_factory.getbasetemp() / "tfds", path=str(raw))


def test_each_epoch_is_the_permutation_of_seed_and_epoch():
    batches = indices(training_iterator(Numbers(11), batch_size=4, seed=7, epochs=3))
    assert [len(b) for b in batches] == [4, 4, 3] * 3
    for epoch in range(3):
        order = [i for batch in batches[3 * epoch : 3 * epoch + 3] for i in batch]
        assert order == epoch_order(7, epoch, 11)
        assert sorted(order) == list(range(11))
    assert epoch_order(7, 0, 11) != epoch_order(7, 1, 11)


def test_items_of_a_batch_belong_together():
    for batch in training_iterator(Numbers(11), batch_size=4, seed=0, epochs=1):
        np.testing.assert_array_equal(batch["square"][:, 1], batch["index"] ** 2)


def test_dropping_the_last_batch_keeps_all_batches_full():
    batches = indices(training_iterator(Numbers(11), batch_size=4, seed=7, steps=5, drop_last=True))
    assert [len(b) for b in batches] == [4] * 5
    assert batches[2] + batches[3] == epoch_order(7, 1, 11)[:8]


def test_another_seed_gives_another_order():
    first, second = (indices(training_iterator(Numbers(50), batch_size=50, seed=s, epochs=1)) for s in (1, 2))
    assert first != second


@pytest.mark.parametrize("done", [0, 1, 4, 8])
def test_restored_state_gives_the_same_following_batches(done):
    def make():
        return training_iterator(Numbers(11), batch_size=4, seed=3, epochs=3)

    whole = indices(make())
    begun = make()
    for _ in range(done):
        next(begun)
    state = json.loads(json.dumps(begun.get_state()))
    resumed = make()
    resumed.set_state(state)
    assert indices(resumed) == whole[done:] == indices(begun)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("length", [11, 12, 14])
def test_shards_of_the_processes_make_the_single_process_batch(processes, length):
    whole = indices(training_iterator(Numbers(length), batch_size=4, seed=5, epochs=2))
    shards = [
        list(
            training_iterator(Numbers(length), batch_size=4, seed=5, epochs=2, process_index=p, process_count=processes)
        )
        for p in range(processes)
    ]
    for want, *parts in zip(whole, *shards, strict=True):
        if len(want) % processes:
            assert all(part["replicated"] for part in parts)
            assert all(part["index"].tolist() == want for part in parts)
        else:
            assert not any("replicated" in part for part in parts)
            assert np.concatenate([part["index"] for part in parts]).tolist() == want


def test_batches_that_the_devices_do_not_divide_go_whole_to_every_process():
    found = [
        list(training_iterator(Numbers(14), batch_size=8, seed=1, epochs=1, process_index=p, process_count=2, parts=4))
        for p in range(2)
    ]
    assert [len(batch["index"]) for batch in found[0]] == [4, 6]
    assert [batch.get("replicated", False) for batch in found[0]] == [False, True]
    assert found[0][1]["index"].tolist() == found[1][1]["index"].tolist()


def test_impossible_batches_are_named():
    with pytest.raises(UserError, match=r"batch_size is 0; expected a positive number"):
        training_iterator(Numbers(20), batch_size=0, seed=0, epochs=1)
    with pytest.raises(UserError, match=r"batch_size is 8, but there are only 7 training images"):
        steps_per_epoch(7, 8, drop_last=True)
    with pytest.raises(UserError, match="there are only 0 training images"):
        training_iterator(Numbers(0), batch_size=8, seed=0, epochs=1)


@pytest.mark.parametrize("length", [1, 7, 8, 9])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_sees_every_image_once_in_full_batches(length, processes):
    shards = [
        list(evaluation_batches(Numbers(length), 4, process_index=p, process_count=processes)) for p in range(processes)
    ]
    assert {len(s) for s in shards} == {-(-length // 4)}
    seen = []
    for parts in zip(*shards, strict=True):
        for part in parts:
            assert len(part["index"]) == len(part["weight"]) == 4 // processes
            assert part["weight"].dtype == np.float32
            seen += part["index"][part["weight"] == 1].tolist()
    assert seen == list(range(length))


def test_error_of_a_source_reaches_the_caller_as_it_is():
    class Broken(Numbers):
        def __getitem__(self, i):
            if i == 5:
                raise UserError("part 5.png is damaged")
            return super().__getitem__(i)

    with pytest.raises(UserError) as info:
        indices(training_iterator(Broken(11), batch_size=4, seed=0, epochs=1))
    assert str(info.value) == "part 5.png is damaged"


@pytest.mark.parametrize("start", [0, 2, 3])
def test_evaluation_goes_on_where_it_stopped(start):
    whole = indices(evaluation_batches(Numbers(10), 4))
    assert indices(evaluation_batches(Numbers(10), 4, start=start)) == whole[start:]


def test_split_joins_categories_and_keeps_their_order(config):
    split = load_split(config, input_config(), "test", ["nut", "bolt"])
    assert split.category_names == ["nut", "bolt"]
    assert split.categories == ["nut"] * 4 + ["bolt"] * 4
    assert [int(split[i]["category"]) for i in range(8)] == [0] * 4 + [1] * 4
    assert split.ids[:3] == ["nut/test/good/000.png", "nut/test/good/001.png", "nut/test/scratch/000.png"]
    np.testing.assert_array_equal(split.labels, [0, 0, 1, 1] * 2)
    assert split.defect_types[3] == "scratch"
    assert split.has_mask.all()
    np.testing.assert_array_equal(split.original_sizes, [[37, 52]] * 8)


def test_items_have_the_shapes_and_types_of_the_contract(config):
    item = load_split(config, input_config(geometry="pad"), "test")[2]
    shapes = {key: (value.shape, value.dtype.name) for key, value in item.items()}
    assert shapes == {
        "image": ((32, 48, 3), "uint8"),
        "mask": ((32, 48), "bool"),
        "valid": ((32, 48), "bool"),
        "label": ((), "int32"),
        "category": ((), "int32"),
        "defect": ((), "int32"),
        "has_mask": ((), "bool"),
        "index": ((), "int32"),
    }
    assert item["mask"].any() and not item["valid"].all()
    assert not item["mask"][~item["valid"]].any()


def test_original_is_the_photograph_itself(config):
    split = load_split(config, input_config(), "test")
    image, mask = split.original(3)
    assert image.shape == (37, 52, 3)
    assert mask[3:15, 4:20].all() and mask.sum() == 12 * 16


def count_decoding(monkeypatch) -> list[str]:
    names = []
    decode = pipeline.decode
    monkeypatch.setattr(pipeline, "decode", lambda data, name: (names.append(name), decode(data, name))[1])
    return names


def test_second_epoch_decodes_nothing(config, monkeypatch):
    decoded = count_decoding(monkeypatch)
    split = load_split(config, input_config(), "train")
    list(training_iterator(split, batch_size=4, seed=0, epochs=1))
    assert sorted(decoded) == sorted(split.ids)
    list(training_iterator(split, batch_size=4, seed=1, epochs=2))
    assert len(decoded) == len(split)


def test_memory_budget_bounds_what_is_kept(config, monkeypatch):
    decoded = count_decoding(monkeypatch)
    room_for = 12
    split = load_split(config, input_config(cache_gib=(room_for + 0.5) * 32 * 48 * 3 / 2**30), "train")
    for i in [*range(30)] * 2:
        split[i]
    assert len(decoded) == 30 + 30 - room_for


def test_kept_images_equal_decoded_ones(config):
    kept, decoded = (load_split(config, input_config(cache_gib=gib), "test") for gib in (1.0, 0.0))
    for i in [*range(8)] * 2:
        for key, value in decoded[i].items():
            np.testing.assert_array_equal(kept[i][key], value)


def test_subset_shares_the_decoded_images_and_numbers_its_own(config, monkeypatch):
    split = load_split(config, input_config(), "train")
    part = split.subset([7, 25])
    decoded = count_decoding(monkeypatch)
    np.testing.assert_array_equal(part[1]["image"], split[25]["image"])
    assert decoded == [split.ids[25]]
    assert part.ids == [split.ids[7], split.ids[25]]
    assert [int(part[i]["index"]) for i in range(2)] == [0, 1]
    assert [int(part[i]["category"]) for i in range(2)] == [0, 1]


def test_damaged_prepared_data_is_named(config):
    (builder,) = prepare("folder", "bolt", data_dir=config.data_dir, path=config.path).values()
    folder = builder.data_dir
    index = Path(folder, "index.json")
    text = index.read_text()
    index.write_text(text[:50])
    try:
        with pytest.raises(UserError, match=rf"prepared data in {folder} is damaged.*delete that folder"):
            load_split(config, input_config(), "test", ["bolt"])
    finally:
        index.write_text(text)


def test_holdout_takes_its_share_of_every_category(config):
    split = load_split(config, input_config(), "train")
    rest, held = holdout(split, 0.2, seed=1)
    assert [held.categories.count(c) for c in ("bolt", "nut")] == [4, 2]
    assert sorted(rest.ids + held.ids) == sorted(split.ids)


def test_holdout_of_a_category_depends_on_the_seed_and_on_no_other_category(config):
    both = load_split(config, input_config(), "train")
    alone = load_split(config, input_config(), "train", ["nut"])
    held = [i for i in holdout(both, 0.2, seed=1)[1].ids if i.startswith("nut")]
    assert held == holdout(alone, 0.2, seed=1)[1].ids
    assert any(holdout(alone, 0.2, seed=s)[1].ids != held for s in range(2, 6))


def test_holdout_takes_its_share_of_normal_and_of_anomalous_images(config):
    split = load_split(config, input_config(), "test")
    rest, held = holdout(split, 0.5, seed=0)
    assert sorted(held.labels) == [0, 0, 1, 1]
    assert not set(held.ids) & set(rest.ids)


def test_holdout_of_nothing_and_of_everything(config):
    split = load_split(config, input_config(), "train", ["nut"])
    rest, held = holdout(split, 0.0, seed=0)
    assert (len(rest), len(held)) == (10, 0)
    with pytest.raises(UserError, match=r"category 'nut' has only 1 normal"):
        holdout(split.subset([0]), 0.1, seed=0)
    with pytest.raises(UserError, match=r"config\.threshold\.holdout is 1\.5"):
        holdout(split, 1.5, seed=0)
