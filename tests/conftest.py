"""What holds for the whole test run."""

import ctypes
import gc
import sys

import jax
import pytest

from jaxad import sharding


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """Programs that the command line would find compiled are found compiled here too."""
    sharding.use_compilation_cache()


@pytest.fixture(scope="module", autouse=True)
def freed_memory():
    """Lets go of compiled programs and of the arrays in them when a file is done: no process grows without bound."""
    yield
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # the allocator keeps freed pages otherwise
