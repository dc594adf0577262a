"""The folder of a run: tried before anything is computed, and held to one config."""

import json
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax

from jaxad import processes, sharding
from jaxad.config import Config, differences, fields, plain
from jaxad.errors import UserError
from jaxad.files import write_text

CONFIG, CATEGORIES = "config.json", "categories"


def open_workdir(workdir: str | os.PathLike) -> Path:
    """The folder of a run, made and tried; all processes call it.

    Raises:
      UserError: nothing can be written there, or the processes do not see the same folder.
    """
    path = Path(workdir).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write in the workdir {path}: {error.strerror}; name another folder with --workdir"
        ) from error
    _check_shared(path)
    return path


def _check_shared(path: Path) -> None:
    def write() -> str:
        name = f".shared-{uuid4().hex}"
        write_text(path / name, "")
        return name

    token, here = processes.from_first("token in the workdir", write), socket.gethostname()
    seen = (path / token).exists()
    said = processes.from_all("workdir", f"{seen:d} {here}")
    (path / token).unlink(missing_ok=True)
    blind = sorted({f"{host} (process {i})" for i, (sees, host) in enumerate(map(str.split, said)) if sees == "0"})
    if blind:
        raise UserError(
            f"the workdir {path} is not the same folder in all processes: {', '.join(blind)} cannot see what process 0 "
            f"on {said[0].split()[1]} writes there; expected a --workdir that all hosts share"
        )


def folder_name(category: str) -> str:
    """The name of a category's folder: without separators."""
    return category.replace(os.sep, "_").replace("..", "_") or "_"


def evaluation_folder(workdir: Path, config: Config) -> Path:
    """Where results go: WORKDIR for the plain test split, WORKDIR/evaluations/NAME for a named evaluation and for any
    other one, which without a name is called by what is special about it, so that no result takes another's place.
    """
    settings = config.evaluation
    special = [settings.split] * (settings.split != "test") + [s for s in (settings.where, settings.corruptions) if s]
    name = settings.name or re.sub(r"[^\w.=!<>|+-]+", "_", "_".join(special))
    return workdir / "evaluations" / folder_name(name) if name else workdir


def check_config(folder: Path, config: Config, categories: Sequence[str]) -> None:
    """Notes config and categories in a model's folder that has no checkpoint; elsewhere they must be the same, but for
    fields that change no result.

    Raises:
      UserError: the folder belongs to another config.
    """
    if (folder / CONFIG).exists() and any((folder / "checkpoints").glob("step_*")):
        saved = saved_config(folder)
        known = saved.pop(CATEGORIES, list(categories))
        changed = differences(saved, config)
        if known != list(categories) and config.protocol != "zero_shot":
            changed.append(f"categories: {', '.join(known)} then, {', '.join(categories)} now")
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise UserError(
                f"{folder} holds a run of another config: {changed[0]}{more}; "
                "name another --workdir, or remove the folder"
            )
    elif jax.process_index() == 0:
        facts = {name: plain(value) for name, value in fields(config).items()} | {CATEGORIES: list(categories)}
        write_text(folder / CONFIG, json.dumps(facts, indent=1, default=str))
    sharding.wait_for_all("config")


def saved_config(folder: Path) -> dict[str, Any]:
    """What `check_config` noted in a model's folder: the value of every config field by its dotted name, and the
    model's categories under "categories"; {} where it has noted nothing.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / CONFIG
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove {folder} or name another --workdir") from error
