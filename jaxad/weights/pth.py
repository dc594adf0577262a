"""Reads PyTorch checkpoints without PyTorch, and admits tensors and plain values only.

A .pth file is a pickle, and a pickle is a program: `torch.save` writes one that names the functions to call. Here the
opcodes are interpreted one by one, and only those that `torch.save` needs for tensors, containers and scalars exist; a
global is a name that is compared with a list, never looked up, so nothing is imported and nothing is called. The
standard unpickler is not used even in restricted form: it sizes its memo table by numbers in the file and calls methods
of the objects it builds.

Both forms are read: the zip archive (PyTorch 1.6 and later) and the older one, five pickles in a row with the raw
numbers after them. The tar form of 2016 is refused.
"""

import io
import math
import mmap
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxad.errors import UserError

DTYPES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "bool",
}
ORDERED_DICT, SIZE = "collections.OrderedDict", "torch.Size"
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ALLOWED = {ORDERED_DICT, SIZE, TENSOR, PARAMETER, *DTYPES}

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC, LEGACY_START, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46", 1001

MAX_OPCODES = 2_000_000  # about 25 times what the largest network here needs, optimizer state included
MAX_DEPTH = 100
MAX_AXES = 64  # NumPy's own limit

ADVICE = "save the tensors alone, torch.save(model.state_dict(), PATH), or as .safetensors"
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


class Refused(ValueError):
    """What is wrong with a file, without its path."""


@dataclass(frozen=True)
class Global:
    """A name in the pickle: an inert tag."""

    name: str


