"""Textures for synthetic defects: reproducible, varied, quick; DTD's where it is at hand."""

import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from datasets_tfds.dtd.dtd_dataset_builder import TEXTURES
from jaxad.errors import UserError
from jaxad.synthesis.procedural import KINDS, draw_kind
from jaxad.synthesis.textures import Textures, load, textures
from tests.data.raw_sets import dtd


def test_a_texture_depends_on_seed_index_and_size_only():
    source = load(Textures("procedural", number=30, seed=3, size=64))
    once = [source[i] for i in range(30)]
    assert all(t.shape == (64, 64, 3) and t.dtype == np.uint8 for t in once)
    again = load(Textures("procedural", number=30, seed=3, size=64))
    for i in reversed(range(30)):
        np.testing.assert_array_equal(again[i], once[i])
    assert len({t.tobytes() for t in once}) == 30
    other = load(Textures("procedural", number=30, seed=4, size=64))
    assert not any(np.array_equal(other[i], once[i]) for i in range(30))


def test_the_source_has_as_many_textures_as_asked_for():
    source = load(Textures("procedural", number=3, size=32))
    assert len(source) == 3
    np.testing.assert_array_equal(source[-1], source[2])
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_textured_and_never_twice_the_same(name):
    drawn = [draw_kind(name, np.random.default_rng((1, j)), 64) for j in range(6)]
    assert len({t.tobytes() for t in drawn}) == 6
    deviations = [t.astype(float).mean(2).std() for t in drawn]
    assert np.median(deviations) > 8  # of 255: more than noise
    means = np.array([t.mean((0, 1)) for t in drawn])
    assert np.ptp(means, axis=0).max() > 25


def test_there_are_at_least_twelve_kinds_and_all_are_drawn():
    assert len(KINDS) >= 12
    source = load(Textures("procedural", number=400, size=16))
    means = np.array([source[i].mean((0, 1)) for i in range(400)])
    spread = np.ptp(means, axis=1)
    assert (spread < 8).mean() > 0.1  # grey ones
    assert (spread > 60).mean() > 0.1  # colourful ones
    assert np.percentile(means, 5) < 60 and np.percentile(means, 95) > 180


def test_sizes_that_are_not_powers_of_two_work():
    source = load(Textures("procedural", number=40, size=75))
    assert all(source[i].shape == (75, 75, 3) for i in range(40))


def test_a_texture_of_256_pixels_takes_milliseconds():
    source = load(Textures("procedural", number=60))
    source[0]
    start = time.process_time()
    for i in range(60):
        source[i]
    assert (time.process_time() - start) / 60 < 0.03  # 0.006 on an idle core, but tests share theirs


def test_dtd_is_taken_where_it_is_at_hand_and_procedural_textures_otherwise(tmp_path):
    data_dir = str(tmp_path / "tfds")
    auto = Textures("auto", number=5, size=48)
    assert load(auto, data_dir).name == "procedural"
    (tmp_path / "nothing").mkdir()
    assert load(auto, data_dir, str(tmp_path / "nothing")).name == "procedural"
    raw = dtd(tmp_path / "raw", TEXTURES)
    source = load(auto, data_dir, str(raw))
    assert (source.name, len(source)) == ("dtd", 94)
    assert load(auto, data_dir).name == "dtd"  # prepared by the call above
    assert load(Textures("procedural", number=5), data_dir).name == "procedural"
    first, last = source[0], source[-1]
    assert first.shape == last.shape == (48, 48, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(last, source[93])
    assert not np.array_equal(first, last)
    grey = source[1]  # a grey file becomes three equal channels
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])


def test_dtd_by_name_that_is_broken_says_what_to_do_instead(tmp_path):
    raw = dtd(tmp_path / "raw", TEXTURES[:3])
    with pytest.raises(UserError, match=r"no image in .*crosshatched.*|no image in .*; or set config\.textures\.name"):
        load(Textures("dtd"), str(tmp_path / "tfds"), str(raw))


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("name", "perlin", "config.textures.name is 'perlin'; expected one of auto, dtd, procedural"),
        ("number", 0, "config.textures.number is 0; expected a whole number of at least 1"),
        ("seed", -1, "config.textures.seed is -1; expected a whole number of at least 0"),
        ("size", 2.5, "config.textures.size is 2.5; expected a whole number of at least 16"),
    ],
)
def test_settings_out_of_range_are_named(field, value, said):
    config = ConfigDict({"name": "auto", "number": 10, "seed": 0, "size": 64}, type_safe=False)
    assert textures(config) == Textures("auto", 10, 0, 64)
    config[field] = value
    with pytest.raises(UserError) as error:
        textures(config)
    assert said in str(error.value)
