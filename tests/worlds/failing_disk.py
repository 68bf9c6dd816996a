"""A disk that fails when told to: for processes that start with `FailingDisk.environment`.

Between a program and the operating system stands a small library (failing_disk.c), so that PyArrow,
PyAV and Ray's daemons meet what a full disk or a bad sector gives; without root, on any machine
that has a C compiler.
"""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
RULES_BYTES = 4096
RULES_VARIABLE = "FAILING_DISK"


class FailingDisk:
    """Rules for the processes with this environment: they hold from when they are given."""

    def __init__(self, folder):
        """Compile the library into `folder`; skips the test where there is no compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("no C compiler for a disk that fails")
        library = folder / "failing_disk.so"
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
        subprocess.run(command, check=True)
        rules = folder / "rules"
        rules.write_bytes(bytes(RULES_BYTES))
        self.environment = {"LD_PRELOAD": str(library), RULES_VARIABLE: str(rules)}


def break_disk(operation, error, place):
    """From now on `operation` (open, read, write) of files whose path holds `place` fails with
    `error` ("ENOSPC"), in all processes of this environment."""
    _write_rules(f"{operation} {getattr(errno, error)} {place}\n")


def heal_disk():
    """No operation fails any more."""
    _write_rules("")


def _write_rules(text):
    content = text.encode().ljust(RULES_BYTES, b"\0")
    with Path(os.environ[RULES_VARIABLE]).open("r+b") as file:
        file.write(content)
