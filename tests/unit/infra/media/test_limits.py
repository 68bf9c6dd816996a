"""A child that decodes: stopped at each of its limits, and its last words become the error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.errors import MachineError, MediaError
from infra.media.limits import ChildLimits, decoded_pieces, one_line


def child(script: str, **limits: float) -> list[bytes]:
    chosen = ChildLimits(**({"processor_s": 20, "max_output_bytes": 1 << 20} | limits))
    return list(decoded_pieces([sys.executable, "-c", script], Path("clip.mp4"), chosen))


def test_a_child_is_stopped_when_it_has_written_enough() -> None:
    endless = "import sys\nwhile True: sys.stdout.buffer.write(bytes(5000))"
    assert len(b"".join(child(endless, max_output_bytes=12_345))) == 12_345


def test_all_of_a_shorter_output_arrives() -> None:
    assert b"".join(child("print('all', end='')", max_output_bytes=4)) == b"all"
    assert b"".join(child("print('all', end='')", max_output_bytes=3)) == b"all"


TIMEOUT = r"^expected clip\.mp4 to decode within 0\.3 s of processor time, got a timeout; raise the"
BUSY = "while True: pass"
# A tenth of a second of processor time is a second by the clock.
BRIEFLY: dict[str, float] = {"processor_s": 0.1, "least_wait_s": 0.2}


@pytest.mark.parametrize("first", ["", "import os; os.close(1); os.close(2)\n"])
def test_a_clip_that_takes_more_processor_time_than_it_may_is_to_blame(first: str) -> None:
    with pytest.raises(MediaError, match=TIMEOUT):
        child(first + BUSY, processor_s=0.3)


def test_a_clip_that_writes_for_ever_is_stopped_too() -> None:
    with pytest.raises(MediaError, match=TIMEOUT):
        child("while True: print('x', flush=True)", processor_s=0.3, max_output_bytes=1 << 40)


def test_a_clip_that_took_too_long_is_to_blame_though_it_has_ended_meanwhile() -> None:
    busy = "import time\nwhile time.process_time() < 0.35: pass"
    with pytest.raises(MediaError, match=TIMEOUT):
        child(busy, processor_s=0.3)


def test_a_child_whose_parent_does_not_look_is_ended_by_the_system_and_called_slow() -> None:
    slow = "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)"
    with pytest.raises(MediaError, match="got a timeout"):
        child(slow)


@pytest.mark.parametrize(
    "waiting",
    [
        "import time; time.sleep(60)",
        "import os, time; os.close(1); os.close(2); time.sleep(60)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_a_child_that_does_not_get_on_is_the_machine_s_fault_and_no_clips(waiting: str) -> None:
    began = time.monotonic()
    expected = (
        r"^expected a decoder of clip\.mp4 to get on, got 0\.\d s of processor time in \d s: it"
    )
    with pytest.raises(MachineError, match=expected):
        child(waiting, **BRIEFLY)
    assert 1 <= time.monotonic() - began < 30


def test_a_child_that_only_waits_may_take_longer_than_its_processor_time() -> None:
    waiting = "import time; time.sleep(0.6); print('done')"
    assert b"".join(child(waiting, processor_s=0.3)) == b"done\n"


def test_time_in_which_everything_stands_still_does_not_count() -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from infra.media.limits import ChildLimits, decoded_pieces\n"
        "command = ['/bin/sh', '-c', 'echo begun; sleep 0.5; echo done']\n"
        "for piece in decoded_pieces(command, Path('a'), ChildLimits(0.1, 99, least_wait_s=0.9)):\n"
        "    print(piece.decode(), end='', flush=True)\n"
    )
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        os.killpg(parent.pid, signal.SIGSTOP)
        time.sleep(2.5)  # longer than a child is waited for
        os.killpg(parent.pid, signal.SIGCONT)
        assert parent.stdout.read() == "done\n"
    assert parent.returncode == 0


def test_a_child_cannot_have_more_memory_than_it_may() -> None:
    with pytest.raises(MediaError, match=r"got 'MemoryError' for clip\.mp4"):
        child("bytes(900 << 20)", memory_mb=800)
    assert b"".join(child("print(len(bytes(100 << 20)))", memory_mb=800)) == b"104857600\n"


@pytest.mark.parametrize(("processor_s", "limits"), [(9.5, b"(10, 11)\n"), (0.1, b"(1, 2)\n")])
def test_the_system_limits_a_child_to_its_time_rounded_up(
    processor_s: float, limits: bytes
) -> None:
    told = "import resource; print(resource.getrlimit(resource.RLIMIT_CPU))"
    assert b"".join(child(told, processor_s=processor_s)) == limits


def test_a_child_that_floods_its_errors_is_read_to_the_end() -> None:
    with pytest.raises(MediaError, match="got 'the end'"):
        child("import sys; sys.stderr.write('x\\n' * 500_000 + 'the end'); sys.exit(1)")


def test_a_child_that_crashes_is_an_error() -> None:
    with pytest.raises(MediaError, match="got 'signal 6'"):
        child("import os; os.abort()")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("first\nlast\n\n", "last"),
        ("  spaces  ", "spaces"),
        ("x" * 301, "x" * 300),
        (" \n", "no message"),
        (ValueError("wrong"), "wrong"),
    ],
)
def test_a_message_is_its_last_line(message: object, line: str) -> None:
    assert one_line(message) == line
