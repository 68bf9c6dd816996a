"""A child that decodes: stopped at each of its limits, and its last words become the error."""

import sys
import time
from pathlib import Path

import pytest

from infra.errors import MediaError
from infra.media.limits import ChildLimits, decoded_pieces, one_line


def child(script: str, **limits: float) -> list[bytes]:
    chosen = ChildLimits(**({"timeout_s": 20, "max_output_bytes": 1 << 20} | limits))
    return list(decoded_pieces([sys.executable, "-c", script], Path("clip.mp4"), chosen))


def test_a_child_is_stopped_when_it_has_written_enough() -> None:
    endless = "import sys\nwhile True: sys.stdout.buffer.write(bytes(5000))"
    assert len(b"".join(child(endless, max_output_bytes=12_345))) == 12_345


def test_all_of_a_shorter_output_arrives() -> None:
    assert b"".join(child("print('all', end='')", max_output_bytes=4)) == b"all"
    assert b"".join(child("print('all', end='')", max_output_bytes=3)) == b"all"


def test_a_child_that_says_nothing_is_stopped_in_time() -> None:
    began = time.monotonic()
    expected = r"^expected clip\.mp4 to decode within 0\.5 s, got a timeout; raise the limit or"
    with pytest.raises(MediaError, match=expected):
        child("import time; time.sleep(60)", timeout_s=0.5)
    assert 0.5 <= time.monotonic() - began < 30


def test_a_child_that_writes_for_ever_is_stopped_in_time() -> None:
    slow = "import time\nwhile True: print('x', flush=True); time.sleep(0.01)"
    with pytest.raises(MediaError, match=r"within 0\.5 s, got a timeout"):
        child(slow, timeout_s=0.5)


def test_a_child_that_closes_its_output_and_stays_is_stopped_in_time() -> None:
    quiet = "import os, time; os.close(1); os.close(2); time.sleep(60)"
    with pytest.raises(MediaError, match=r"within 0\.5 s, got a timeout"):
        child(quiet, timeout_s=0.5)


def test_a_child_cannot_have_more_memory_than_it_may() -> None:
    with pytest.raises(MediaError, match=r"got 'MemoryError' for clip\.mp4"):
        child("bytes(900 << 20)", memory_mb=800)
    assert b"".join(child("print(len(bytes(100 << 20)))", memory_mb=800)) == b"104857600\n"


def test_a_child_has_a_second_of_cpu_more_than_its_time_rounded_up() -> None:
    limits = "import resource; print(resource.getrlimit(resource.RLIMIT_CPU)[0])"
    assert b"".join(child(limits, timeout_s=9.5)) == b"11\n"


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
