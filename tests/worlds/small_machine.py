"""This process on a machine that has little: low limits, a scratch disk of its own."""

import resource
import tempfile
from contextlib import contextmanager


@contextmanager
def limited(what, soft):
    """This process with a lower limit of the system meanwhile."""
    before, hard = resource.getrlimit(what)
    resource.setrlimit(what, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (before, hard))


def scratch_below(folder, monkeypatch):
    """A new temporary folder for this process and its children."""
    scratch = folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    return scratch
