"""Whose fault it is when a clip cannot be worked on: its own, or that of what it lies on."""

from pathlib import Path
from typing import NamedTuple

from infra.dataset.reasons import Reason
from infra.errors import DamagedClipError, MachineError, MediaError, StoreError
from infra.machine_faults import machine_fault
from infra.storage.object_store import PLAIN_FILE, ObjectStore


class StoredClip(NamedTuple):
    """A clip of a store: a file, or `clip_bytes` at `archive_offset` of the tar in its name."""

    store: ObjectStore
    name: str
    archive_offset: int = PLAIN_FILE
    clip_bytes: int = 0


class ClipFault(NamedTuple):
    """What is wrong with a clip: the reason of its outcome, and a line on it."""

    reason: str
    sentence: str


def clip_fault(error: Exception, clip: StoredClip, path: Path | None) -> ClipFault:
    """What the clip is to blame for; raises StoreError or MachineError where that is not the clip.

    path: where its content was on this machine, None if it did not come to that.
    """
    if isinstance(error, StoreError):  # no access at all
        raise error
    fault = machine_fault(error, clip.name) or _no_process(error)
    if fault is not None:
        raise fault from error
    check_source(clip)
    sentence = error_line(error, path, clip.name)
    if isinstance(error, DamagedClipError):
        return ClipFault(Reason.DAMAGED, sentence)
    if isinstance(error, MediaError | OSError):
        return ClipFault(Reason.UNREADABLE, sentence)
    return ClipFault(Reason.FAILED, f"{type(error).__name__}: {sentence}")


def error_line(error: Exception, path: Path | None, name: str) -> str:
    """One line on what is wrong with the clip called `name`, wherever a copy of it lies."""
    text = str(error) if path is None else str(error).replace(str(path), name)
    return " ".join(text.split())


def check_source(clip: StoredClip) -> None:
    """Raise StoreError or MachineError if the clip's bytes cannot be read, as from a bad disk or a
    lost mount.

    Decoders say the same of a bad disk and of a bad file, or nothing: so all of it is read.
    """
    store, name, *span = clip
    if not store.is_local:  # was read as a whole to get here
        return
    try:
        store.expect_folder_of(name, clip.archive_offset)
        # A pipe would be waited for.
        if clip.archive_offset != PLAIN_FILE or store.has(name):
            store.digest(name, *span)
    except (StoreError, MachineError):
        raise
    except OSError:  # the clip's own: it is gone, or its owner lets nobody read it
        return


def _no_process(error: Exception) -> MachineError | None:
    if not isinstance(error, BlockingIOError):
        return None
    return MachineError(
        f"expected to start a process for a decoder, got: {error}; raise the limit on processes"
        " (ulimit -u), then run the same command again: what is done stays done"
    )
