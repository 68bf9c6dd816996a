"""The compiled library of this checkout, made once per process."""

import tempfile
from functools import cache
from pathlib import Path

import pytest

from omniforcing_model.kernels.choice import KernelChoice, MachineKernels
from omniforcing_model.kernels.native import library

NATIVE = KernelChoice("native", "packed", "native")


@cache
def compiled(march: str = "native") -> Path:
    """The library for that processor; the test is skipped without a compiler."""
    if library.compiler() is None:
        pytest.skip("no C++ compiler on PATH")
    folder = tempfile.mkdtemp(prefix="omniforcing-native-")
    path = Path(folder) / "library.so"
    with pytest.MonkeyPatch.context() as patch:
        flags = [flag.replace("native", march) for flag in library.FLAGS]
        patch.setattr(library, "FLAGS", flags)
        library.compile_library(path)
    return path


def native_kernels() -> MachineKernels:
    """Everything by the compiled library that it can do."""
    return MachineKernels(NATIVE, NATIVE, compiled())
