"""The fields of every config are there, of the right type, and within limits that the messages state."""

import pytest

from configs import common
from jaxad.common_settings import COMMON, check_common
from jaxad.config import fields, load_config
from jaxad.errors import UserError
from tests.runs import ROOT


def config(**changes):
    return load_config(f"{ROOT}/configs/patchcore.py:magnetic_tile", changes)


def refusal(settings) -> str:
    with pytest.raises(UserError) as caught:
        check_common(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_common_field_has_a_rule():
    assert set(COMMON) == {*fields(common.base("magnetic_tile")), "method"}
    check_common(config())


@pytest.mark.parametrize("field", COMMON)
def test_a_missing_field_is_named(field):
    settings = config()
    *groups, name = field.split(".")
    node = settings
    for group in groups:
        node = node[group]
    with settings.unlocked():
        del node[name]
    assert refusal(settings).startswith(f"config.{field} is missing")


@pytest.mark.parametrize("group", ["dataset", "input", "evaluation", "mesh", "checkpoint"])
def test_a_missing_group_is_named(group):
    settings = config()
    with settings.unlocked():
        del settings[group]
    assert refusal(settings).startswith(f"config.{group}.")


REFUSED = [
    ("seed", -1, "expected a whole number of at least 0 and at most 4294967295"),
    ("seed", 10**20, "config.seed is 100000000000000000000; expected a whole number of at least 0 and at most 4294967"),
    ("input.cache_gib", float("nan"), "config.input.cache_gib is nan; expected a number of at least 0"),
    ("input.cache_gib", 1e308, "at most 1048576"),
    ("features.memory_gib", float("inf"), "expected a number"),
    ("features.disk_gib", -1.0, "expected a number of at least 0"),
    (
        "input.size",
        (64.0, 64.0),
        "config.input.size[0] is 64.0; expected a whole number of at least 1 and at most 4096",
    ),
    ("input.size", ("64", "64"), "config.input.size[0] is '64'"),
    ("input.size", (64, True), "config.input.size[1] is True"),
    ("input.size", (10**7, 10**7), "at most 4096"),
    ("input.size", (64,), "expected 2 values"),
    ("input.resize", 10**6, "config.input.resize is 1000000; expected a whole number of at least 1 and at most 4096"),
    ("evaluation.batch_size", 10**9, "expected at most 4096 images of config.input.size 256x256"),
    ("evaluation.batch_size", 2**70, "at most 2147483647"),
    ("evaluation.name", "n" * 300, "expected a text of at most 200 bytes, without control characters"),
    ("evaluation.name", "é" * 101, "at most 200 bytes"),
    ("evaluation.name", "a\nb", "config.evaluation.name is 'a\\nb'; expected a text"),
    ("evaluation.name", "a\0b", "without control characters"),
    ("evaluation.name", "\ud800", "expected a text"),
    ("dataset.path", "x" * 5000, "(5002 characters); expected a text of at most 4000 bytes"),
    ("log.every_steps", 2**80, "at most 2147483647"),
    ("checkpoint.keep_last", 10**30, "at most 2147483647"),
    ("auxiliary.holdout", float("nan"), "expected a number of at least 0 and at most 1"),
    ("precision", "higest", "Did you mean 'highest'"),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED)
def test_a_value_outside_its_limits_is_refused_with_them(field, value, message):
    found = refusal(config(**{field: value}))
    assert found.startswith(f"config.{field}")
    assert message in found


def test_a_whole_number_of_thousands_of_digits_is_refused_too():
    assert refusal(config(seed=10**5000)).startswith("config.seed is int (ValueError); expected a whole number")


def test_a_batch_of_training_has_a_limit_too():
    settings = load_config(f"{ROOT}/configs/rd.py:magnetic_tile", {"train.batch_size": 4097})
    assert refusal(settings).startswith("config.train.batch_size is 4097; expected at most 4096 images")


def test_a_group_that_is_a_number_is_named():
    settings = config()
    with settings.unlocked(), settings.ignore_type():
        settings.evaluation = 3
    assert refusal(settings).startswith("config.evaluation.batch_size is missing")
