"""Textures for synthetic defects: reproducible, varied, quick; DTD's where it is at hand."""

import copy
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import common
from datasets_tfds.dtd.dtd_dataset_builder import TEXTURES
from jaxad import sharding
from jaxad.config import load_config
from jaxad.data import preparation
from jaxad.data.batches import training_iterator
from jaxad.data.split import load_split
from jaxad.errors import UserError
from jaxad.imaging.decoding import decode
from jaxad.method import Train
from jaxad.synthesis.procedural import KINDS, draw_kind, draw_texture
from jaxad.synthesis.textures import Textures, textures
from tests.data.raw import mvtec_folder
from tests.data.raw_sets import dtd


def config_of(data_dir: Path | str = "", **fields):
    """A whole config with textures: `config.textures.name` is `name`, and so on; `size` and others are of the input."""
    config = common.base("folder")
    config.textures = common.textures()
    config.dataset.data_dir = str(data_dir)
    for name, value in fields.items():
        groups = [config[group] for group in ("textures", "input", "dataset") if name in config[group]]
        with groups[0].ignore_type():
            groups[0][name] = value
    return config


def procedural(number: int = 5640, seed: int = 0, size: tuple[int, int] = (64, 64)) -> Textures:
    return textures(config_of(name="procedural", number=number, seed=seed, size=size))


def drawn(source: Textures, number: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [source.draw(rng) for _ in range(number)]


@pytest.fixture(scope="module")
def prepared_dtd(tmp_path_factory) -> tuple[Path, Path]:
    """(data_dir with DTD prepared, its raw data): two photographs per class."""
    root = tmp_path_factory.mktemp("dtd")
    raw = dtd(root / "raw", TEXTURES)
    preparation.prepare("dtd", data_dir=str(root / "tfds"), manual_dir=str(raw))
    return root / "tfds", raw


def test_settings_are_read_from_the_whole_config():
    config = config_of("/data", number=7, seed=3, size=(32, 48), geometry="pad", antialias=False, manual_dir="/raw")
    found = textures(config)
    assert (found.name, found.number, found.seed) == ("auto", 7, 3)
    assert (found.data_dir, found.manual_dir) == ("/data", "/raw")
    assert (found.geometry.kind, found.geometry.size, found.geometry.antialias) == ("stretch", (32, 48), False)


def test_textures_are_frozen_and_equal_settings_are_one_key():
    one, other = procedural(seed=3), procedural(seed=3)
    assert one == other and hash(one) == hash(other)
    assert one != procedural(seed=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seed = 5  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", "perlin", "config.textures.name is 'perlin'; expected one of auto, dtd, procedural"),
        ("name", "procedual", "Did you mean 'procedural'?"),
        ("number", 0, "config.textures.number is 0; expected a whole number of at least 1"),
        ("number", 2.5, "config.textures.number is 2.5; expected a whole number of at least 1"),
        ("seed", -1, "config.textures.seed is -1; expected a whole number of at least 0"),
        ("size", (0, 5), "config.input.size is (0, 5)"),
    ],
)
def test_settings_out_of_range_are_named(field, value, said):
    with pytest.raises(UserError) as error:
        textures(config_of(**{field: value}))
    assert said in str(error.value)


def test_a_config_without_textures_is_named():
    with pytest.raises(UserError, match=r"config\.textures\.name is missing"):
        textures(common.base("folder"))


def test_the_fields_of_a_method_config_can_be_overridden(tmp_path):
    file = tmp_path / "method.py"
    file.write_text(
        "from configs import common\n"
        "def get_config(argument='folder'):\n"
        "    config = common.base(argument)\n"
        "    config.textures = common.textures()\n"
        "    return config\n"
    )
    overrides = {"textures.name": "procedural", "textures.number": 12, "textures.seed": 4}
    found = textures(load_config(str(file), overrides))
    assert (found.name, found.number, found.seed) == ("procedural", 12, 4)


