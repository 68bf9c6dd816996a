"""A child that does one job on an untrusted clip; its records come back over a pipe."""

import json
import struct
import sys
from collections.abc import Generator
from contextlib import closing
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from infra.errors import DamagedClipError, DecoderEndedError, MachineError, MediaError
from infra.media.limits import ChildLimits, decoded_pieces

_HEADER = struct.Struct(">cQ")
_STARTED, _END = b"H", b"E"
FACTS, PICTURE, SOUND, RESTART = b"J", b"P", b"S", b"R"
_KINDS = (_STARTED, _END, FACTS, PICTURE, SOUND, RESTART)
_LONGEST_SENTENCE = 500
# `-I -S`: nothing of the user's or of the environment's is imported, and it starts sooner.
_PROGRAM = "import sys; sys.path += {}; from infra.media.child.main import main; main()"


@lru_cache(maxsize=1)
def _program() -> str:
    spec = find_spec("av")
    assert spec is not None
    assert spec.origin is not None
    return _PROGRAM.format([str(Path(__file__).parents[2]), str(Path(spec.origin).parents[1])])


def job_records(
    job: str, path: Path, limits: ChildLimits, **request: Any
) -> Generator[tuple[bytes, bytes], None, None]:
    """Kinds and contents of the records that a job writes: facts, pictures, sound, restarts.

    The child ends with the iterator. MediaError for what is wrong with the clip, DamagedClipError
    if its bytes are not those that were written, MachineError or another OSError for what is wrong
    with the machine.
    """
    text = json.dumps({"job": job, "path": str(Path(path).absolute()), **request})
    command = [sys.executable, "-I", "-S", "-c", _program(), text]
    has_started, end = False, b""
    try:
        with closing(_records(command, path, limits)) as records:
            for kind, content in records:
                has_started = has_started or kind == _STARTED
                if kind == _END:
                    end = content
                elif kind != _STARTED:
                    yield kind, content
    except DecoderEndedError as error:
        if has_started:
            raise
        # It had not looked at the clip yet.
        raise MachineError(
            f"expected a program that decodes to start, got: {error}; look after the machine, then"
            " run the same command again: what is done stays done"
        ) from error
    _check_end(end, path)


def _records(
    command: list[str], path: Path, limits: ChildLimits
) -> Generator[tuple[bytes, bytes], None, None]:
    buffer = bytearray()
    for piece in decoded_pieces(command, path, limits):
        buffer += piece
        while len(buffer) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(buffer)
            if kind not in _KINDS or size > limits.max_output_bytes:
                raise _unknown_answer(path)
            end = _HEADER.size + size
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                content = bytes(view[_HEADER.size : end])
            del buffer[:end]
            yield kind, content


def _check_end(content: bytes, path: Path) -> None:
    end = facts(content, path)
    if end.get("done"):
        return
    if "errno" in end:
        raise OSError(int(end["errno"]), f"{str(end['message'])[:_LONGEST_SENTENCE]}: {path}")
    if "damage" in end:
        raise DamagedClipError(
            f"expected the bytes that were written, got damage in {path}"
            f" ({str(end['damage'])[:_LONGEST_SENTENCE]}); copy it again or drop it"
        )
    if "wrong" in end:
        raise MediaError(str(end["wrong"])[:_LONGEST_SENTENCE])
    raise _unknown_answer(path)


def facts(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in a record."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise _unknown_answer(path) from error
    if not isinstance(found, dict):
        raise _unknown_answer(path)
    return found


def _unknown_answer(path: Path) -> MediaError:
    return MediaError(
        f"expected a readable clip, got an answer out of order for {path}; check the file"
    )
