"""How a method reads its config: every field by name, every value checked before anything is computed.

The settings of a method are the fields of its dataclass. A field's name is the name in `config.model`, `config.train`
or the top of the config; its annotation is its check:

    @dataclass(frozen=True)
    class RD(Method):
        teacher: FrozenBackbone
        loss_kind: Literal["flattened", "pixel"]     # config.model.loss_kind, one of the two
        learning_rate: Positive                      # config.train.learning_rate, a number above 0
        decay_at: Share | None                       # config.train.decay_at, from 0 to 1, or None
        epochs: Count                                # config.train.epochs, a whole number of at least 1

    read(RD, config, teacher=frozen_backbone(config))
"""

import dataclasses
import math
import os
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from jaxad.errors import UserError, did_you_mean, shown

T = TypeVar("T")
GROUPS = ("model", "train")


@dataclass(frozen=True)
class Within:
    """The numbers that a setting allows: from `low` (without it where `above`) to `high`."""

    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False


@dataclass(frozen=True)
class Longest:
    """How long a text may be, in bytes of UTF-8."""

    size: int


LARGEST_WHOLE = 2**31 - 1  # int32, JAX's integers

Count = Annotated[int, Within(1)]
Whole = Annotated[int, Within(0)]
Size = Annotated[int, Within(1, 2**16)]  # of an array along one axis: channels, tokens, layers
Seed = Annotated[int, Within(0, 2**32 - 1)]
Positive = Annotated[float, Within(0, above=True)]
NonNegative = Annotated[float, Within(0)]
Gib = Annotated[float, Within(0, 2**20)]
Share = Annotated[float, Within(0, 1)]
Dtype = Literal["float32", "bfloat16"]  # of computations; parameters are float32
Name = Annotated[str, Longest(200)]  # of a file or folder; file systems allow 255 bytes, and some are needed for more
Text = Annotated[str, Longest(4000)]  # paths have 4096 bytes at most


def read(settings: type[T], config: ConfigDict, **given: Any) -> T:
    """An instance of the dataclass: the fields in `given`, and every other one from the config.

    Raises:
      UserError: a field is missing in the config, or its value is not what the annotation allows; the message names it.
    """
    hints = get_type_hints(settings, include_extras=True)
    names = [field.name for field in dataclasses.fields(settings) if field.name not in given]  # type: ignore[arg-type]
    return settings(**given, **{name: checked(config, _place(config, name), hints[name]) for name in names})


def _place(config: ConfigDict, name: str) -> str:
    """Where the config has the setting: "model.sigma", "train.epochs", "dtype"."""
    fields: Any = config  # ConfigDict's types are known at run time only
    for group in GROUPS:
        if group in fields and name in fields[group]:
            return f"{group}.{name}"
    at_top = name in fields and not isinstance(fields[name], ConfigDict)
    return name if at_top else f"{GROUPS[0]}.{name}"


def checked(config: ConfigDict, field: str, hint: Any) -> Any:
    """The value of a dotted field, checked against a type annotation; lists are tuples.

    Raises:
      UserError: there is no such field, or its value is another; the message names the field.
    """
    optional = get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    if optional:
        (hint,) = (one for one in get_args(hint) if one is not type(None))
        if setting(config, field) is None:
            return None
    limits = Within()
    if get_origin(hint) is Annotated:
        hint, limits = get_args(hint)
    if isinstance(limits, Longest):
        return _checked_text(field, setting(config, field), limits, optional)
    if get_origin(hint) is Literal:
        return choice(config, field, get_args(hint), optional=optional)
    if hint in (int, float):
        return number(config, field, limits.low, limits.high, whole=hint is int, above=limits.above, optional=optional)
    value = setting(config, field)
    if get_origin(hint) is tuple:
        return _checked_tuple(field, value, get_args(hint), optional)
    if type(value) is not hint:
        expected = f"{_NAMES.get(hint, hint.__name__)}{', or None' * optional}"
        raise UserError(f"config.{field} is {shown(value)}; expected {expected}")
    return value


_NAMES = {bool: "True or False", str: "a text"}