def test_textures_are_reproducible_varied_and_differ_by_seed():
    once = drawn(procedural(seed=3), 30)
    assert len({t.tobytes() for t in once}) == 30
    assert all(t.shape == (64, 64, 3) and t.dtype == np.uint8 for t in once)
    for want, got in zip(once, drawn(procedural(seed=3), 30), strict=True):
        np.testing.assert_array_equal(got, want)
    other = drawn(procedural(seed=4), 30)
    assert not any(np.array_equal(a, b) for a, b in zip(once, other, strict=True))


def test_drawing_takes_one_uniform_index_from_the_generator():
    source, rng, expected = procedural(number=9, seed=2), np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(10):
        np.testing.assert_array_equal(source.draw(rng), draw_texture(2, int(expected.integers(9)), 64))
    assert rng.random() == expected.random()


def test_every_texture_of_the_set_is_drawn_about_equally_often():
    counts: dict[bytes, int] = {}
    for texture in drawn(procedural(number=5, size=(16, 16)), 500):
        counts[texture.tobytes()] = counts.get(texture.tobytes(), 0) + 1
    assert len(counts) == 5
    assert min(counts.values()) > 60 and max(counts.values()) < 140


@pytest.mark.parametrize("size", [(75, 75), (32, 48), (48, 20), (8, 5), (1, 40)])
def test_textures_have_the_size_of_the_input(size):
    assert all(t.shape == (*size, 3) for t in drawn(procedural(size=size), 40))


def test_a_texture_that_is_not_square_is_the_middle_of_a_square_one():
    wide = drawn(procedural(number=1, size=(32, 64)), 1)[0]
    np.testing.assert_array_equal(wide, draw_texture(0, 0, 64)[16:48])
    tall = drawn(procedural(number=1, size=(64, 31)), 1)[0]
    np.testing.assert_array_equal(tall, draw_texture(0, 0, 64)[:, 16:47])


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_textured_and_never_twice_the_same(name):
    found = [draw_kind(name, np.random.default_rng((1, j)), 64) for j in range(6)]
    assert len({t.tobytes() for t in found}) == 6
    deviations = [t.astype(float).mean(2).std() for t in found]
    assert np.median(deviations) > 8  # of 255: more than noise
    means = np.array([t.mean((0, 1)) for t in found])
    assert np.ptp(means, axis=0).max() > 25


def test_there_are_at_least_twelve_kinds_and_all_colours_are_drawn():
    assert len(KINDS) >= 12
    means = np.array([t.mean((0, 1)) for t in drawn(procedural(size=(16, 16)), 400)])
    spread = np.ptp(means, axis=1)
    assert (spread < 8).mean() > 0.1  # grey ones
    assert (spread > 60).mean() > 0.1  # colourful ones
    assert np.percentile(means, 5) < 60 and np.percentile(means, 95) > 180


def test_a_texture_of_256_pixels_takes_milliseconds():
    source, rng = procedural(size=(256, 256)), np.random.default_rng(0)
    source.draw(rng)
    start = time.process_time()
    for _ in range(60):
        source.draw(rng)
    assert (time.process_time() - start) / 60 < 0.03  # 0.006 on an idle core, but tests share theirs


def test_dtd_is_taken_where_it_is_at_hand_and_procedural_textures_otherwise(prepared_dtd, tmp_path):
    data_dir, raw = prepared_dtd
    (tmp_path / "nothing").mkdir()
    assert textures(config_of(tmp_path / "a")).kind == "procedural"
    assert textures(config_of(tmp_path / "a", manual_dir=str(tmp_path / "nothing"))).kind == "procedural"
    assert textures(config_of(tmp_path / "b", manual_dir=str(raw))).kind == "dtd"
    assert textures(config_of(data_dir)).kind == "dtd"
    assert textures(config_of(data_dir, name="dtd")).kind == "dtd"
    assert textures(config_of(data_dir, name="procedural")).kind == "procedural"


