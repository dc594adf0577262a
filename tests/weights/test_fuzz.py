"""Whatever bytes a weight file holds, the reader returns arrays or raises a UserError, and imports no module."""

import contextlib
import io
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from jaxad.errors import UserError
from jaxad.weights import read
from jaxad.weights.pth import LEGACY_START, read_pth
from tests.golden.load import folder
from tests.weights.checkpoints import legacy_form, name, number, state, storage, tensor, text, zip_form

BOUNDED = settings(
    max_examples=250,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def arrays_as(suffix: str) -> bytes:
    arrays = {"w": np.arange(6, dtype=np.float32), "n": np.array(3)}
    if suffix == "safetensors":
        return save(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


CHECKPOINTS = [path.read_bytes() for path in sorted(folder().rglob("*.pth"))]
SEEDS = [("pth", data) for data in CHECKPOINTS if len(data) < 10_000] + [
    (suffix, arrays_as(suffix)) for suffix in ("safetensors", "npz")
]
FRAGMENTS = [
    name("os", "system") + text("id") + b"\x85R",
    name("torch._utils", "_rebuild_parameter"),
    name("collections", "OrderedDict") + b")R",
    tensor(storage()),
    tensor(storage(legacy=True)),
    storage("1", numel=2**40),
    number(-1),
    number(2**70),
    *(bytes([code]) for code in b"().0125QRabcdehioqrstu}]\x81\x82\x85\x86\x87\x88\x92\x93\x94\x95"),
]


def gives_arrays_or_a_user_error(reader, path):
    before = set(sys.modules)
    try:
        reader(path)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    new = {module for module in set(sys.modules) - before if not module.startswith("encodings.")}
    assert not new


@st.composite
def damaged(draw, data: bytes, fragments=()):
    """`data` with some bytes changed and some fragments spliced in, perhaps cut short."""
    mutable = bytearray(data)
    for _ in range(draw(st.integers(0, 8))):
        mutable[draw(st.integers(0, len(mutable) - 1))] = draw(st.integers(0, 255))
    for _ in range(draw(st.integers(0, 3)) if fragments else 0):
        at = draw(st.integers(0, len(mutable)))
        mutable[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(fragments))
    return bytes(mutable[: draw(st.one_of(st.just(len(mutable)), st.integers(0, len(mutable))))])


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """Imports the modules that the readers themselves need."""
    for suffix, data in SEEDS:
        path = tmp_path_factory.mktemp("warm") / f"w.{suffix}"
        path.write_bytes(data)
        with contextlib.suppress(UserError):
            read(path)


@BOUNDED
@given(data=st.data())
def test_damaged_files(data, tmp_path):
    suffix, whole = data.draw(st.sampled_from(SEEDS))
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(data.draw(damaged(whole)))
    gives_arrays_or_a_user_error(read, path)


@BOUNDED
@given(data=st.data(), form=st.sampled_from([zip_form, legacy_form]))
def test_damaged_programs_in_whole_files(data, form, tmp_path):
    legacy = form is legacy_form
    programs = [state(w=tensor(storage(legacy=legacy)), n=number(3), x=b"](" + text("a") + b"Ne")]
    for checkpoint in CHECKPOINTS:
        if not legacy and not checkpoint.startswith(LEGACY_START):
            with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
                programs += [archive.read(e) for e in archive.namelist() if e.endswith("/data.pkl")]
    program = data.draw(damaged(data.draw(st.sampled_from(programs)), FRAGMENTS))
    gives_arrays_or_a_user_error(read_pth, form(tmp_path / "w.pth", program))


@BOUNDED
@given(pieces=st.lists(st.sampled_from(FRAGMENTS), max_size=12))
def test_programs_of_random_opcodes(pieces, tmp_path):
    program = b"\x80\x02" + b"".join(pieces) + b"."
    gives_arrays_or_a_user_error(read_pth, zip_form(tmp_path / "w.pth", program))
