"""Reads PyTorch checkpoints without PyTorch, and admits tensors and plain values only.

A .pth file holds a pickle, which is a program; `jaxad.weights.opcodes` interprets it and runs nothing. Whatever
sizes and positions the file claims are checked against its length.

Both forms are read: the zip archive (PyTorch 1.6 and later) and the older one, five pickles in a row followed by the
raw numbers. The tar form of 2016 is refused.
"""

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxad.errors import UserError
from jaxad.weights.opcodes import ADVICE, Refused, Storage, View, interpret, shown

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC, LEGACY_START, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46", 1001

MAX_DEPTH = 100
WRAPPERS = ("state_dict", "net", "model")

# what the standard library raises on damaged zip archives and pickles
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


def read_pth(path: str | Path) -> Any:
    """What `torch.save` wrote, as dicts, lists, tuples and scalars, with a NumPy array where a tensor was.

    Arrays are read-only; tensors that shared memory still share it. bfloat16 is widened to float32, other dtypes stay.

    Raises:
      UserError: the file is missing, truncated, damaged, not a checkpoint, claims more numbers than it holds, or names
        a global other than those in `jaxad.weights.opcodes.ALLOWED`. Nothing from the file has been run.
    """
    return _at(path, lambda tree: tree)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint, at its top level or under `state_dict`, `net` or `model`.

    Raises:
      UserError: as `read_pth`, or no tensors are found under string names.
    """
    return _at(path, _unwrap)


def _at(path: str | Path, then: Callable[[Any], Any]) -> Any:
    try:
        return then(_read(path))
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read: {error.strerror or shown(str(error))}") from None
    except DAMAGE as error:
        raise UserError(
            f"{path}: the checkpoint is damaged or truncated ({shown(str(error))}); copy or download it again"
        ) from None


def _read(path: str | Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(512)
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not start:
            raise Refused("the file is empty; copy or download it again")
        if start.startswith(ZIP_MAGIC):
            return _read_zip(file, size)
        if start.startswith(LEGACY_START):
            return _read_legacy(file, size)
        if start[257:262] == b"ustar":
            raise Refused(f"a tar checkpoint of the first PyTorch versions is not read; {ADVICE}")
        raise Refused("not a PyTorch checkpoint: it starts with neither the zip signature nor that of the older form")


def _unwrap(tree: Any) -> dict[str, np.ndarray]:
    def tensors(value: Any) -> dict[str, np.ndarray]:
        items = value.items() if isinstance(value, dict) else ()
        return {k: v for k, v in items if isinstance(k, str) and isinstance(v, np.ndarray)}

    inner = tree
    while inner is not None:
        tree = inner
        inner = next((tree[w] for w in WRAPPERS if isinstance(tree, dict) and isinstance(tree.get(w), dict)), None)
    named = tensors(tree)
    if not named:
        keys = ", ".join(shown(str(k)) for k in list(tree)[:8]) if isinstance(tree, dict) else type(tree).__name__
        raise Refused(f"expected named tensors, at the top or under {' or '.join(WRAPPERS)}, found: {keys}")
    return named


def _read_zip(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        tops = [e.filename.split("/")[0] for e in entries if e.filename.endswith("/data.pkl")]
        if len(tops) != 1:
            raise Refused(f"expected one entry NAME/data.pkl in the zip archive, found {len(tops)}; {ADVICE}")
        by_name: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = entry.orig_filename
            parts = name.split("/")
            strange = {"", ".", ".."} & set(parts[:-1]) or parts[-1] in (".", "..") or "\\" in name
            if strange or name != entry.filename or parts[0] != tops[0] or len(parts) < 2:
                raise Refused(f"the zip entry {shown(name)!r} does not lie in the folder {shown(tops[0])!r}")
            stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
            if not stored or entry.flag_bits & 1:
                raise Refused(f"the zip entry {shown(name)!r} is compressed or encrypted; {ADVICE}")
            if entry.filename in by_name:
                raise Refused(f"the zip entry {shown(entry.filename)!r} appears twice")
            by_name[entry.filename] = entry
        if sum(e.file_size for e in entries) > size:
            raise Refused("the zip entries together are larger than the file")

        def content(name: str) -> bytes:
            if f"{tops[0]}/{name}" not in by_name:
                raise Refused(f"the zip entry {shown(f'{tops[0]}/{name}')!r} is missing")
            return archive.read(by_name[f"{tops[0]}/{name}"])

        if f"{tops[0]}/byteorder" in by_name and content("byteorder") != b"little":
            raise Refused(f"the numbers are stored big-endian; {ADVICE}, on a little-endian machine")
        storages: dict[str, Storage] = {}
        tree = interpret(io.BytesIO(content("data.pkl")), storages, legacy=False)
        arrays: dict[str, np.ndarray] = {}

        def array(storage: Storage) -> np.ndarray:
            if storage.key not in arrays:
                raw = content(f"data/{storage.key}")
                if len(raw) != storage.nbytes:
                    raise Refused(f"storage {storage.key} has {len(raw)} bytes, its tensors need {storage.nbytes}")
                arrays[storage.key] = _numbers(raw, 0, storage)
            return arrays[storage.key]

        return _materialise(tree, array, size)


def _read_legacy(file: IO[bytes], size: int) -> Any:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, protocol, system = (interpret(data, {}, legacy=True) for _ in range(3))
        if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
            raise Refused(f"the older checkpoint form has another magic number or protocol than {LEGACY_PROTOCOL}")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused(f"the numbers are not stored little-endian; {ADVICE}, on a little-endian machine")
        storages: dict[str, Storage] = {}
        tree = interpret(data, storages, legacy=True)
        keys = interpret(data, {}, legacy=True)
        if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
            raise Refused("the list of storage keys is missing")
        if len(keys) != len(set(keys)) or set(keys) != set(storages):
            raise Refused("the list of storage keys and the tensors do not agree")
        arrays: dict[str, np.ndarray] = {}
        position = data.tell()
        for storage in (storages[k] for k in keys):
            if position + 8 + storage.nbytes > size:
                raise Refused(f"the file ends inside storage {storage.key}; copy or download it again")
            (numel,) = struct.unpack_from("<q", data, position)
            if numel != storage.numel:
                raise Refused(f"storage {storage.key} has {numel} elements, its tensors need {storage.numel}")
            arrays[storage.key] = _numbers(data, position + 8, storage)
            position += 8 + storage.nbytes
        if position != size:
            raise Refused(f"{size - position} bytes follow the last storage; copy or download it again")
        return _materialise(tree, lambda storage: arrays[storage.key], size)


def _numbers(raw: bytes | mmap.mmap, start: int, storage: Storage) -> np.ndarray:
    """The storage as a flat array with memory of its own."""
    data = raw[start : start + storage.nbytes]
    if storage.dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    if storage.dtype == "bool":
        return np.frombuffer(data, np.uint8) != 0
    return np.frombuffer(data, storage.dtype)


def _view(view: View, numbers: np.ndarray, limit: int) -> np.ndarray:
    """The tensor as a read-only view of its storage's numbers, refused where it reaches past them."""
    if math.prod(max(n, 1) for n in view.size) * numbers.itemsize > 2 * limit:  # 2: bfloat16 is widened
        raise Refused(f"a tensor of storage {view.storage.key} is larger than the file")
    if 0 in view.size:
        return np.zeros(view.size, numbers.dtype)
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if last >= view.storage.numel:
        raise Refused(f"a tensor reads element {last} of storage {view.storage.key}, which has {view.storage.numel}")
    steps = [step * numbers.itemsize if n > 1 else 0 for n, step in zip(view.size, view.stride, strict=True)]
    return np.lib.stride_tricks.as_strided(numbers[view.offset :], view.size, steps, writeable=False)


def _materialise(tree: Any, array: Callable[[Storage], np.ndarray], limit: int) -> Any:
    """Copies the tree with arrays for views; shared parts stay shared, so a bomb of shared containers stays small."""
    done: dict[int, Any] = {}

    def convert(node: Any, depth: int) -> Any:
        if node is None or type(node) in (str, int, float, bool):
            return node
        if id(node) in done:
            if done[id(node)] is convert:
                raise Refused("a container holds itself")
            return done[id(node)]
        if depth > MAX_DEPTH:
            raise Refused(f"containers are nested more than {MAX_DEPTH} deep")
        done[id(node)] = convert  # marks a node in progress
        if isinstance(node, View):
            result = _view(node, array(node.storage), limit)
        elif type(node) is dict:
            result = {key: convert(value, depth + 1) for key, value in node.items()}
        elif type(node) in (list, tuple):
            result = type(node)([convert(value, depth + 1) for value in node])
        else:
            raise Refused(f"a bare {type(node).__name__} stands where a value is expected")
        done[id(node)] = result
        return result

    return convert(tree, 0)