@pytest.mark.parametrize("antialias", [True, False])
def test_photographs_are_stretched_to_the_input_as_images_are(prepared_dtd, antialias):
    data_dir, raw = prepared_dtd
    source = textures(config_of(data_dir, size=(24, 40), geometry="crop", resize=64, antialias=antialias))
    files = [raw / "dtd" / "images" / name / f"{name}_{i:04}.jpg" for name in TEXTURES for i in range(2)]
    expected = np.random.default_rng(0)
    chosen = [int(expected.integers(len(files))) for _ in range(20)]
    assert len(set(chosen)) > 10 and any(i % 2 for i in chosen)  # grey files among them
    for i, texture in zip(chosen, drawn(source, 20), strict=True):
        assert texture.dtype == np.uint8
        photograph = decode(files[i].read_bytes(), str(files[i]))
        np.testing.assert_array_equal(texture, source.geometry.apply(photograph)[0])
        if antialias:
            resized = Image.fromarray(photograph).resize((40, 24), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(texture, np.asarray(resized))


def test_threads_that_begin_together_prepare_dtd_once(prepared_dtd, tmp_path, monkeypatch):
    asked = []

    def prepare(*arguments, **fields):
        asked.append(arguments)
        time.sleep(0.05)  # long enough for all threads to ask
        return preparation.prepare(*arguments, **fields)

    monkeypatch.setattr("jaxad.synthesis.textures.prepare", prepare)
    source = textures(config_of(tmp_path / "tfds", manual_dir=str(prepared_dtd[1]), size=(16, 16)))
    assert not asked and not (tmp_path / "tfds").exists()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: source.draw(np.random.default_rng(seed)), range(32)))
    assert asked == [("dtd",)]
    for seed, texture in enumerate(found):
        np.testing.assert_array_equal(texture, source.draw(np.random.default_rng(seed)))


def test_dtd_by_name_that_is_broken_says_what_to_do_instead(tmp_path):
    raw = dtd(tmp_path / "raw", TEXTURES[:3])
    source = textures(config_of(tmp_path / "tfds", name="dtd", manual_dir=str(raw)))
    with pytest.raises(UserError, match=r"no image in .*bubbly.*; or set config\.textures\.name to procedural"):
        source.draw(np.random.default_rng(0))


def test_damaged_records_are_named(tmp_path):
    data_dir = tmp_path / "tfds"
    (builder,) = preparation.prepare(
        "dtd", data_dir=str(data_dir), manual_dir=str(dtd(tmp_path / "raw", TEXTURES))
    ).values()
    for records in Path(builder.data_dir).glob("*.array_record*"):
        records.write_bytes(records.read_bytes()[:200])
    with pytest.raises(UserError) as error:
        textures(config_of(data_dir, name="dtd")).draw(np.random.default_rng(0))
    assert f"prepared data in {builder.data_dir} is damaged" in str(error.value)
    assert "delete that folder" in str(error.value)


@pytest.mark.parametrize("kind", ["dtd", "procedural"])
def test_a_stage_hands_textures_over_with_its_batches(prepared_dtd, tmp_path, kind):
    mvtec_folder(tmp_path / "raw" / "bolt", train=6)
    config = config_of(prepared_dtd[0], name=kind, size=(32, 48), path=str(tmp_path / "raw"))
    source, generators = textures(config), {}

    def prepare(images, i, rng):
        generators[i] = copy.deepcopy(rng)
        return {"texture": source.draw(rng)}

    stage = Train(
        "synthesis",
        loss=lambda variables, batch, key: (jnp.zeros(()), ({}, {})),
        optimizer=lambda total: optax.sgd(1.0),
        trainable=lambda path: True,
        epochs=1,
        batch_size=2,
        prepare=prepare,
    )
    split = load_split(config.dataset, config.input, "train")
    seen = set()
    for batch in training_iterator(stage, split, 11, sharding.make_mesh(devices=jax.devices()[:1])):
        assert batch["image"].shape == batch["texture"].shape == (2, 32, 48, 3)
        for i, image, texture in zip(batch["index"].tolist(), batch["image"], batch["texture"], strict=True):
            np.testing.assert_array_equal(image, split[i]["image"])
            np.testing.assert_array_equal(texture, source.draw(generators[i]))
            seen.add(texture.tobytes())
    assert len(generators) == 6 and len(seen) > 3
