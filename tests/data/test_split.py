"""Splits: what an item holds, which decoded images stay in memory, what is held out, damaged data."""

from pathlib import Path

import numpy as np
import pytest

from jaxad.data import split as module
from jaxad.data.preparation import prepare
from jaxad.data.split import Split, load_split, permutation
from jaxad.errors import UserError
from tests.data.raw import dataset_config, input_config, mvtec_folder


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    return module.holdout(split, fraction, seed, "config.threshold.holdout")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("räw data")
    mvtec_folder(root / "bolt", train=20)
    mvtec_folder(root / "nut", train=10, seed=50)
    return root


@pytest.fixture
def config(raw, tmp_path_factory):
    return dataset_config("folder", tmp_path_factory.getbasetemp() / "tfds", path=str(raw))


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


def test_splits_are_cut_by_category_in_the_order_of_appearance(config):
    split = load_split(config, input_config(), "test", ["nut", "bolt"]).subset([5, 0, 4, 3])
    parts = dict(split.by_category())
    assert list(parts) == ["bolt", "nut"]
    assert [part.ids for part in parts.values()] == [[split.ids[0], split.ids[2]], [split.ids[1], split.ids[3]]]
    assert parts["nut"].category_names == ["nut", "bolt"]
    assert [int(parts["bolt"][i]["category"]) for i in range(2)] == [1, 1]


def test_splits_joined_by_plus_keep_their_names_and_need_the_first_only(config):
    split = load_split(config, input_config(), "train+test+validation", ["nut"])
    assert split.split_names == ["train"] * 10 + ["test"] * 4
    with pytest.raises(UserError, match=r"folder/nut has no split 'tset'; expected one of .*Did you mean 'test'"):
        load_split(config, input_config(), "tset+train", ["nut"])


def test_labels_and_defects_are_numbered_over_the_split(config):
    split = load_split(config, input_config(), "test")
    assert split.sorted_defects == ["good", "scratch"]
    items = [split[i] for i in range(8)]
    assert [int(item["label"]) for item in items] == [0, 0, 1, 1] * 2
    assert [int(item["defect"]) for item in items] == [0, 0, 1, 1] * 2
    assert [int(item["index"]) for item in items] == list(range(8))
    assert split.subset([0, 1]).sorted_defects == ["good"]


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
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda data, name: (names.append(name), decode(data, name))[1])
    return names


def test_second_epoch_decodes_nothing(config, monkeypatch):
    decoded = count_decoding(monkeypatch)
    split = load_split(config, input_config(), "train")
    for epoch in range(3):
        for i in permutation(0, epoch, len(split)):
            split[int(i)]
        assert sorted(decoded) == sorted(split.ids)


def test_memory_budget_bounds_what_is_kept(config, monkeypatch):
    decoded = count_decoding(monkeypatch)
    room_for = 12
    split = load_split(config, input_config(cache_gib=(room_for + 0.5) * 32 * 48 * 3 / 2**30), "train")
    for i in [*range(30)] * 2:
        split[i]
    assert len(decoded) == 30 + 30 - room_for


def test_corruptions_change_photograph_and_mask_before_the_geometry(config):
    names = []

    def change(image, mask, name):
        names.append(name)
        return 255 - image, ~mask

    plain = load_split(config, input_config(geometry="pad"), "test")
    changed = load_split(config, input_config(geometry="pad"), "test", change=change)
    image, mask = changed.original(2)
    np.testing.assert_array_equal(image, 255 - plain.original(2)[0])
    np.testing.assert_array_equal(mask, ~plain.original(2)[1])
    item, valid = changed[2], plain[2]["valid"]
    np.testing.assert_array_equal(item["valid"], valid)
    assert not item["image"][~valid].any()
    np.testing.assert_array_equal(item["mask"][valid], ~plain[2]["mask"][valid])
    assert set(names) == {plain.ids[2]}


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


def test_damaged_records_are_named(raw, tmp_path):
    config = dataset_config("folder", tmp_path, path=str(raw))
    (builder,) = prepare("folder", "bolt", data_dir=config.data_dir, path=config.path).values()
    for records in Path(builder.data_dir).glob("*test*.array_record*"):
        records.write_bytes(records.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"prepared data in {builder.data_dir} (is damaged|cannot be read).*delete"):
        load_split(config, input_config(), "test", ["bolt"])[0]


def test_a_permutation_belongs_to_its_seed_and_number():
    bits = np.random.Philox(key=np.array([7, 2], np.uint64))
    np.testing.assert_array_equal(permutation(7, 2, 11), np.random.Generator(bits).permutation(11))
    assert sorted(permutation(7, 2, 11).tolist()) == list(range(11))
    orders = {permutation(seed, number, 30).tobytes() for seed in range(5) for number in range(5)}
    assert len(orders) == 25


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
    with pytest.raises(UserError, match=r"config\.auxiliary\.holdout is -0\.1"):
        module.holdout(split, -0.1, 0, "config.auxiliary.holdout")


def test_holdout_takes_at_least_one_normal_image_and_no_anomalous_one_for_it(config):
    train = load_split(config, input_config(), "train")
    assert holdout(train, 0.001, seed=0)[1].categories == ["bolt", "nut"]
    held = holdout(load_split(config, input_config(), "test"), 0.001, seed=0)[1]
    assert (held.categories, held.labels.tolist()) == (["bolt", "nut"], [0, 0])


def test_kept_images_cannot_be_written_to(config):
    for geometry in ("stretch", "pad"):
        split = load_split(config, input_config(geometry=geometry), "train")
        with pytest.raises(ValueError, match="read-only"):
            split[0]["image"][:] = 0
