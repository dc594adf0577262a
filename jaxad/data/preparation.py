"""From raw photographs to prepared TFDS data, made once and reused."""

import contextlib
import errno
import fcntl
import functools
import importlib
import os
import pkgutil
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxad.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from datasets_tfds.core import PhotographBuilder


def dataset_names() -> list[str]:
    """The data sets that have a builder: the packages in `datasets_tfds`."""
    import datasets_tfds

    return sorted(module.name for module in pkgutil.iter_modules(datasets_tfds.__path__) if module.ispkg)


def prepare(
    name: str, category: str | Sequence[str] = "all", *, data_dir: str = "", manual_dir: str = "", path: str = ""
) -> dict[str, "PhotographBuilder"]:
    """The builders of the categories asked for, their data prepared: now, or in an earlier run.

    Processes that ask for the same category at the same time wait for the one that began, and reuse its work.

    Args:
      name: of the data set, one of `dataset_names()`.
      category: "all", one name, several separated by commas, or a sequence of names.
      data_dir: where prepared data is kept; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
      manual_dir: where the raw data is, for data sets that are not made from `path`; "" is DATA_DIR/downloads/manual.
      path: of the photographs, for the data set "folder".

    Returns:
      Builders by category, in the order asked for.

    Raises:
      UserError: unknown data set or category, raw data missing or broken, data_dir not writable or full.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()
    builders = _builders(name, category, root, path)
    if manual_dir and not Path(manual_dir).expanduser().is_dir():
        raise UserError(f"config.dataset.manual_dir is {manual_dir!r}, which is no folder")
    for builder in builders.values():
        if Path(builder.data_dir).is_dir():  # TFDS renames a folder to this name when it is complete
            _reuse(builder)
        else:
            _prepare(builder, manual_dir)
    return builders


def _builders(name: str, category: str | Sequence[str], root: Path, path: str) -> dict[str, "PhotographBuilder"]:
    known = dataset_names()
    if name not in known:
        raise UserError(
            f"config.dataset.name is {name!r}; expected one of {', '.join(known)}.{did_you_mean(name, known)}"
        )
    module = importlib.import_module(f"datasets_tfds.{name}.{name}_dataset_builder")
    if name == "folder":
        if not path:
            raise UserError(
                "config.dataset.path is empty: the data set 'folder' needs the path of your photographs, "
                "--config.dataset.path=PATH with PATH/train/good and PATH/test/DEFECT"
            )
        configs = module.folder_configs(path)
    else:
        configs = module.Builder.builder_configs
    wanted = [c.strip() for c in category.split(",")] if isinstance(category, str) else list(category)
    if wanted == ["all"]:
        wanted = list(configs)
    for one in wanted:
        if one not in configs:
            raise UserError(
                f"config.dataset.category: the data set {name!r} has no category {one!r}; "
                f"expected all, or some of {', '.join(configs)}.{did_you_mean(one, configs)}"
            )
    return {one: module.Builder(data_dir=str(root), config=configs[one]) for one in wanted}


def _prepare(builder: "PhotographBuilder", manual_dir: str) -> None:
    import tensorflow_datasets as tfds

    folder = Path(builder.data_dir)
    try:
        with _lock(folder.parent):
            if folder.is_dir():
                _reuse(builder)
                return
            for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):  # a killed run's: we hold the lock
                shutil.rmtree(leftover)
            _say(f"Preparing {builder.name}/{builder.category} in {folder}")
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir or None, try_download_gcs=False)
            )
    except OSError as error:
        reason = "is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror or error})"
        raise UserError(f"{folder} {reason}: set config.dataset.data_dir to a folder with free space") from error


def _reuse(builder: "PhotographBuilder") -> None:
    if not builder.info.splits:  # another process finished the data after this builder was made
        builder.info.read_from_directory(builder.data_dir)
    _say(f"Reusing prepared data in {builder.data_dir}")


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the kernel lets go of it when the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@functools.cache
def _say(message: str) -> None:
    """Prints a message once a process."""
    print(message, flush=True)
