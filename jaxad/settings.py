"""How a method reads its config: every field by name, every value checked before anything is computed."""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from jaxad.errors import UserError, did_you_mean


def setting(config: ConfigDict, field: str) -> Any:
    """The value of a dotted field, "model.coreset_ratio"; a tuple where the config holds a list.

    Raises:
      UserError: there is no such field.
    """
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, ConfigDict) or name not in value:
            raise UserError(f"config.{field} is missing and this method needs it; see the method's file in configs/")
        value = value[name]
    return tuple(value) if isinstance(value, (list, tuple)) else value


def choice(config: ConfigDict, field: str, allowed: Iterable[str]) -> Any:
    """The value of a field that must be one of `allowed`.

    Raises:
      UserError: it is another; the message names the nearest.
    """
    value, allowed = setting(config, field), tuple(allowed)
    if value not in allowed:
        near = did_you_mean(str(value), allowed)
        raise UserError(f"config.{field} is {value!r}; expected one of {', '.join(allowed)}.{near}")
    return value


def number(
    config: ConfigDict,
    field: str,
    low: float,
    high: float = float("inf"),
    *,
    whole: bool = False,
    above: bool = False,
    optional: bool = False,
) -> Any:
    """The value of a numeric field in [low, high].

    Args:
      whole: integers only.
      above: `low` itself is not allowed.
      optional: None is allowed.

    Raises:
      UserError: it is no number, or out of range.
    """
    value: Any = setting(config, field)
    if value is None and optional:
        return None
    is_number = type(value) is int or (type(value) is float and not whole)
    if is_number and value is not None and low <= value <= high and not (above and value == low):
        return value
    limits = f"{'above' if above else 'of at least'} {low}" + f" and at most {high}" * (high != float("inf"))
    what = f"a {'whole ' * whole}number {limits}{', or None' * optional}"
    raise UserError(f"config.{field} is {value!r}; expected {what}")
