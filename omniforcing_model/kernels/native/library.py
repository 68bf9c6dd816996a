"""The compiled library: how it is made and loaded.

It takes a C++ compiler, a few seconds and none of PyTorch's headers. OpenMP's threads are those
that PyTorch has loaded, so that both share them.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from omniforcing_model.errors import KernelError

SOURCE = Path(__file__).with_name("fused.cpp")
COMPILERS = ("c++", "g++", "clang++")
# No -ffast-math: it would switch denormal numbers off in every thread that loads the library.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", "-ffp-contract=fast"),
)
TIMEOUT_S = 1800  # at the lowest priority on a busy machine
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_P, _N = ctypes.c_void_p, ctypes.c_int64
# Of the functions at the end of fused.cpp, without their types' names.
_ARGUMENTS = {
    "head_norm": (_P, _N, _N, _P, _P, _P, _N, _N, _P, _N, _N, _N, _N, _N, _N, _N, _N),
    "add_norm": (_P, _P, _P, _N, _N, _P, _P, _N, _N, _N, _N, _N),
    "attend": (_P, _P, _N, _N, _N, _N, _N, _N),
}


def compiler() -> str | None:
    """The C++ compiler there is: CXX, or one on PATH."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named] if named else COMPILERS)), None)


def source_digest() -> str:
    """Of the source and how it is compiled: another one is another library."""
    return hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()


def compile_library(path: Path) -> None:
    """Compile the library for this processor into the file `path`.

    KernelError without a compiler, or if it fails.
    """
    program = compiler()
    if program is None:
        raise KernelError(
            f"expected a C++ compiler, one of {', '.join(COMPILERS)}, got none on PATH; install"
            " one, or go on without: everything works, more slowly"
        )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    command = [program, *FLAGS, str(SOURCE), "-o", str(unfinished)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(program, str(error)) from error
    if done.returncode:
        raise _failed(program, done.stderr)
    unfinished.replace(path)


def _failed(program: str, said: str) -> KernelError:
    first = next((line for line in said.splitlines() if "error" in line), said[:200])
    return KernelError(
        f"expected {program} to compile the kernels, got: {first}; set CXX to another compiler, or"
        " go on without: everything works, more slowly"
    )


class Library:
    """The functions of a compiled library, by name and dtype."""

    def __init__(self, path: Path) -> None:
        """Load the file `path`; KernelError if it is none of ours."""
        try:
            loaded = ctypes.CDLL(str(path))
            functions = {
                (name, dtype): getattr(loaded, f"{name}_{DTYPES[dtype]}")
                for name in _ARGUMENTS
                for dtype in DTYPES
            }
        except (OSError, AttributeError) as error:
            raise KernelError(
                f"expected a compiled library, got: {error}; remove {path}, it is made anew"
            ) from error
        for (name, _), function in functions.items():
            function.argtypes, function.restype = _ARGUMENTS[name], None
        self.head_norm = _by_dtype(functions, "head_norm")
        self.add_norm = _by_dtype(functions, "add_norm")
        self.attend = _by_dtype(functions, "attend")


Function = Callable[..., None]


def _by_dtype(
    functions: dict[tuple[str, torch.dtype], Function], name: str
) -> dict[torch.dtype, Function]:
    return {dtype: functions[name, dtype] for dtype in DTYPES}
