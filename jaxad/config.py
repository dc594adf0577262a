"""Config files: found, loaded, overridden by field, compared; errors about misspelt names suggest the nearest."""

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ml_collections import ConfigDict

from jaxad.errors import UserError, did_you_mean, in_one_line, shown

T = TypeVar("T")

Config = Any  # an ml_collections.ConfigDict: its fields are known at run time only

# Fields that say how a run goes, not what it computes: they may differ when a run is resumed, evaluated or predicted
# from. The categories of a model are compared by themselves.
FREE_FIELDS = re.compile(
    r"((dataset|auxiliary)\.(data_dir|manual_dir)|dataset\.category|input\.(cache_gib|threads)|evaluation\..*|checkpoint\..*"
    r"|log\..*|mesh\..*|features\..*|threshold\.false_alarm_rate)$"
)


def load_config(spec: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config of `FILE.py:ARGUMENT` ("configs/patchcore.py:mirad/rabbit_pendant,official"), with fields replaced.

    Args:
      spec: path of a Python file with `get_config`, a colon, and the argument that is passed to it; without a colon,
        the file's own default.
      overrides: field -> value, {"train.batch_size": 4}.

    Raises:
      UserError: there is no such file or field, the file cannot be loaded or gives no config, a value has another type,
        or the argument is refused.
    """
    name, _, argument = spec.partition(":")
    path = Path(name)
    if path.exists() and not (path.is_file() and path.suffix == ".py"):
        raise UserError(f"{name} is not a Python file; expected a file NAME.py with get_config(argument) -> ConfigDict")
    if not path.is_file():
        if found := split_variant(path):
            file, variant = found
            wanted = f"{file}:{_categories(argument) or 'DATASET'},{variant}"
            raise UserError(f"there is no config file {name}: {variant} is a variant of {file}; expected {wanted}")
        known = [str(path.parent / file.name) for file in path.parent.glob("*.py")]
        raise UserError(f"there is no config file {name}.{did_you_mean(name, known)}")
    get_config = getattr(_load(path), "get_config", None)
    if not callable(get_config):
        raise UserError(f"{name} defines no get_config; expected get_config(argument) -> ConfigDict in a config file")
    config = _run_file(path, get_config, *[argument] * bool(argument))
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{name}: get_config returned {shown(config)}; expected an ml_collections.ConfigDict: does it end with a "
            "return statement?"
        )
    _run_file(path, config.lock)
    _run_file(path, fields, config)
    for field, value in (overrides or {}).items():
        check_field(config, field)
        replace_field(config, field, value)
    return config


def split_variant(path: Path) -> tuple[Path, str] | None:
    """For FOLDER/NAME_VARIANT.py: the file FOLDER/NAME.py and VARIANT, where that file exists and has this variant."""
    words = path.stem.split("_")
    for end in range(len(words) - 1, 0, -1):
        file, variant = path.with_name("_".join(words[:end]) + ".py"), "_".join(words[end:])
        if file.is_file() and variant in getattr(_load(file), "VARIANTS", {}):
            return file, variant
    return None


def _load(path: Path) -> ModuleType:
    path = path.absolute()
    folder = path.parent
    while (folder.parent / "__init__.py").exists():  # configs/benchmarks
        folder = folder.parent
    if str(folder.parent) not in sys.path:  # configs import each other as configs.NAME
        sys.path.insert(0, str(folder.parent))
    name = f"_config_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _run_file(path, spec.loader.exec_module, module)
    return module


def _run_file(path: Path, call: Callable[..., T], *arguments: Any) -> T:
    """What `call`, which is the config file's or runs it, returns.

    Raises:
      UserError: what it raises, on one line, with the line of the file.
    """
    try:
        return call(*arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file may hold any program
        reason, file, line = f"{type(error).__name__}: {in_one_line(error)}", str(path), None
        if isinstance(error, SyntaxError):
            reason, file, line = f"{type(error).__name__}: {error.msg}", error.filename or file, error.lineno
        else:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in frames[::-1] if Path(frame.filename) == path.absolute()), None)
        where = f"{file}, line {line}" if line else file
        raise UserError(f"the config file {where} cannot be loaded: {reason}; mend the file") from error


def _categories(argument: str) -> str:
    """DATASET/CATEGORY,CATEGORY with the categories joined by "+", as the argument's grammar has it."""
    return argument.replace(",", "+") if "/" in argument else argument


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
    """Sets a field that exists, by its dotted name.

    Raises:
      UserError: the value has another type than the field.
    """
    *groups, leaf = field.split(".")
    node = config
    for group in groups:
        node = node[group]
    try:
        node[leaf] = value
    except TypeError as error:
        raise UserError(
            f"config.{field} = {shown(value)}: expected {type(node[leaf]).__name__}, like {node[leaf]!r}"
        ) from error


def checked_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line with `--config=FILE` and `--config.FIELD=VALUE` checked before absl does, so that mistakes get
    one clear line. Of a field that is given twice the last value stays: ml_collections would join two tuples.

    Raises:
      UserError: there is no such file or field, or the file refuses its argument.
    """
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    specs = [place for place in range(end) if re.match(r"--?config(=|$)", arguments[place])]
    if not specs:
        return list(arguments)
    if len(specs) > 1:
        raise UserError("--config is given twice; expected one config file")
    _, equals, spec = arguments[specs[0]].partition("=")
    if not equals:
        spec = arguments[specs[0] + 1] if specs[0] + 1 < end else ""
    if not spec:
        raise UserError("--config has no value; expected --config=FILE.py:ARGUMENT")
    config = load_config(spec)
    known, places = fields(config), {}
    for place in range(end):
        if found := re.match(r"--?(?:no)?config\.([^=]+)(=?)", arguments[place]):
            field = found[1]
            name, bracket, _ = field.partition("[")
            check_field(config, name)
            if bracket:
                raise UserError(f"--config.{field}: expected the whole value, as in --config.{name}={known[name]}")
            if isinstance(known[name], tuple) and found[2] and arguments[place].partition("=")[2].lstrip()[:1] == "{":
                raise UserError(f"--config.{name} is a set or a dict; expected values in order, as in {known[name]}")
            apart = not found[2] and not isinstance(known[name], bool)  # --config.FIELD VALUE
            places.setdefault(name, []).append(range(place, place + 1 + apart))
    replaced = {place for given in places.values() for one in given[:-1] for place in one}
    return [argument for place, argument in enumerate(arguments) if place not in replaced]


def define_config_flag(name: str, help_string: str):
    """The `--config` flag of ml_collections: its value is the file, and `--config.FIELD=VALUE` replaces fields."""
    from absl import flags
    from ml_collections import config_flags

    holder = config_flags.DEFINE_config_file(name, None, help_string, lock_config=True)
    # config files are loaded in one place, whose errors are for users
    flags.FLAGS[name].parser.parse = load_config  # pyright: ignore[reportAttributeAccessIssue]
    return holder


def differences(saved: Mapping[str, Any], config: Config) -> list[str]:
    """Lines "FIELD: VALUE then, VALUE now" for the differing fields that decide what a run computes."""
    now = {name: plain(value) for name, value in fields(config).items()}
    names = sorted(name for name in saved.keys() | now.keys() if not FREE_FIELDS.match(name))
    missing = "(not set)"
    return [
        f"{name}: {saved.get(name, missing)!r} then, {now.get(name, missing)!r} now"
        for name in names
        if saved.get(name, missing) != now.get(name, missing)
    ]


def plain(value: Any) -> Any:
    """The value as it comes back from JSON: tuples become lists."""
    return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value
