"""What the processes of a run tell each other through JAX's coordination service: no device takes part, waiting has no
time limit, and an error in one process reaches those that wait for it.
"""

import collections
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # as Orbax does: the client of the coordination service has no public name

from jaxad.errors import UserError

_SLICE_MS = 2_000  # of a wait: in between, signals and ended processes are seen
_LEAVE_MS = 10_000
_ENDED = "run ended"
_uses: collections.Counter[str] = collections.Counter()


def count() -> int:
    """How many processes the run has; unlike `jax.process_count`, it starts no device."""
    return 1 if _client() is None else distributed.global_state.num_processes or 1


def index() -> int:
    """Which of them this process is."""
    return distributed.global_state.process_id or 0


def from_first(name: str, call: Callable[[], str]) -> str:
    """What `call` returns in process 0, in every process; the others wait for it, however long it takes.

    Args:
      name: what is waited for; all processes make the calls of one name in the same order.

    Raises:
      UserError: `call` raised it in process 0, or another process ended.
    """
    if count() == 1:
        return call()
    key = _key(name)
    if index() == 0:
        try:
            said = call()
        except UserError as error:
            _set(f"{key}/0", f"error {error}")
            raise
        _set(f"{key}/0", f"value {said}")
        return said
    kind, _, said = _get(f"{key}/0").partition(" ")
    if kind == "error":
        raise UserError(f"process 0: {said}")
    return said


def from_all(name: str, said: str) -> list[str]:
    """What each process says, by process, in every process; all wait for each other.

    Raises:
      UserError: another process ended.
    """
    if count() == 1:
        return [said]
    key = _key(name)
    _set(f"{key}/{index()}", said)
    return [_get(f"{key}/{process}") for process in range(count())]


def leave(status: int, message: str) -> None:
    """Ends this process before its work is done. In a run of several, those that end now too wait for each other, for a
    moment, so that none takes this for a crash; JAX itself would wait for all others, for five minutes.
    """
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            _set(f"{_ENDED}/{index()}", message)
            _client().wait_at_barrier("leave run", _LEAVE_MS)
        except jax.errors.JaxRuntimeError:  # some do not come
            pass
        os._exit(status)
    sys.exit(status)


def _client() -> Any:
    return distributed.global_state.client


def _key(name: str) -> str:
    _uses[name] += 1
    return f"jaxad/{name}/{_uses[name]}"


def _set(key: str, value: str) -> None:
    _client().key_value_set(key, value)


def _get(key: str) -> str:
    while True:
        try:
            return _client().blocking_key_value_get(key, _SLICE_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise UserError(f"the run's process 0 has ended: {str(error).splitlines()[0]}") from error
        for name, message in _client().key_value_dir_get(_ENDED):
            raise UserError(f"process {name.rpartition('/')[2]} has ended: {message}")
