"""From raw photographs to prepared TFDS data, made once and reused."""

import errno
import functools
import importlib
import os
import pkgutil
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxad import processes
from jaxad.errors import UserError, did_you_mean
from jaxad.files import locked

if TYPE_CHECKING:
    from datasets_tfds.core import PhotographBuilder


def dataset_names() -> list[str]:
    """The data sets that have a builder: the packages in `datasets_tfds`."""
    import datasets_tfds

    return sorted(module.name for module in pkgutil.iter_modules(datasets_tfds.__path__) if module.ispkg)


def prepare(
    name: str, category: str | Sequence[str] = "all", *, data_dir: str = "", manual_dir: str = "", path: str = ""
) -> dict[str, "PhotographBuilder"]:
    """The builders of the requested categories, with their data prepared, now or by an earlier run.

    Processes that ask for the same category at the same time wait for the first of them, and reuse its work. The
    processes of one run wait for process 0, since locks on files do not reach other hosts.

    Args:
      name: the data set, one of `dataset_names()`, or several joined by "+".
      category: "all", one name, several separated by commas, or a sequence of names.
      data_dir: where prepared data is kept; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets.
      manual_dir: where the raw data is, for data sets that are not made from `path`: the raw data itself, or a folder
        with one for each data set; "" is DATA_DIR/downloads/manual.
      path: where the photographs are, for the data set "folder".

    Returns:
      Builders by category, in the requested order.

    Raises:
      UserError: the data set or category is unknown, two data sets have the same category, raw data is missing or
        broken, or data_dir is not writable or full.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()
    builders = _builders(name, category, root, path)
    if manual_dir and not Path(manual_dir).expanduser().is_dir():
        raise UserError(f"config.dataset.manual_dir is {manual_dir!r}, which is not a folder")

    def make() -> str:
        for builder in builders.values():
            if Path(builder.data_dir).is_dir():  # TFDS renames a folder to this name when it is complete
                _reuse(builder)
            else:
                _prepare(builder, manual_dir)
        return ""

    processes.from_first("prepare the data", make)
    if processes.index() > 0:
        make()  # finds the data; a host with a disk of its own makes its own
    return builders


def _builders(name: str, category: str | Sequence[str], root: Path, path: str) -> dict[str, "PhotographBuilder"]:
    known = dataset_names()
    makers: dict[str, tuple[str, Callable[[], PhotographBuilder]]] = {}
    for one in name.split("+"):
        if one not in known:
            raise UserError(
                f"config.dataset.name is {name!r}: there is no data set {one!r}; "
                f"expected one of {', '.join(known)}, or several joined by +.{did_you_mean(one, known)}"
            )
        module, configs = _module_and_configs(one, path)
        for each, config in configs.items():
            if each in makers:
                raise UserError(
                    f"config.dataset.name is {name!r}: {makers[each][0]} and {one} both have a category {each!r}; "
                    "expected data sets whose categories have different names"
                )
            makers[each] = one, functools.partial(module.Builder, data_dir=str(root), config=config)
    wanted = [c.strip() for c in category.split(",")] if isinstance(category, str) else list(category)
    if wanted == ["all"]:
        wanted = list(makers)
    for one in wanted:
        if one not in makers:
            raise UserError(
                f"config.dataset.category: the data set {name!r} has no category {one!r}; "
                f"expected all, or some of {', '.join(makers)}.{did_you_mean(one, makers)}"
            )
    return {one: makers[one][1]() for one in wanted}


def _module_and_configs(name: str, path: str) -> tuple[Any, Mapping[str, Any]]:
    """The builder's module of one data set, and its configs by category."""
    module = importlib.import_module(f"datasets_tfds.{name}.{name}_dataset_builder")
    if name != "folder":
        return module, module.Builder.builder_configs
    if not path:
        raise UserError(
            "config.dataset.path is empty: the data set 'folder' needs the path of your photographs, "
            "--config.dataset.path=PATH with PATH/train/good and PATH/test/DEFECT"
        )
    return module, module.folder_configs(path)


def _prepare(builder: "PhotographBuilder", manual_dir: str) -> None:
    import tensorflow_datasets as tfds

    folder = Path(builder.data_dir)
    try:
        with locked(folder.parent / ".lock"):
            if folder.is_dir():
                _reuse(builder)
                return
            for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):  # left by a killed run: we hold the lock
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


@functools.cache
def _say(message: str) -> None:
    """Prints a message once per process."""
    print(message, flush=True)
