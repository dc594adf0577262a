"""What every builder can do: factors, validation splits, parts of splits by label."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from datasets_tfds.core import Photograph, PhotographBuilder, read_index
from jaxad.data.split import holdout, load_split
from jaxad.errors import UserError
from tests.data.raw import dataset_config, input_config, mask, photograph

LABELS = {"train": [0, 1, 0, 0, 1, 0], "validation": [0, 1], "test": [0, 1, 1]}


class Builder(PhotographBuilder, skip_registration=True):
    """Splits with the labels above, in that order."""

    name = "toy"
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="cog")]  # noqa: RUF012
    FACTORS = {"node": tfds.features.Text(), "tilt": np.float32}  # noqa: RUF012
    raw = Path()

    def photographs(self, manual_dir):
        return {split: [self.one(split, i, label) for i, label in enumerate(LABELS[split])] for split in LABELS}

    def one(self, split: str, i: int, label: int) -> Photograph:
        name = f"{split}{i}.png"
        truth = mask(self.raw / "masks" / name) if label else None
        factors = {"node": f"{i % 2}", "tilt": i / 4}
        return Photograph(
            photograph(self.raw / name, i), name, label, "scratch" if label else "good", truth, factors=factors
        )


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    Builder.raw = tmp_path_factory.mktemp("raw")
    made = Builder(data_dir=tmp_path_factory.mktemp("tfds"), config="cog")
    made.download_and_prepare()
    return made


@pytest.fixture
def config(builder, monkeypatch):
    monkeypatch.setattr("jaxad.data.split.prepare", lambda *_, **__: {"cog": builder})
    return dataset_config("toy", Path("unused"))


def ids(examples) -> list[str]:
    return [example["image_id"].decode() for example in examples]


def test_every_example_and_the_index_carry_the_factors(builder):
    examples = list(builder.as_data_source("train"))
    assert [(e["node"].decode(), float(e["tilt"])) for e in examples[:3]] == [("0", 0.0), ("1", 0.25), ("0", 0.5)]
    index = read_index(Path(builder.data_dir), "train")
    assert index["node"] == ["0", "1"] * 3
    assert index["tilt"] == [0, 0.25, 0.5, 0.75, 1, 1.25]


def test_parts_of_a_split_are_named_by_label(builder):
    assert ids(builder.as_data_source("train[normal]")) == ["train0.png", "train2.png", "train3.png", "train5.png"]
    assert ids(builder.as_data_source("train[anomalous]+validation[anomalous]")) == [
        "train1.png",
        "train4.png",
        "validation1.png",
    ]
    both = builder.as_data_source({"a": "test[normal]", "b": "test[1:2]"})
    assert [ids(both[name]) for name in "ab"] == [["test0.png"], ["test1.png"]]
    assert len(builder.as_data_source("train")) == 6


def test_the_validation_split_is_what_is_held_out(config):
    split = load_split(config, input_config(), "train+validation")
    rest, held = holdout(split, 0.5, 0, "config.threshold.holdout")
    assert held.ids == ["validation0.png", "validation1.png"]
    assert len(rest) == 6
    assert holdout(split, 0.0, 0, "config.threshold.holdout")[1].ids == held.ids


def test_images_are_selected_by_their_factors(config):
    split = load_split(config, input_config(), "train", where="node=1,tilt<1")
    assert split.ids == ["train1.png", "train3.png"]
    assert split[1]["index"] == 1
    np.testing.assert_array_equal(split[0]["image"], load_split(config, input_config(), "train")[1]["image"])


def test_a_change_is_applied_to_photograph_and_mask_before_the_geometry(config):
    def shift(image, truth, name):
        assert name.startswith("test")
        return np.roll(image, 7, 1), np.roll(truth, 7, 1)

    plain, changed = (load_split(config, input_config(size=(37, 52)), "test", change=how) for how in (None, shift))
    np.testing.assert_array_equal(changed[1]["image"], np.roll(plain[1]["image"], 7, 1))
    np.testing.assert_array_equal(changed[1]["mask"], np.roll(plain[1]["mask"], 7, 1))


def test_a_misspelt_split_is_reported_with_those_there_are(config):
    with pytest.raises(UserError, match=r"toy/cog has no split 'tset'; expected one of .*test.* Did you mean 'test'"):
        load_split(config, input_config(), "tset")


def test_a_damaged_index_says_what_to_delete(builder, tmp_path):
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match=rf"prepared data in {tmp_path} is damaged .*: delete that folder"):
        read_index(tmp_path, "train")


def test_a_factor_that_a_photograph_lacks_is_not_made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(Builder, "FACTORS", {**Builder.FACTORS, "weather": tfds.features.Text()})
    Builder.raw = tmp_path
    with pytest.raises(KeyError, match="weather"):
        Builder(data_dir=tmp_path, config="cog").download_and_prepare()
