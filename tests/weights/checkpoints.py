"""Writes PyTorch checkpoints byte by byte, good and hostile, without PyTorch."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

PROTO, STOP = b"\x80\x02", b"."


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The opcodes that push an integer."""
    return pickle.dumps(value, 2)[2:-1]


def numbers(*values: int) -> bytes:
    """The opcodes that push a tuple of integers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def storage(key: str = "0", kind: str = "FloatStorage", numel: int = 6, *, legacy: bool = False) -> bytes:
    view = b"N" if legacy else b""
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel) + view + b"tQ"


def tensor(base: bytes, size=(6,), stride=(1,), offset: int = 0) -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = base + number(offset) + numbers(*size) + numbers(*stride) + b"\x89" + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def state(**entries: bytes) -> bytes:
    """The pickle of a dict whose values are given as opcodes."""
    return PROTO + b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u" + STOP


def zip_form(
    path: Path, program: bytes, storages: Mapping[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> Path:
    """The form of PyTorch 1.6 and later."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for key, data in ({"0": bytes(24)} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def legacy_form(path: Path, program: bytes, storages: Mapping[str, tuple[int, bytes]] | None = None) -> Path:
    """The older form; `storages` maps a key to the number of elements and their bytes."""
    held = {"0": (6, bytes(24))} if storages is None else storages
    file = io.BytesIO()
    for header in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(header, file, protocol=2)
    file.write(program)
    pickle.dump(list(held), file, protocol=2)
    for numel, data in held.values():
        file.write(struct.pack("<q", numel) + data)
    path.write_bytes(file.getvalue())
    return path
