"""The ffmpeg that makes the files of the tests: the wheel's, unless a test asks for another."""

import shutil
import subprocess
from contextlib import contextmanager

import imageio_ffmpeg

WHEEL, ON_PATH = "the wheel's ffmpeg", "the ffmpeg on PATH"
_TIMEOUT_S = 60
_chosen = [WHEEL]


def ffmpeg_called(which):
    """Where it lies; None if there is none on PATH."""
    return imageio_ffmpeg.get_ffmpeg_exe() if which == WHEEL else shutil.which("ffmpeg")


@contextmanager
def files_made_by(which):
    """Meanwhile `run_ffmpeg` runs this one."""
    _chosen.append(which)
    try:
        yield
    finally:
        _chosen.pop()


def run_ffmpeg(*arguments, feed=None):
    """Run ffmpeg to its end; RuntimeError with what it said if it failed."""
    command = [ffmpeg_called(_chosen[-1]), "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=feed, capture_output=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.decode(errors='replace')}")
    return done.stdout
