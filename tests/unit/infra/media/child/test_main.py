"""What the child says of an error: whose fault it is, by the numbers that are used everywhere."""

import errno
import os

import pytest
from av.error import FFmpegError, err_check

from infra.fault_numbers import OF_THE_MACHINE
from infra.machine_faults import machine_fault
from infra.media.child import main
from infra.media.child.damage import Damage


def end_of(path, error):
    """The last record of a job that ends with an error."""

    def job(*_):
        raise error

    return main.ending({"path": str(path)}, job, Damage([]))


def of_ffmpeg(number):
    """What PyAV raises when FFmpeg returns a number."""
    with pytest.raises(FFmpegError) as raised:
        err_check(-number)
    return raised.value


@pytest.mark.parametrize("number", sorted(OF_THE_MACHINE - {errno.ENOMEM}))
def test_what_the_machine_lacks_keeps_its_number_and_is_a_fault_outside(tmp_path, number):
    end = end_of(tmp_path, OSError(number, "x"))
    assert end == {"errno": number, "message": os.strerror(number)}
    assert machine_fault(OSError(end["errno"], end["message"])) is not None


@pytest.mark.parametrize("number", [errno.ENXIO, errno.EAGAIN, errno.ENOENT, errno.EACCES])
def test_what_a_file_is_to_blame_for_is_the_clips_inside_as_outside(tmp_path, number):
    end = end_of(tmp_path / "a.mp4", OSError(number, os.strerror(number)))
    assert end["wrong"].startswith("expected a readable clip, got '")
    assert machine_fault(OSError(number, os.strerror(number))) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EAGAIN, errno.EPIPE])
def test_ffmpeg_s_words_for_bad_data_are_the_clips_where_its_file_can_be_read(tmp_path, number):
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    assert "wrong" in end_of(tmp_path / "a.mp4", of_ffmpeg(number))


def test_files_that_run_out_are_the_machine_s_fault_whoever_says_so(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    assert end_of(tmp_path / "a.mp4", of_ffmpeg(errno.EMFILE))["errno"] == errno.EMFILE


def test_memory_beyond_a_clips_share_is_the_clips_where_the_machine_has_some(tmp_path):
    for error in (MemoryError(), of_ffmpeg(errno.ENOMEM)):
        end = end_of(tmp_path / "a.mp4", error)
        assert "needs more memory than a clip may have" in end["wrong"]
