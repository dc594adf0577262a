"""The numbers of a run: one JSON line per record, and TensorBoard event files (without TensorFlow)."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
