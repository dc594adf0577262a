"""Files that are replaced as a whole or left as they were, and a lock on a file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from jaxad.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; after an exception, `path` is as it was.

    The folder is made if it is missing.

    Raises:
      UserError: the file cannot be written (folder read-only, disk full, a file where a folder is needed).
    """
    # a short name of its own: the file's name may already be as long as names can be
    temporary = path.parent / f".writing-{uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8; characters that have no UTF-8 form (undecodable file names) become backslash escapes."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for the user when `path` could not be written."""
    return UserError(
        f"{path}: cannot be written ({error.strerror or error}), expected a writable folder with free space; "
        "free space, change its permissions or choose another folder"
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on the file `path`, made if it is missing; the kernel releases the lock when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
