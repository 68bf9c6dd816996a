"""What is the machine's fault is told from what is a file's, and says what to do."""

import errno
import os
import pickle
import sqlite3
import tempfile

import av
import pytest
import torch

from infra.errors import (
    ClusterError,
    ConfigError,
    DatasetError,
    MachineError,
    MediaError,
    RewriterError,
    ServerError,
    StoreError,
)
from infra.machine_faults import machine_fault, machine_faults

AGAIN = "then run the same command again: what is done stays done"


def os_error(number, path="/data/a"):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "expected", "do"),
    [
        ("ENOSPC", "room to write at /data/a", "free space there"),
        ("EDQUOT", "room to write at /data/a", "raise the quota"),
        ("EFBIG", "room to write at /data/a", "free space there"),
        ("EMFILE", "one more file to open at /data/a (ulimit -n is ", "raise the limit"),
        ("ENFILE", "one more file to open at /data/a", "raise the limit"),
        ("ENOMEM", "enough memory and processes at /data/a", "lower the claims under cluster.*"),
        ("EIO", "a disk or a mount that works at /data/a", "look after it"),
        ("EROFS", "a disk or a mount that works at /data/a", "look after it"),
        ("ESTALE", "a disk or a mount that works at /data/a", "look after it"),
        ("ENOTCONN", "a disk or a mount that works at /data/a", "look after it"),
        ("EUCLEAN", "a disk or a mount that works at /data/a", "look after it"),
        ("EKEYEXPIRED", "a disk or a mount that works at /data/a", "look after it"),
    ],
)
def test_a_number_of_the_system_is_one_line_with_what_to_do(number, expected, do):
    error = os_error(getattr(errno, number))
    fault = machine_fault(error)
    assert str(fault).startswith(f"expected {expected}")
    assert f", got: {error}; " in str(fault)
    assert do in str(fault)
    assert str(fault).endswith(AGAIN)


FILES_OWN = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ENXIO,
    errno.EAGAIN,  # of locks, too
)


@pytest.mark.parametrize("number", FILES_OWN)
def test_what_a_file_is_to_blame_for_is_not_the_machine_s(number):
    assert machine_fault(os_error(number)) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("can't start new thread"),
        Exception("Cannot allocate memory (os error 12)"),
    ],
)
def test_memory_that_runs_out_is_the_machine_s_fault_whoever_says_so(error):
    line = str(machine_fault(error))
    assert line.startswith("expected enough memory and processes, got: ")
    assert "\n" not in line


def test_an_error_without_a_number_is_none_of_the_machine_s():
    for error in (ValueError("x"), RuntimeError("x"), OSError("x"), TimeoutError(), KeyError("x")):
        assert machine_fault(error) is None
    assert machine_fault(None) is None
    assert machine_fault(Exception("denied (os error 13)")) is None


def test_ffmpeg_s_words_for_a_bad_file_are_no_fault_of_the_disk():
    assert machine_fault(av.error.OSError(errno.EIO, "Input/output error")) is None
    assert machine_fault(av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")) is None
    assert machine_fault(av.error.OSError(errno.EMFILE, "Too many open files")) is not None


def full_database():
    database = sqlite3.connect(":memory:")
    database.execute("pragma max_page_count = 2")
    try:
        database.execute("create table a as select randomblob(9000)")
    except sqlite3.Error as error:
        return error
    finally:
        database.close()


def test_a_database_without_room_is_the_machine_s_fault_and_a_wrong_query_is_not():
    assert "room to write, got: database or disk is full" in str(machine_fault(full_database()))
    with pytest.raises(sqlite3.OperationalError) as wrong:
        sqlite3.connect(":memory:").execute("select * from nothing")
    assert machine_fault(wrong.value) is None


def test_no_folder_for_temporary_files_is_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(MachineError, match=r"room to write.*No usable temporary directory"):  # noqa: SIM117
        with machine_faults():
            tempfile.mkdtemp()


def caused(outer, cause):
    outer.__cause__ = cause
    return outer


def test_the_cause_of_another_error_counts_and_a_mere_context_does_not():
    full = os_error(errno.ENOSPC)
    for outer in (MediaError("x"), DatasetError("x"), ConfigError("x"), ValueError("x")):
        assert "No space left" in str(machine_fault(caused(outer, full)))
    handled = ValueError("x")
    handled.__context__ = full
    assert machine_fault(handled) is None


def test_an_error_of_ours_tells_which_file_it_was_where_the_system_does_not():
    outer = caused(ConfigError("expected weights at /w, got nothing"), OSError(errno.EIO, "bad"))
    assert str(machine_fault(outer)).startswith(
        "expected a disk or a mount that works, got: expected weights at /w, got nothing; look"
    )


@pytest.mark.parametrize("kind", [StoreError, RewriterError, ServerError, ClusterError])
def test_what_is_a_peer_s_fault_stays_so(kind):
    assert machine_fault(caused(kind("x"), os_error(errno.ETIMEDOUT))) is None


def test_a_fault_stays_what_it_is_and_other_errors_pass():
    ours = MachineError("expected room, got none; free some")
    assert machine_fault(ours) is ours
    for error in (ours, KeyError("x"), os_error(errno.ENOENT)):
        with pytest.raises(type(error)) as raised, machine_faults("/data"):
            raise error
        assert raised.value is error
        assert raised.value.__cause__ is None


def test_what_is_wrong_comes_before_a_long_name():
    fault = machine_fault(OSError(errno.EMFILE, f"Failed to open {'a' * 400}: Too many open files"))
    assert ", got: Too many open files: [Errno 24] Failed to open aaa" in str(fault)
    assert len(str(fault)) < 600


def test_the_place_is_named_where_the_error_does_not_name_it():
    with pytest.raises(MachineError, match=r"works at /data/b, got: \[Errno 5\]") as raised:  # noqa: SIM117
        with machine_faults("/data/b"):
            raise OSError(errno.EIO, "Input/output error")
    assert isinstance(raised.value.__cause__, OSError)
    assert type(pickle.loads(pickle.dumps(raised.value))) is MachineError
