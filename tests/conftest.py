"""What holds for the whole test run."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import jax
import pytest

from jaxad import sharding


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """Programs that the command line would find compiled are found compiled here too."""
    sharding.use_compilation_cache()


@pytest.fixture(autouse=True)
def bounded_memory():
    """Lets go of compiled programs, and of the arrays in them, after a test that leaves much behind."""
    yield
    if resident_gib() > 1.5:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # the allocator keeps freed pages otherwise


def resident_gib() -> float:
    """Memory that this process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    except OSError:
        return 0.0
