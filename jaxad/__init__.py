"""jaxad: visual industrial anomaly detection in JAX.

config = jaxad.load_config("configs/patchcore.py:folder", {"dataset.path": "photographs"})
results = jaxad.run(config, "runs/mine")
for found in jaxad.predict(config, "runs/mine", "new_photographs"):
    print(found.path, found.score, found.decision, found.map.shape)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["UserError", "load_config", "predict", "run"]

if TYPE_CHECKING:
    from jaxad.config import load_config
    from jaxad.errors import UserError
    from jaxad.experiment import run
    from jaxad.inference import predict

_HOMES = {"UserError": "errors", "load_config": "config", "predict": "inference", "run": "experiment"}


def __getattr__(name: str) -> Any:
    """Imports JAX and the rest when they are asked for, so that `--help` and error messages are quick."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'jaxad' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxad.{_HOMES[name]}"), name)
