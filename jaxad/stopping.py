"""A run that is asked to stop: by SIGTERM, which Slurm, GKE and Cloud TPU send before they take a machine away, by
Ctrl-C, or by another part of the program.

Work that a checkpoint can save is done inside `deferred`, where the request only waits to be seen: the loop looks at
`requested` after each step, saves, and raises `Stopped`. Anywhere else nothing would be lost but the phase, so a signal
raises `Stopped` at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STATUS = 75  # sysexits.h: EX_TEMPFAIL, "the user is invited to retry"


class Stopped(BaseException):
    """The run was asked to stop, and what it has done is saved; `jaxad.main` exits with `STATUS`.

    Not an Exception, as KeyboardInterrupt is not: code that tries again after an error must not try again after this.
    """


class _State:
    requested = False
    interrupted = False  # by a first SIGINT
    loops = 0  # that save before they stop


_state, _lock = _State(), threading.Lock()


def catch_signals() -> None:
    """From now on SIGTERM and SIGINT ask this process to stop; a second SIGINT raises KeyboardInterrupt at once.

    Called from the main thread.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)


def request() -> None:
    """Asks the run to stop at its next step; any thread may call it."""
    _state.requested = True


def requested() -> bool:
    """Whether this process was asked to stop."""
    return _state.requested


def stop_if_requested(where: str = "") -> None:
    """To be called where everything is saved.

    Args:
      where: where the run stands, "after step 12"; part of the message.

    Raises:
      Stopped: this process was asked to stop.
    """
    if _state.requested:
        raise Stopped(where)


@contextmanager
def deferred() -> Iterator[None]:
    """For a loop that looks at `requested` after each step and saves before it stops: signals do not raise inside.

    Raises:
      Stopped: this process was asked to stop before.
    """
    stop_if_requested()
    with _lock:
        _state.loops += 1
    try:
        yield
    finally:
        with _lock:
            _state.loops -= 1


def _on_signal(number: int, _frame) -> None:
    if number == signal.SIGINT:
        if _state.interrupted:
            raise KeyboardInterrupt
        _state.interrupted = True
    first, _state.requested = not _state.requested, True
    if not _state.loops:
        raise Stopped
    if first:  # os.write: print and logging are not for signal handlers
        more = "; Ctrl-C once more stops at once" if number == signal.SIGINT else ""
        os.write(2, f"\njaxad: {signal.Signals(number).name}: saving at the next step, then stopping{more}\n".encode())
