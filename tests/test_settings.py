"""What a method takes from its config, what it refuses, and in which words."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from ml_collections import ConfigDict, FieldReference

from configs import radl
from jaxad.errors import UserError
from jaxad.experiment import create_method
from jaxad.methods.radl import RADL
from jaxad.methods.simplenet import SimpleNet
from jaxad.settings import Count, Name, NonNegative, Positive, Share, Size, Whole, Within, choice, number, read, setting

NAN, INFINITY = float("nan"), float("inf")
Kind = Literal["flattened", "pixel"]


def optional(hint: Any) -> Any:
    return hint | None


def read_one(hint: Any, value: Any) -> Any:
    """What a dataclass with one field `x` of this annotation reads from config.model.x."""
    settings: Any = dataclasses.make_dataclass("Settings", [("x", hint)], frozen=True)
    return read(settings, ConfigDict({"model": {"x": value}})).x


def error_of(call, *arguments, **more) -> str:
    """The one line with which the call refuses its arguments."""
    with pytest.raises(UserError) as found:
        call(*arguments, **more)
    assert "\n" not in str(found.value)
    return str(found.value)


ACCEPTED = [
    (Kind, "pixel"),
    (optional(Kind), None),
    (optional(Kind), "pixel"),
    (Literal[1, 2], 2),
    (bool, True),
    (bool, False),
    (optional(bool), None),
    (str, ""),
    (str, "stage4"),
    (optional(str), None),
    (int, -3),
    (optional(int), None),
    (float, 0.5),
    (float, -2),
    (Count, 1),
    (optional(Count), None),
    (Whole, 0),
    (Positive, 1e-30),
    (Positive, 1),
    (NonNegative, 0),
    (NonNegative, 0.0),
    (Share, 0),
    (Share, 1),
    (Share, 0.25),
    (optional(Share), None),
    (Annotated[float, Within(high=2)], -1e300),
    (Annotated[float, Within(high=2)], 2),
    (Annotated[float, Within(0, 1, above=True)], 1.0),
    (Annotated[int, Within(2, 4)], 2),
    (Annotated[int, Within(2, 4)], 4),
    (Annotated[int, Within(2, above=True)], 3),
    (tuple[Count, ...], (3,)),
    (tuple[Count, ...], (1, 3, 5)),
    (tuple[Count, Count], (4, 4)),
    (tuple[Positive, bool, str, Kind], (0.5, True, "a", "pixel")),
    (tuple[optional(Count), ...], (None, 2)),
    (tuple[tuple[Count, Count], ...], ((1, 2), (3, 4))),
    (optional(tuple[Count, ...]), None),
    (optional(tuple[Count, ...]), (2,)),
]


@pytest.mark.parametrize("hint, value", ACCEPTED)
def test_an_allowed_value_is_read_as_it_is(hint, value):
    found = read_one(hint, value)
    assert found == value
    assert type(found) is type(value)


REFUSED = [
    (Kind, "pixels", "config.model.x is 'pixels'; expected one of flattened, pixel. Did you mean 'pixel'?"),
    (Kind, None, "config.model.x is None; expected one of flattened, pixel."),
    (Kind, 1, "config.model.x is 1; expected one of flattened, pixel."),
    (Kind, ("pixel",), "config.model.x is ('pixel',); expected one of flattened, pixel."),
    (bool, 1, "config.model.x is 1; expected True or False"),
    (bool, "True", "config.model.x is 'True'; expected True or False"),
    (bool, None, "config.model.x is None; expected True or False"),
    (str, 5, "config.model.x is 5; expected a text"),
    (str, None, "config.model.x is None; expected a text"),
    (str, ("a",), "config.model.x is ('a',); expected a text"),
    (int, 2.0, "config.model.x is 2.0; expected a whole number"),
    (int, True, "config.model.x is True; expected a whole number"),
    (int, "2", "config.model.x is '2'; expected a whole number"),
    (optional(int), 2.5, "config.model.x is 2.5; expected a whole number, or None"),
    (float, NAN, "config.model.x is nan; expected a number"),
    (float, False, "config.model.x is False; expected a number"),
    (float, "0.1", "config.model.x is '0.1'; expected a number"),
    (float, None, "config.model.x is None; expected a number"),
    (float, (0.1,), "config.model.x is (0.1,); expected a number"),
    (Count, 0, "config.model.x is 0; expected a whole number of at least 1"),
    (Count, None, "config.model.x is None; expected a whole number of at least 1"),
    (optional(Count), 0, "config.model.x is 0; expected a whole number of at least 1, or None"),
    (Whole, -1, "config.model.x is -1; expected a whole number of at least 0"),
    (Positive, 0, "config.model.x is 0; expected a number above 0"),
    (Positive, -0.0, "config.model.x is -0.0; expected a number above 0"),
    (Positive, NAN, "config.model.x is nan; expected a number above 0"),
    (Positive, -INFINITY, "config.model.x is -inf; expected a number above 0"),
    (NonNegative, -1e-9, "config.model.x is -1e-09; expected a number of at least 0"),
    (NonNegative, NAN, "config.model.x is nan; expected a number of at least 0"),
    (Share, 1.01, "config.model.x is 1.01; expected a number of at least 0 and at most 1"),
    (Share, True, "config.model.x is True; expected a number of at least 0 and at most 1"),
    (Share, INFINITY, "config.model.x is inf; expected a number of at least 0 and at most 1"),
    (optional(Share), NAN, "config.model.x is nan; expected a number of at least 0 and at most 1, or None"),
    (Annotated[float, Within(high=2)], 2.5, "config.model.x is 2.5; expected a number of at most 2"),
    (Annotated[float, Within(high=2)], INFINITY, "config.model.x is inf; expected a number of at most 2"),
    (Annotated[float, Within(0, 1, above=True)], 0, "config.model.x is 0; expected a number above 0 and at most 1"),
    (Annotated[int, Within(2, 4)], 5, "config.model.x is 5; expected a whole number of at least 2 and at most 4"),
    (Annotated[int, Within(2, above=True)], 2, "config.model.x is 2; expected a whole number above 2"),
    (tuple[Count, ...], (), "config.model.x is (); expected one or more values, such as (1, 2)"),
    (tuple[Count, ...], 3, "config.model.x is 3; expected one or more values, such as (1, 2)"),
    (tuple[Count, ...], None, "config.model.x is None; expected one or more values, such as (1, 2)"),
    (tuple[str, ...], "ab", "config.model.x is 'ab'; expected one or more values, such as (1, 2)"),
    (tuple[Count, ...], (1, 3, 0), "config.model.x[2] is 0; expected a whole number of at least 1"),
    (tuple[Count, ...], (True, 1), "config.model.x[0] is True; expected a whole number of at least 1"),
    (tuple[Count, Count], (1, 2, 3), "config.model.x is (1, 2, 3); expected 2 values, such as (1, 2)"),
    (tuple[Count, Count], (1,), "config.model.x is (1,); expected 2 values, such as (1, 2)"),
    (tuple[Count, Share], (1, 2), "config.model.x[1] is 2; expected a number of at least 0 and at most 1"),
    (tuple[Share, ...], (0.5, NAN), "config.model.x[1] is nan; expected a number of at least 0 and at most 1"),
    (tuple[Kind, ...], ("pixel", "x"), "config.model.x[1] is 'x'; expected one of flattened, pixel."),
    (tuple[str, ...], ("a", 1), "config.model.x[1] is 1; expected a text"),
    (tuple[optional(Count), ...], (None, 0), "config.model.x[1] is 0; expected a whole number of at least 1, or None"),
    (tuple[tuple[Count, Count], ...], ((1, 2), (3, 0)), "config.model.x[1][1] is 0; expected a whole number of at le"),
    (
        int,
        2**31,
        "config.model.x is 2147483648; expected a whole number of at least -2147483647 and at most 2147483647",
    ),
    (Count, 10**12, "config.model.x is 1000000000000; expected a whole number of at least 1 and at most 2147483647"),
    (Size, 65537, "config.model.x is 65537; expected a whole number of at least 1 and at most 65536"),
    (Name, "n" * 201, "config.model.x is 'nnnnn"),
    (Name, None, "config.model.x is None; expected a text of at most 200 bytes"),
    (
        optional(Name),
        5,
        "config.model.x is 5; expected a text of at most 200 bytes, without control characters, or None",
    ),
    (optional(tuple[Count, ...]), (0,), "config.model.x[0] is 0; expected a whole number of at least 1"),
]


@pytest.mark.parametrize("hint, value, message", REFUSED)
def test_another_value_is_refused_in_one_line_that_names_the_field(hint, value, message):
    assert error_of(read_one, hint, value).startswith(message)


@pytest.mark.parametrize("hint", [Kind, bool, str, Count, Share, tuple[Count, ...], tuple[Count, Count]])
def test_none_is_named_among_what_is_expected_where_it_is_allowed(hint):
    wrong = 7 if hint is str else "wrong"
    assert "None" not in error_of(read_one, hint, wrong)
    assert re.search(r"expected .*\bNone\b", error_of(read_one, optional(hint), wrong))


@pytest.mark.parametrize("value", [True, 1.0, 3, "1"])
def test_a_choice_among_numbers_takes_these_numbers_only(value):
    assert error_of(read_one, Literal[1, 2], value).startswith(f"config.model.x is {value!r}; expected one of 1, 2")


@pytest.mark.parametrize("hint", [Kind, bool, str, Count, Positive, tuple[Count, ...]])
def test_a_group_of_fields_is_no_value(hint):
    message = error_of(read_one, hint, {"low": 1, "high": 2})
    assert message.startswith("config.model.x is ")


def test_lists_are_read_as_tuples_down_to_the_innermost():
    assert read_one(tuple[Count, ...], [1, 2]) == (1, 2)
    pairs = read_one(tuple[tuple[Count, Count], ...], [[1, 2], [3, 4]])
    assert pairs == ((1, 2), (3, 4))
    assert hash(pairs)


def test_a_reference_is_read_as_its_value():
    assert read_one(optional(Count), FieldReference(3)) == 3
    assert read_one(optional(Count), FieldReference(None, field_type=int)) is None


@dataclass(frozen=True)
class Network:
    """Stands for what a method makes of other fields."""

    name: str


@dataclass(frozen=True)
class Settings:
    """Settings from every group of the config, and one that is made elsewhere."""

    network: Network
    sigma: Positive
    epochs: Count
    dtype: Literal["float32", "bfloat16"]


def config(**changes: Any) -> ConfigDict:
    fields = {"dtype": "float32", "seed": 7, "model": {"sigma": 0.5, "other": 3}, "train": {"epochs": 10}}
    return ConfigDict({**fields, **changes})


def test_fields_are_found_in_model_in_train_and_at_the_top():
    network = Network("resnet18")
    assert read(Settings, config(), network=network) == Settings(network, 0.5, 10, "float32")


def test_a_given_field_is_neither_looked_up_nor_checked():
    found = read(Settings, config(model={}), network=Network("a"), sigma=-1.0)
    assert found.sigma == -1.0
    assert read(Settings, config(), network=Network("a"), epochs=3).epochs == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": {"sigma": 0.0}}, "config.model.sigma is 0.0; expected a number above 0"),
        ({"train": {"epochs": 0}}, "config.train.epochs is 0; expected a whole number of at least 1"),
        ({"dtype": "half"}, "config.dtype is 'half'; expected one of float32, bfloat16."),
    ],
)
def test_a_wrong_value_is_named_with_its_group(changes, message):
    assert error_of(read, Settings, config(**changes), network=Network("a")) == message


@pytest.mark.parametrize("model", [{}, {"sigmas": 0.5}])
def test_a_missing_field_is_named(model):
    message = error_of(read, Settings, config(model=model), network=Network("a"))
    assert message.startswith("config.model.sigma is missing")
    assert "configs/" in message


def test_a_field_that_was_not_given_is_missing():
    assert error_of(read, Settings, config()).startswith("config.model.network is missing")


def test_a_group_at_the_top_is_not_taken_for_a_setting_of_the_same_name():
    features: Any = dataclasses.make_dataclass("Features", [("features", Count)], frozen=True)
    top = {"features": {"memory_gib": 6.0, "disk_gib": 100.0}}
    assert read(features, config(**top, model={"features": 3})).features == 3
    assert error_of(read, features, config(**top)).startswith("config.model.features is missing")


@dataclass(frozen=True)
class Narrow(Settings):
    """One field more, and one of the inherited ones with a narrower range."""

    sigma: Annotated[float, Within(0, 0.6, above=True)]
    other: Whole


def test_inherited_fields_are_read_by_the_annotation_nearest_to_the_class():
    network = Network("a")
    assert read(Narrow, config(), network=network) == Narrow(network, 0.5, 10, "float32", other=3)
    wide = config(model={"sigma": 0.7, "other": 3})
    assert read(Settings, wide, network=network).sigma == 0.7
    assert error_of(read, Narrow, wide, network=network).startswith("config.model.sigma is 0.7")
    assert error_of(read, Narrow, config(train={"epochs": 0}), network=network).startswith("config.train.epochs is 0")


def test_radl_reads_the_settings_of_simplenet_and_its_own():
    settings: Any = radl.get_config("magnetic_tile")
    found: Any = create_method(settings, ("tile",))
    names = {field.name for field in dataclasses.fields(found)} - {"patches"}
    assert names > {field.name for field in dataclasses.fields(SimpleNet)} - {"patches"}
    values = {**settings.train, **settings.model, "dtype": settings.dtype}
    assert {name: getattr(found, name) for name in names} == {name: values[name] for name in names}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RADL) if field.name != "patches"])
def test_radl_refuses_a_wrong_value_of_any_field_by_name(name):
    settings: Any = radl.get_config("magnetic_tile")
    with settings.ignore_type():
        place = next((group for group in ("model", "train") if name in settings[group]), None)
        (settings[place] if place else settings)[name] = object
    field = f"{place}.{name}" if place else name
    assert error_of(create_method, settings, ("tile",)).startswith(f"config.{field} is <class 'object'>; expected ")


def test_radl_refuses_a_range_of_noise_that_is_none():
    settings: Any = radl.get_config("magnetic_tile")
    settings.model.sigma_low, settings.model.sigma_high = 0.2, 0.1
    message = error_of(create_method, settings, ("tile",))
    assert "config.model.sigma_low is 0.2" in message
    assert "config.model.sigma_high 0.1" in message


def test_setting_gives_the_value_of_a_dotted_field():
    fields = ConfigDict({"seed": 1, "model": {"size": (4, 5), "taps": ["a", "b"], "none": None}})
    assert setting(fields, "seed") == 1
    assert setting(fields, "model.size") == (4, 5)
    assert setting(fields, "model.taps") == ("a", "b")
    assert setting(fields, "model.none") is None


@pytest.mark.parametrize("field", ["model.ratio", "train.epochs", "ratio", "seed.ratio", "model.seed.deeper"])
def test_setting_names_a_field_that_is_not_there(field):
    fields = ConfigDict({"seed": 1, "model": {"seed": 2}})
    assert error_of(setting, fields, field).startswith(f"config.{field} is missing")


def test_choice_gives_an_allowed_value_and_names_the_nearest_one_otherwise():
    fields = ConfigDict({"backbone": {"name": "resnet18"}})
    assert choice(fields, "backbone.name", iter(["resnet18", "resnet34"])) == "resnet18"
    message = error_of(choice, fields, "backbone.name", iter(["resnet34", "vit"]))
    assert message == "config.backbone.name is 'resnet18'; expected one of resnet34, vit. Did you mean 'resnet34'?"


@pytest.mark.parametrize(
    "more, message",
    [
        ({}, None),
        ({"low": 3, "high": 3}, None),
        ({"low": 3, "above": True}, "a number above 3"),
        ({"low": 3.5}, "a number of at least 3.5"),
        ({"high": 2.5}, "a number of at most 2.5"),
        ({"low": 4, "high": 5, "whole": True}, "a whole number of at least 4 and at most 5"),
        ({"low": 3, "high": 5, "above": True}, "a number above 3 and at most 5"),
        ({"low": 4, "optional": True}, "a number of at least 4, or None"),
    ],
)
def test_number_is_held_to_its_range(more, message):
    fields = ConfigDict({"train": {"epochs": 3}})
    if message is None:
        assert number(fields, "train.epochs", **more) == 3
    else:
        assert error_of(number, fields, "train.epochs", **more) == f"config.train.epochs is 3; expected {message}"


def test_number_gives_none_where_it_is_optional():
    fields = ConfigDict({"train": {"epochs": None}})
    assert number(fields, "train.epochs", 1, whole=True, optional=True) is None
    assert error_of(number, fields, "train.epochs", 1, whole=True).endswith("expected a whole number of at least 1")
