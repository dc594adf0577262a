"""The opcodes of a pickle, interpreted one by one: tensors and plain values come out, and nothing is run.

A pickle is a program, and `torch.save` writes one that names the functions to call. Only the opcodes that it needs for
tensors, containers and scalars exist here; a global is a name that is compared with a list, never looked up, so nothing
is imported and nothing is called. The standard unpickler is not used even in restricted form: it sizes its memo table
by numbers in the file and calls methods of the objects it builds.
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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

MAX_OPCODES = 2_000_000  # about 25 times what the largest network here needs, optimizer state included
MAX_AXES = 64  # NumPy's own limit

ADVICE = "save the tensors alone, torch.save(model.state_dict(), PATH), or as .safetensors"


class Refused(ValueError):
    """What is wrong with a file; the message does not name it."""


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


@dataclass
class _Machine:
    """The state of a pickle in the middle of its program."""

    storages: dict[str, Storage]
    legacy: bool
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        """The values above the last mark, taken off the stack."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items


def interpret(stream: Any, storages: dict[str, Storage], *, legacy: bool) -> Any:
    """The value of one pickle, read from the stream's position to its STOP; tensors are `View`s.

    Args:
      stream: an open binary file.
      storages: receives every storage that the pickle names, by key.
      legacy: whether storages are described as in the form before PyTorch 1.6.

    Raises:
      Refused: an opcode, a global or a description that plain tensors do not need; a damaged pickle may raise any error
        of the standard library, too.
    """
    machine = _Machine(storages, legacy)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= MAX_OPCODES:
            raise Refused(f"the pickle has more than {MAX_OPCODES} opcodes; {ADVICE}")
        name = opcode.name
        if name == "STOP":
            (result,) = machine.stack
            return result
        known = (
            _scalar(machine, name, argument)
            or _container(machine, name)
            or _memo(machine, name, argument)
            or _object(machine, name, argument)
        )
        if not known:
            raise Refused(f"the pickle holds the opcode {name}, which plain tensors do not need; {ADVICE}")
    raise Refused("the pickle has no end")


def _scalar(machine: _Machine, opcode: str, argument: Any) -> bool:
    """Opcodes of framing and of scalars. Like the functions below, it returns whether the opcode is one of its own."""
    match opcode:
        case "PROTO" | "FRAME":
            pass
        case "NONE":
            machine.stack.append(None)
        case "NEWTRUE":
            machine.stack.append(True)
        case "NEWFALSE":
            machine.stack.append(False)
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
            machine.stack.append(argument)
        case "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING" | "BINSTRING":
            machine.stack.append(argument)
        case _:
            return False
    return True


def _container(machine: _Machine, opcode: str) -> bool:
    """Opcodes that make or fill dicts, lists and tuples."""
    stack = machine.stack
    match opcode:
        case "MARK":
            machine.marks.append(len(stack))
        case "EMPTY_DICT":
            stack.append({})
        case "EMPTY_LIST":
            stack.append([])
        case "EMPTY_TUPLE":
            stack.append(())
        case "TUPLE":
            stack.append(tuple(machine.since_mark()))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            n = int(opcode[-1])
            if len(stack) < n:
                raise IndexError("pop from an empty stack")
            stack[-n:] = [tuple(stack[-n:])]
        case "APPEND":
            value = stack.pop()
            _expect(stack[-1], list).append(value)
        case "APPENDS":
            items = machine.since_mark()
            _expect(stack[-1], list).extend(items)
        case "SETITEM":
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        case "SETITEMS":
            items = machine.since_mark()
            _set_items(stack[-1], items)
        case _:
            return False
    return True


def _memo(machine: _Machine, opcode: str, argument: Any) -> bool:
    """Opcodes that keep a value under a number, and fetch it."""
    stack, memo = machine.stack, machine.memo
    match opcode:
        case "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case _:
            return False
    return True


def _object(machine: _Machine, opcode: str, argument: Any) -> bool:
    """Opcodes that name globals and storages, or would call and change objects."""
    stack = machine.stack
    match opcode:
        case "GLOBAL" | "INST":
            module, _, name = argument.rpartition(" ")
            stack.append(_global(module, name))
            if opcode == "INST":
                raise Refused(f"the pickle makes an object of {shown(argument)} (opcode INST); {ADVICE}")
        case "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_global(_expect(module, str), _expect(name, str)))
        case "BINPERSID":
            storage = _storage(stack.pop(), machine.legacy)
            if machine.storages.setdefault(storage.key, storage) != storage:
                raise Refused(f"storage {storage.key} is described in two ways")
            stack.append(storage)
        case "REDUCE":
            arguments = stack.pop()
            stack.append(_rebuild(_expect(stack.pop(), Global), _expect(arguments, tuple)))
        case "BUILD":
            stack.pop()  # the attribute _metadata of a state dict: dropped, never set
            _expect(stack[-1], dict)
        case _:
            return False
    return True


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
    # a name with dots could belong to another module than the joined string suggests
    if full in ALLOWED and "." not in name:
        return Global(full)
    hint = "load net.pth instead of the training state ckpt.pth, or " if module.startswith("numpy") else ""
    raise Refused(
        f"the pickle names {shown(full)}, which is neither a tensor nor a plain value; nothing was run; {hint}{ADVICE}"
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
        raise Refused(f"the storage key {shown(key)!r} is no number")
    return Storage(key, DTYPES[kind.name], _count(numel))


def _rebuild(function: Global, arguments: tuple[Any, ...]) -> Any:
    """What the call of an allowed global would return; nothing is called."""
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


def shown(text: str, limit: int = 120) -> str:
    """Text from the file, shortened and escaped for one line of a terminal."""
    text = text[:limit].encode("unicode_escape").decode("ascii")
    return text if len(text) <= limit else text[:limit] + "..."
