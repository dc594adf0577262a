"""One run at a time in a folder: a file there names the run that holds it.

The kernel's locks do not reach other hosts, so the holder shows that it lives by touching its file every
`BEAT_SECONDS`. A holder on the same host is dead if its process is gone. One elsewhere (another host, another
container) is dead if its file stays untouched for `DEAD_AFTER_SECONDS`, which the newcomer waits out: clocks need not
agree.
"""

import datetime
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from jaxad import processes
from jaxad.errors import UserError
from jaxad.files import cannot_write

logger = logging.getLogger(__name__)

NAME = "held_by.json"
BEAT_SECONDS, DEAD_AFTER_SECONDS = 10, 60


@dataclass(frozen=True)
class Holder:
    """A run that holds a folder.

    Attributes:
      host: its name, for people.
      machine: where process ids mean the same thing: this boot of this kernel, this namespace of processes.
      pid, started: of the process; ids are used again, so the time at which the process began (in the kernel's ticks)
        tells it from a later one.
      since: when it took the folder, UTC.
      token: unique.
    """

    host: str = "an unknown host"
    machine: str = ""
    pid: int = 0
    started: str = ""
    since: str = "an unknown time"
    token: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def held(*folders: Path) -> Iterator[None]:
    """Holds folders for this run; all its processes hold them together. They are made if they are missing.

    Raises:
      UserError: another run holds one, or nothing can be written there.
    """
    mine: list[_Held] = []

    def take() -> str:
        mine.extend(_Held(folder / NAME) for folder in dict.fromkeys(folders))
        return ""

    try:
        processes.from_first("hold the workdir", take)
        yield
    finally:
        for one in mine:
            one.release()


class _Held:
    """The file in place, and the thread that touches it."""

    def __init__(self, path: Path):
        self.path, self.me, self.over = path, _this_process(), threading.Event()
        while not _create(path, self.me):
            other, _ = _read(path)
            if other is not None:
                _wait_for_death(path, other)
                _remove(path, other)
        self.thread = threading.Thread(target=self._beat, name="holds the workdir", daemon=True)
        self.thread.start()

    def _beat(self) -> None:
        while not self.over.wait(BEAT_SECONDS):
            try:
                holder, _ = _read(self.path)
                if holder == self.me:
                    os.utime(self.path)
            except OSError as error:
                logger.warning("%s cannot be touched (%s)", self.path, error.strerror or error)
                continue
            if holder != self.me and not self.over.is_set():
                logger.error("%s was taken by another run (%s) while this one slept: it ends here", self.path, holder)
                os._exit(2)

    def release(self) -> None:
        self.over.set()
        self.thread.join()
        with suppress(OSError):
            if _read(self.path)[0] == self.me:
                self.path.unlink()


def _this_process() -> Holder:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Holder(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), now, uuid4().hex)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process began; "" if there is none or only its remains, or if the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _create(path: Path, me: Holder) -> bool:
    """Makes the file unless there is one; whether it was made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(json.dumps(asdict(me)).encode())
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(path, error) from error
    return True


def _read(path: Path) -> tuple[Holder | None, float]:
    """The holder, None where there is none; and when the file was last touched."""
    try:
        with path.open("rb") as file:  # opening asks a file server for the newest state
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None, 0.0
    try:
        return Holder(**json.loads(text)), touched
    except (ValueError, TypeError):  # its writer was killed half way, or is about to write
        return Holder(), touched


def _wait_for_death(path: Path, other: Holder) -> None:
    """Returns once the holder is known to be dead or gone.

    Raises:
      UserError: it lives.
    """
    if other.machine == _machine():
        if _lives(other):
            raise _in_use(path, other)
        return
    seen, end = _read(path), time.monotonic() + DEAD_AFTER_SECONDS
    logger.info("%s is held by %s: waiting up to %d s for a sign of life", path.parent, other, DEAD_AFTER_SECONDS)
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT_SECONDS / 4))
        now = _read(path)
        if now[0] is None:
            return
        if now != seen:
            raise _in_use(path, now[0])


def _lives(holder: Holder) -> bool:
    if Path("/proc/self").exists():
        return bool(holder.started) and _started(holder.pid) == holder.started
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _remove(path: Path, dead: Holder) -> None:
    """Removes a dead holder's file; never that of a run which took its place in the meantime."""
    aside = path.with_name(f".{NAME}-{uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    moved, _ = _read(aside)
    if moved is not None and moved != dead:
        with suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
        raise _in_use(path, moved)
    logger.warning("%s was held by %s, which is no more: taken over", path.parent, dead)
    aside.unlink()


def _in_use(path: Path, holder: Holder) -> UserError:
    return UserError(
        f"{path.parent} is in use by {holder}: wait until it has ended, stop it, or name another --workdir"
    )
