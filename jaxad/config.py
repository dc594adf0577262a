"""Config files: found, loaded, overridden by field, compared; misspelt fields are told with what was meant."""

import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxad.errors import UserError, did_you_mean

Config = Any  # an ml_collections.ConfigDict: its fields are known at run time only

# Fields that say how a run goes, not what it computes: they may differ when a run is resumed, evaluated or predicted
# from.
FREE_FIELDS = re.compile(
    r"((dataset|auxiliary)\.(data_dir|manual_dir)|input\.cache_gib|evaluation\..*|checkpoint\..*|log\..*|mesh\..*|features\..*|threshold\.false_alarm_rate)$"
)


def load_config(spec: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config of `FILE.py:ARGUMENT` ("configs/patchcore.py:mirad/rabbit_pendant"), with fields replaced.

    Args:
      spec: path of a Python file with `get_config`, a colon, and the argument that is passed to it.
      overrides: field -> value, {"train.batch_size": 4}.

    Raises:
      UserError: there is no such file or field, a value has another type, or the argument is refused.
    """
    name, _, argument = spec.partition(":")
    path = Path(name).absolute()
    if not path.is_file():
        known = [str(Path(name).parent / f.name) for f in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"there is no config file {name}.{did_you_mean(name, known)}")
    folder = path.parent
    while (folder.parent / "__init__.py").exists():  # configs/benchmarks
        folder = folder.parent
    if str(folder.parent) not in sys.path:  # configs import each other as configs.NAME
        sys.path.insert(0, str(folder.parent))
    module_spec = importlib.util.spec_from_file_location(
        f"_config_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}", path
    )
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{name} defines no get_config: a config file has get_config(dataset) -> Config")
    config = module.get_config(argument) if argument else module.get_config()
    config.lock()
    for field, value in (overrides or {}).items():
        check_field(config, field)
        replace_field(config, field, value)
    return config


def fields(config: Config, prefix: str = "") -> dict[str, Any]:
    """Every field by its dotted name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= fields(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {f"{prefix}{key}": value}
    return flat


def check_field(config: Config, field: str) -> None:
    """Raises UserError when the config has no such field, with the near matches."""
    known = fields(config)
    if field in known:
        return
    if any(name.startswith(field + ".") for name in known):
        inside = sorted(name for name in known if name.startswith(field + "."))
        raise UserError(
            f"config.{field} is a group of fields: set one of {', '.join('config.' + n for n in inside[:6])}"
        )
    leaf = {name.rsplit(".", 1)[-1]: name for name in known}
    near = did_you_mean(field, known) or did_you_mean(leaf.get(field.rsplit(".", 1)[-1], ""), known)
    raise UserError(f"there is no config field {field!r}.{near}")


def replace_field(config: Config, field: str, value: Any) -> None:
    *groups, leaf = field.split(".")
    node = config
    for group in groups:
        node = node[group]
    try:
        node[leaf] = value
    except TypeError as error:
        raise UserError(
            f"config.{field} = {value!r}: expected {type(node[leaf]).__name__}, like {node[leaf]!r}"
        ) from error


def check_arguments(arguments: Sequence[str]) -> None:
    """Looks over `--config=FILE` and `--config.FIELD=VALUE` before absl does, so that mistakes get one clear line.

    Raises:
      UserError: no such file, no such field.
    """
    spec = None
    for i, argument in enumerate(arguments):
        if match := re.match(r"--?config(?:=(.*))?$", argument):
            spec = (
                match.group(1) if match.group(1) is not None else (arguments[i + 1] if i + 1 < len(arguments) else None)
            )
    if spec is None:
        return
    config = load_config(spec)
    for argument in arguments:
        if match := re.match(r"--?(?:no)?config\.([^=]+)", argument):
            check_field(config, re.sub(r"\[.*$", "", match.group(1)))


def define_config_flag(name: str, help_string: str):
    """The `--config` flag of ml_collections; the file is its value, `--config.FIELD=VALUE` replaces fields."""
    from ml_collections import config_flags

    return config_flags.DEFINE_config_file(name, None, help_string, lock_config=True)


def differences(saved: Mapping[str, Any], config: Config) -> list[str]:
    """Lines "field: saved value, now value" for the fields that decide what a run computes."""
    now = {name: plain(value) for name, value in fields(config).items()}
    names = sorted(name for name in saved.keys() | now.keys() if not FREE_FIELDS.match(name))
    missing = "(not set)"
    return [
        f"{name}: {saved.get(name, missing)!r} then, {now.get(name, missing)!r} now"
        for name in names
        if saved.get(name, missing) != now.get(name, missing)
    ]


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples become lists."""
    return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value
