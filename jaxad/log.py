"""What a run says while it goes: numbers as JSON lines and TensorBoard event files (without TensorFlow), messages and
progress bars, which stay readable when several models are trained side by side.
"""

import contextlib
import contextvars
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

_model: contextvars.ContextVar[str] = contextvars.ContextVar("model", default="")

SECONDS_BETWEEN_LINES = 30.0  # of the progress of one of several models


@contextlib.contextmanager
def one_of_several(model: str) -> Iterator[None]:
    """Marks what this thread says as that of one of several models at work: its messages begin with the model's name,
    and its progress is told in lines, since bars would overwrite each other.
    """
    token = _model.set(model)
    try:
        yield
    finally:
        _model.reset(token)


def with_model(record: logging.LogRecord) -> bool:
    """A filter for handlers: puts the name of the model at work before the message."""
    if _model.get():
        record.msg = f"[{_model.get()}] {record.msg}"
    return True


class Progress:
    """How far a piece of work has come: a bar; or lines, for one of several models.

    Args:
      total, initial: units in all, and done before.
      title: what the work is.
      shown: whether anything is shown.
    """

    def __init__(self, total: int, title: str, unit: str, initial: int = 0, shown: bool = True):
        lines = shown and bool(_model.get())
        self.bar = tqdm(total=total, initial=initial, desc=title, unit=unit, disable=lines or not shown)
        self.total, self.title, self.done, self.lines = total, title, initial, lines
        self.told = time.monotonic()

    def update(self, count: int = 1) -> None:
        """Counts `count` more units."""
        self.done += count
        self.bar.update(count)
        if self.lines and time.monotonic() - self.told > SECONDS_BETWEEN_LINES:
            self.told = time.monotonic()
            logger.info("%s: %d of %d", self.title, self.done, self.total)

    def over(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, each counted once the next one is asked for."""
        with self:
            for item in items:
                yield item
                self.update()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


class MetricLog:
    """Writes to `metrics.jsonl` and `tensorboard/` in a folder; only the first process of a run writes.

    Args:
      active: whether anything is written.
    """

    def __init__(self, directory: Path, active: bool = True):
        self.path, self.active, self.writer = Path(directory) / "metrics.jsonl", active, None
        self.directory = Path(directory) / "tensorboard"

    def rewind(self, step: int) -> None:
        """Drops the records after `step`, which a resumed run writes again."""
        if not self.active or not self.path.exists():
            return
        lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        os.replace(temporary, self.path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one record, named numbers after `step` batches; a number that is not finite becomes null."""
        if not self.active:
            return
        numbers = {name: float(value) for name, value in values.items()}
        record = {"step": step, **{name: value if math.isfinite(value) else None for name, value in numbers.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.writer is None:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(self.directory), flush_secs=10)
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a line cut short by a kill
        return math.inf