@dataclass(frozen=True)
class Storage:
    """One run of raw numbers in the file."""

    key: str
    dtype: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * (2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class View:
    """A tensor as the pickle describes it; offset and stride in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pth(path: str | Path) -> Any:
    """What `torch.save` wrote, as dicts, lists, tuples and scalars, with a NumPy array where a tensor was.

    Arrays are read-only; tensors that shared memory still share it. bfloat16 is widened to float32, other dtypes stay.

    Raises:
      UserError: the file is missing, truncated, damaged, not a checkpoint, claims more numbers than it holds, or names
        a global other than those in `ALLOWED`. Nothing from the file has been run.
    """
    return _at(path, lambda tree: tree)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint, also where it keeps them under `state_dict`, `net` or `model`.

    Raises:
      UserError: as `read_pth`, and where no tensors are found under string names.
    """
    return _at(path, _unwrap)


def _at(path: str | Path, then: Callable[[Any], Any]) -> Any:
    try:
        return then(_read(path))
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read: {error.strerror or _shown(str(error))}") from None
    except DAMAGE as error:
        raise UserError(
            f"{path}: the checkpoint is damaged or truncated ({_shown(str(error))}); copy or download it again"
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
    found = tensors(tree)
    if not found:
        keys = ", ".join(_shown(str(k)) for k in list(tree)[:8]) if isinstance(tree, dict) else type(tree).__name__
        raise Refused(f"expected named tensors, at the top or under {' or '.join(WRAPPERS)}, found: {keys}")
    return found


def _shown(text: str, limit: int = 120) -> str:
    """Text from the file, made fit for one line of a terminal."""
    text = text[:limit].encode("unicode_escape").decode("ascii")
    return text if len(text) <= limit else text[:limit] + "..."


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
                raise Refused(f"the zip entry {_shown(name)!r} does not lie in the folder {_shown(tops[0])!r}")
            stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
            if not stored or entry.flag_bits & 1:
                raise Refused(f"the zip entry {_shown(name)!r} is compressed or encrypted; {ADVICE}")
            if entry.filename in by_name:
                raise Refused(f"the zip entry {_shown(entry.filename)!r} appears twice")
            by_name[entry.filename] = entry
        if sum(e.file_size for e in entries) > size:
            raise Refused("the zip entries together are larger than the file")

        def content(name: str) -> bytes:
            if f"{tops[0]}/{name}" not in by_name:
                raise Refused(f"the zip entry {_shown(f'{tops[0]}/{name}')!r} is missing")
            return archive.read(by_name[f"{tops[0]}/{name}"])

        if f"{tops[0]}/byteorder" in by_name and content("byteorder") != b"little":
            raise Refused(f"the numbers are stored big-endian; {ADVICE}, on a little-endian machine")
        storages: dict[str, Storage] = {}
        tree = _interpret(io.BytesIO(content("data.pkl")), storages, legacy=False)
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
        magic, protocol, system = (_interpret(data, {}, legacy=True) for _ in range(3))
        if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
            raise Refused(f"the older checkpoint form has another magic number or protocol than {LEGACY_PROTOCOL}")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused(f"the numbers are not stored little-endian; {ADVICE}, on a little-endian machine")
        storages: dict[str, Storage] = {}
        tree = _interpret(data, storages, legacy=True)
        keys = _interpret(data, {}, legacy=True)
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


def _interpret(stream: Any, storages: dict[str, Storage], *, legacy: bool) -> Any:
    """Runs one pickle from the stream's position to its STOP; `storages` receives every storage that it names."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= MAX_OPCODES:
            raise Refused(f"the pickle has more than {MAX_OPCODES} opcodes; {ADVICE}")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (result,) = stack
                return result
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING" | "BINSTRING":
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                if len(stack) < n:
                    raise IndexError("pop from an empty stack")
                stack[-n:] = [tuple(stack[-n:])]
            case "APPEND":
                value = stack.pop()
                _expect(stack[-1], list).append(value)
            case "APPENDS":
                items = since_mark()
                _expect(stack[-1], list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = since_mark()
                _set_items(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" | "INST":
                module, _, name = argument.rpartition(" ")
                stack.append(_global(module, name))
                if opcode.name == "INST":
                    raise Refused(f"the pickle makes an object of {_shown(argument)} (opcode INST); {ADVICE}")
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_global(_expect(module, str), _expect(name, str)))
            case "BINPERSID":
                storage = _storage(stack.pop(), legacy)
                if storages.setdefault(storage.key, storage) != storage:
                    raise Refused(f"storage {storage.key} is described in two ways")
                stack.append(storage)
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_rebuild(_expect(stack.pop(), Global), _expect(arguments, tuple)))
            case "BUILD":
                stack.pop()  # the attribute _metadata of a state dict: dropped, never set
                _expect(stack[-1], dict)
            case other:
                raise Refused(f"the pickle holds the opcode {other}, which plain tensors do not need; {ADVICE}")
    raise Refused("the pickle has no end")


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Refused(f"malformed pickle: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _set_items(target: Any, items: list[Any]) -> None:
    _expect(target, dict)
    if len(items) % 2:
        raise Refused("malformed pickle: a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # hashing nested tuples or crafted huge integers can take exponential or quadratic time
        if not (type(key) in (str, bool, float, type(None)) or (type(key) is int and abs(key) < 2**63)):
            raise Refused(f"a dict key is a {type(key).__name__}, expected a string or a number; {ADVICE}")
        target[key] = value


def _global(module: str, name: str) -> Global:
    full = f"{module}.{name}"
    # the dots within a name would make the two spellings of one joined string ambiguous
    if full in ALLOWED and "." not in name:
        return Global(full)
    hint = "load net.pth instead of the training state ckpt.pth, or " if module.startswith("numpy") else ""
    raise Refused(
        f"the pickle names {_shown(full)}, which is neither a tensor nor a plain value; nothing was run; {hint}{ADVICE}"
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise Refused("malformed tensor: sizes, strides and offsets must be integers from 0 up")
    return value


def _storage(identity: Any, legacy: bool) -> Storage:
    if type(identity) is not tuple or len(identity) != (6 if legacy else 5) or identity[0] != "storage":
        raise Refused("a persistent id is not a storage")
    _, kind, key, location, numel = identity[:5]
    if legacy and identity[5] is not None:
        raise Refused(f"a storage is a view of another storage, as only PyTorch before 0.4 wrote; {ADVICE}")
    if _expect(kind, Global).name not in DTYPES:
        raise Refused(f"{kind.name} is no storage type")
    _expect(location, str)
    if not (_expect(key, str).isascii() and key.isdigit() and len(key) <= 20):
        raise Refused(f"the storage key {_shown(key)!r} is no number")
    return Storage(key, DTYPES[kind.name], _count(numel))


def _rebuild(function: Global, arguments: tuple[Any, ...]) -> Any:
    """Stands for the call of an allowed global; calls nothing."""
    match function.name, arguments:
        case "collections.OrderedDict", ():
            return {}
        case "collections.OrderedDict", (list() as pairs,):  # as Python 2 wrote it
            result: dict[Any, Any] = {}
            for pair in pairs:
                _set_items(result, list(pair) if type(pair) in (list, tuple) and len(pair) == 2 else [pair])
            pairs.clear()  # one list can fill one dict: copies of it would grow with the square of the file
            return result
        case "torch.Size", (tuple() as size,) if len(size) <= MAX_AXES:
            return tuple(_count(n) for n in size)
        case "torch._utils._rebuild_parameter", (View() as view, _, _):
            return view
        case "torch._utils._rebuild_tensor_v2", (Storage() as base, offset, tuple() as size, tuple() as stride, *rest):
            # rest: requires_grad, hooks, and in newer files metadata, which plain tensors do not have
            axes_agree = len(size) == len(stride) <= MAX_AXES
            if len(rest) not in (2, 3) or rest[2:] not in ([], [None]) or not axes_agree:
                raise Refused("malformed tensor")
            return View(base, _count(offset), tuple(map(_count, size)), tuple(map(_count, stride)))
    raise Refused(f"malformed pickle: {function.name} with {len(arguments)} unexpected arguments")


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