def _checked_text(field: str, value: Any, longest: Longest, optional: bool) -> str:
    """A text of printable characters that can name a file."""
    try:
        fits = type(value) is str and len(os.fsencode(value)) <= longest.size
    except UnicodeEncodeError:
        fits = False
    if not fits or any(ord(c) < 32 or ord(c) == 127 for c in value):
        expected = f"a text of at most {longest.size} bytes, without control characters{', or None' * optional}"
        raise UserError(f"config.{field} is {shown(value)}; expected {expected}")
    return value


def _checked_tuple(field: str, value: Any, hints: tuple[Any, ...], optional: bool) -> tuple[Any, ...]:
    """A tuple whose elements are checked: `tuple[Count, ...]` is not empty, `tuple[Count, Count]` holds two."""
    length = None if hints[-1] is Ellipsis else len(hints)
    if not isinstance(value, tuple) or not value or (length and len(value) != length):
        expected = f"{length or 'one or more'} value{'s' * (length != 1)}, such as (1, 2)" + ", or None" * optional
        raise UserError(f"config.{field} is {shown(value)}; expected {expected}")
    kinds = hints if length else hints[:1] * len(value)
    return tuple(_checked_element(field, place, *pair) for place, pair in enumerate(zip(value, kinds, strict=True)))


def _checked_element(field: str, place: int, value: Any, hint: Any) -> Any:
    try:
        return checked(ConfigDict({"element": value}), "element", hint)
    except UserError as error:
        raise UserError(str(error).replace("config.element", f"config.{field}[{place}]", 1)) from None


def setting(config: ConfigDict, field: str) -> Any:
    """The value of a dotted field, "model.coreset_ratio"; a tuple where the config holds a list.

    Raises:
      UserError: there is no such field, or it is a group of fields.
    """
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, ConfigDict) or name not in value:
            raise UserError(
                f"config.{field} is missing and this run needs it; see the method's file in configs/, and "
                "configs/common.py"
            )
        value = value[name]
    if isinstance(value, ConfigDict):
        raise UserError(f"config.{field} is a group of fields; expected a value")
    return tuple(value) if isinstance(value, (list, tuple)) else value


def choice(config: ConfigDict, field: str, allowed: Iterable[Any], *, optional: bool = False) -> Any:
    """The value of a field that must be one of `allowed`.

    Args:
      optional: None is allowed.

    Raises:
      UserError: it is another; the message names the nearest.
    """
    value, allowed = setting(config, field), (*allowed, *[None] * optional)
    if not any(type(value) is type(one) and value == one for one in allowed):  # True is not 1
        near = did_you_mean(str(value), allowed)
        raise UserError(f"config.{field} is {shown(value)}; expected one of {', '.join(map(str, allowed))}.{near}")
    return value


def number(
    config: ConfigDict,
    field: str,
    low: float = float("-inf"),
    high: float = float("inf"),
    *,
    whole: bool = False,
    above: bool = False,
    optional: bool = False,
) -> Any:
    """The value of a numeric field in [low, high], whole ones in the range of int32 where that is unlimited.

    Args:
      whole: integers only.
      above: `low` itself is not allowed.
      optional: None is allowed.

    Raises:
      UserError: it is not a number, or out of range.
    """
    value: Any = setting(config, field)
    if value is None and optional:
        return None
    is_number = type(value) is int or (type(value) is float and not whole and math.isfinite(value))
    if type(value) is int and abs(value) > LARGEST_WHOLE and whole:
        low, high = max(low, -LARGEST_WHOLE), LARGEST_WHOLE if high == math.inf else high
    if is_number and value is not None and low <= value <= high and not (above and value == low):
        return value
    lower = f" {'above' if above else 'of at least'} {low:.10g}" * (low != float("-inf"))
    upper = f"{' and' * bool(lower)} {'at most' if lower else 'of at most'} {high:.10g}" * (high != float("inf"))
    raise UserError(
        f"config.{field} is {shown(value)}; expected a {'whole ' * whole}number{lower}{upper}{', or None' * optional}"
    )
