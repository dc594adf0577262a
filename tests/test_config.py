"""Config files and command lines that are wrong end in one line that says where."""

import re
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict

from jaxad.config import checked_arguments, define_config_flag, load_config
from jaxad.errors import UserError
from tests.runs import ROOT

PATCHCORE = f"--config={ROOT}/configs/patchcore.py:folder"


def refusal(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def same_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n    pass\n", r"c\.py, line 1 cannot be loaded: SyntaxError: invalid syntax"),
        ("x = 1\n\ny = nowhere\n", r"c\.py, line 3 cannot be loaded: NameError: name 'nowhere' is not defined"),
        ("import no_such_module\n", r"c\.py, line 1 cannot be loaded: ModuleNotFoundError: No module named"),
        ("raise RuntimeError('two\\nlines')\n", r"line 1 cannot be loaded: RuntimeError: two lines"),
        ("import sys\nsys.exit(3)\n", r"line 2 cannot be loaded: SystemExit: 3"),
        ("def get_config(a=None):\n    return 1 / 0\n", r"line 2 cannot be loaded: ZeroDivisionError"),
        ("def get_config(a, b):\n    return 1\n", r"c\.py cannot be loaded: TypeError: get_config\(\) missing"),
        ("def get_config(a=None):\n    pass\n", r"get_config returned None; expected an ml_collections\.ConfigDict"),
        ("def get_config(a=None):\n    return {'seed': 1}\n", r"get_config returned \{'seed': 1\}; expected"),
        ("get_config = 3\n", r"c\.py defines no get_config"),
        (b"x = '\xf6'\n", r"c\.py.* cannot be loaded: SyntaxError: .*utf-8"),
        (b"x = 1\n\0\n", r"c\.py.* cannot be loaded: SyntaxError: source code"),
    ],
)
def test_a_config_file_that_gives_no_config_is_named_with_the_reason(text, message, tmp_path):
    path = tmp_path / "c.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = refusal(load_config, str(path))
    assert re.search(message, found)
    assert str(path) in found


def test_a_config_that_holds_itself_is_refused(tmp_path):
    text = "from ml_collections import ConfigDict\ndef get_config():\n    c = ConfigDict()\n    c.c = c\n    return c\n"
    (tmp_path / "c.py").write_text(text)
    assert "RecursionError" in refusal(load_config, str(tmp_path / "c.py"))


@pytest.mark.parametrize("name", ["c.txt", "c.json", "c"])
def test_a_file_that_is_not_python_is_refused(name, tmp_path):
    (tmp_path / name).write_text("seed: 1\n")
    assert f"{name} is not a Python file" in refusal(load_config, str(tmp_path / name))


def test_a_folder_is_no_config_file(tmp_path):
    assert "is not a Python file" in refusal(load_config, str(tmp_path))


def test_of_a_field_that_is_given_twice_the_last_value_stays():
    given = [
        PATCHCORE,
        "--config.input.size=(32,)",
        "--config.seed",
        "1",
        "--config.seed=2",
        "--config.input.size=(8,8)",
    ]
    assert checked_arguments(given) == [PATCHCORE, "--config.seed=2", "--config.input.size=(8,8)"]
    kept = [PATCHCORE, "--config.seed", "1", "--noconfig.input.antialias", "--", "--config.seed=2"]
    assert checked_arguments(["--config.seed", "5", *kept]) == kept
    assert checked_arguments(["--config.input.antialias", "--workdir=x", *kept]) == ["--workdir=x", *kept]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PATCHCORE, "--config.input.size[0]=5"], "--config.input.size[0]: expected the whole value, as in "),
        ([PATCHCORE, "--config.input.size={64:1,65:2}"], "--config.input.size is a set or a dict"),
        ([PATCHCORE, PATCHCORE], "--config is given twice"),
        (["--config"], "--config has no value"),
        (["--config="], "--config has no value"),
        ([PATCHCORE, "--config.input.sise=5"], "there is no config field 'input.sise'"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, message):
    assert refusal(checked_arguments, arguments).startswith(message)


def test_the_flag_loads_config_files_as_python_does(tmp_path, monkeypatch):
    (tmp_path / "c.py").write_text("def get_config():\n    return 3\n")
    known = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", known)
    from ml_collections import config_flags

    define = config_flags.DEFINE_config_file
    monkeypatch.setattr(config_flags, "DEFINE_config_file", lambda *a, **k: define(*a, flag_values=known, **k))
    holder = define_config_flag("config", "")
    monkeypatch.setattr(sys, "argv", ["jaxad"])
    known(["jaxad", PATCHCORE])
    assert isinstance(holder.value, ConfigDict)
    assert "get_config returned 3" in refusal(known, ["jaxad", f"--config={tmp_path}/c.py"])
