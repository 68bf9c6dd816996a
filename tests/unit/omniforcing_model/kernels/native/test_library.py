"""A library that cannot be made or loaded says so, and what to do."""

from pathlib import Path

import pytest

from omniforcing_model.errors import KernelError
from omniforcing_model.kernels.native import library
from omniforcing_model.kernels.native.library import Library, compile_library, source_digest


def test_without_a_compiler_it_is_said_that_everything_works(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert library.compiler() is None
    with pytest.raises(KernelError, match=r"C\+\+ compiler.*got none.*everything works"):
        compile_library(tmp_path / "library.so")


def test_a_compiler_that_fails_is_quoted_and_leaves_no_file(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such flag' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(KernelError, match="error: no such flag; set CXX"):
        compile_library(tmp_path / "library.so")
    assert list(tmp_path.iterdir()) == [broken]


def test_a_named_compiler_is_taken_before_those_on_path(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("CXX", str(mine))
    assert library.compiler() == str(mine)


def test_a_file_that_is_no_library_is_refused(tmp_path):
    path = tmp_path / "library.so"
    path.write_bytes(b"not ELF")
    with pytest.raises(KernelError, match=r"remove .*library\.so"):
        Library(path)


def test_the_digest_follows_the_source_and_the_flags(monkeypatch, tmp_path):
    before = source_digest()
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-g"))
    with_flag = source_digest()
    other = Path(tmp_path / "fused.cpp")
    other.write_text("// nothing")
    monkeypatch.setattr(library, "SOURCE", other)
    assert len({before, with_flag, source_digest()}) == 3
