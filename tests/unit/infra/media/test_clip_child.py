"""The child that decodes, seen from outside: its records, and whose fault it is when it ends."""

import ast
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import DamagedClipError, MachineError, MediaError
from infra.media import clip_child
from infra.media.clip_child import FACTS, job_records
from infra.media.limits import ChildLimits

CLIP = Path("/clips/clip.mp4")
LIMITS = ChildLimits(20, 1 << 20)
SENDING = """
import json, os, struct, sys
def send(kind, content=b""):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    sys.stdout.buffer.write(struct.pack(">cQ", kind, len(content)) + content)
    sys.stdout.flush()
"""


@pytest.fixture
def child(monkeypatch):
    """Runs lines of Python in place of the program that decodes."""

    def run(lines):
        monkeypatch.setattr(clip_child, "_program", lambda: SENDING + lines)
        return list(job_records("window", CLIP, LIMITS))

    return run


def test_records_come_in_order_and_end_well(child):
    lines = "send(b'H'); send(b'J', {'a': 1}); send(b'P', b'pixels'); send(b'E', {'done': True})"
    assert child(lines) == [(FACTS, b'{"a": 1}'), (b"P", b"pixels")]


def test_a_record_may_be_as_long_as_all_output(child):
    lines = "send(b'H'); send(b'P', bytes(900_000)); send(b'E', {'done': True})"
    assert child(lines) == [(b"P", bytes(900_000))]


def test_damage_is_an_error_of_its_own(child):
    with pytest.raises(DamagedClipError, match=r"damage in /clips/clip\.mp4 \(a hole\); copy"):
        child("send(b'H'); send(b'E', {'damage': 'a hole'})")


def test_a_fault_of_the_machine_keeps_its_number(child):
    with pytest.raises(OSError, match="No space left on device") as caught:
        child("send(b'H'); send(b'E', {'errno': 28, 'message': 'No space left on device'})")
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, MediaError)


def test_a_child_that_the_system_ends_for_want_of_memory_is_no_fault_of_the_clip(child):
    with pytest.raises(OSError, match="Cannot allocate memory") as caught:
        child("send(b'H'); os.kill(os.getpid(), 9)")
    assert caught.value.errno == errno.ENOMEM


def test_a_program_that_does_not_start_is_no_fault_of_the_clip(child):
    with pytest.raises(MachineError, match="expected a program that decodes to start"):
        child("import no_such_module")


def test_a_decoder_that_crashes_on_a_clip_is_the_clips_fault(child):
    with pytest.raises(MediaError, match="signal 6"):
        child("send(b'H'); os.abort()")


@pytest.mark.parametrize(
    "lines",
    [
        "send(b'H')",  # no end
        "send(b'H'); send(b'E', b'no JSON')",
        "send(b'H'); send(b'E', [1])",
        "send(b'H'); send(b'E', {'what': 1})",
        "send(b'H'); send(b'?', b'')",
        "send(b'H'); sys.stdout.buffer.write(b'P' + b'\\xff' * 8)",
        "sys.stdout.write('text that is no record')",
    ],
)
def test_an_answer_that_makes_no_sense_is_never_taken(child, lines):
    with pytest.raises(MediaError, match="an answer out of order"):
        child(lines)


def test_the_program_imports_neither_numpy_nor_anything_of_ours_but_itself_and_a_table():
    lines = (
        "import infra.media.child.main; ours = ('infra', 'omniforcing_model', 'numpy', 'torch');"
        "print([name for name in sys.modules if name.partition('.')[0] in ours])"
    )
    program = clip_child._program().rpartition("; from")[0]
    command = [sys.executable, "-I", "-S", "-c", f"{program}; {lines}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = set(ast.literal_eval(listed))
    assert "infra.media.child.main" in names
    assert {name for name in names if not name.startswith("infra.media.child")} == {
        "infra",
        "infra.fault_numbers",
        "infra.media",
    }
