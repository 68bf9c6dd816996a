"""The lease of an output: taken at the start of a run, renewed by a thread, given back at the end.

Whether a holder lives: on its own machine the process tells; elsewhere, and for one that is stopped
but not dead, the time since it was renewed, by the clock of the storage alone.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from infra.errors import OwnershipError
from infra.leases.fence import (
    OWNER_FOLDER,
    Attempt,
    Fence,
    attempt_file,
    newest_attempt,
    owner_files,
    read_holder,
)
from infra.leases.holder import Holder, this_process
from infra.storage.object_store import ObjectStore

LOG = logging.getLogger(__name__)

# So many renewals may be lost, to a slow network or a swapping machine, before a holder is.
RENEWALS_PER_LEASE = 6
# How often another process may come first with the same number before the last one gives up.
TRIES = 5
_NS = 1_000_000_000
# By thread: another thread of this process that asks for an output is another run.
_HELD: ContextVar[tuple["OutputLease", ...]] = ContextVar("held outputs", default=())


class OutputLease:
    """An output that this process owns, until somebody takes it for dead."""

    def __init__(self, store: ObjectStore, holder: Holder, *, is_new: bool) -> None:
        """Of the attempt that `holder` has made in `store`; is_new: there was no such output."""
        self.fence = Fence(store.uri, holder.attempt)
        self.place = _place(store)
        self._store = store
        self._holder = holder
        self._is_new = is_new
        self._lost: OwnershipError | None = None
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="output lease", daemon=True)

    def check(self) -> None:
        """As `Fence.check`."""
        self.fence.check(self._store)

    def raise_if_lost(self) -> None:
        """Raise what the last renewal met, without asking storage: for loops."""
        if self._lost is not None:
            raise self._lost

    def start(self) -> None:
        """Begin to renew it."""
        self._thread.start()

    def end(self, *, failed: bool = False) -> None:
        """Give it back: the next run need not ask whether this one lives.

        failed: a run that was refused at once leaves no folder that was not there before.
        """
        self._ended.set()
        try:
            with self._writing:
                self.check()
                if failed and self._is_new and _is_bare(self._store):
                    # Nobody was there before who could still wake up.
                    self._store.delete_folder(OWNER_FOLDER)
                    if self._store.is_local:
                        Path(self._store.uri).rmdir()
                    return
                self._write(self._holder.model_copy(update={"released": True}))
        except OwnershipError:
            pass  # another run has it; whoever needed to know has been told by a check
        except OSError as error:
            LOG.warning(
                "%s is not given back, the next run may have to wait up to %g s: %s",
                self._store.uri,
                self._holder.lease_s,
                error,
            )

    def _renew(self) -> None:
        while not self._ended.wait(self._holder.lease_s / RENEWALS_PER_LEASE):
            try:
                with self._writing:
                    if self._ended.is_set():
                        return
                    self.check()
                    self._write(self._holder)
            except OwnershipError as error:
                self._lost = error
                return
            except OSError as error:  # the next renewal may come through, else a check will tell
                LOG.debug("the lease of %s was not renewed: %s", self._store.uri, error)

    def _write(self, holder: Holder) -> None:
        self._store.write(attempt_file(holder.attempt), _content(holder))


@contextmanager
def hold_output(uri: str | Path, work: str, lease_s: float) -> Iterator[OutputLease]:
    """Own the output at `uri` meanwhile; within another `hold_output` of this thread, use that one.

    Args:
        uri: of the folder that the run writes.
        work: what the run does, as "preprocess": others are told so.
        lease_s: not renewed for so long, the run counts as dead. It is renewed six times as often.

    Raises:
        OwnershipError: a run that lives, or may live, holds it; the message says who, since when.
        StoreError: storage fails, or has no conditional writes.
    """
    store = ObjectStore(uri)
    outer = next((lease for lease in _HELD.get() if lease.place == _place(store)), None)
    if outer is not None:
        yield outer
        return
    is_new = not store.exists()
    lease = OutputLease(store, _take(store, work, lease_s), is_new=is_new)
    held = _HELD.set((*_HELD.get(), lease))
    failed = True
    try:
        lease.start()
        yield lease
        failed = False
    finally:
        _HELD.reset(held)
        lease.end(failed=failed)


def current_holder(store: ObjectStore) -> Holder | None:
    """Who seems to hold the output in `store`, None if nobody; for people: writes nothing, and goes
    by the clock of this machine."""
    newest = newest_attempt(store)
    holder = None if newest is None else read_holder(store, newest.number)
    if newest is None or holder is None or holder.released or holder.has_died():
        return None
    return holder if (time.time_ns() - newest.renewed_ns) / _NS < holder.lease_s else None


def _take(store: ObjectStore, work: str, lease_s: float) -> Holder:
    """Make the next attempt; OwnershipError if the newest one may live."""
    for _ in range(TRIES):
        newest = newest_attempt(store)
        number = 1 if newest is None else newest.number + 1
        if newest is not None:
            _refuse_if_alive(store, newest)
        holder = this_process(work, number, lease_s)
        if store.write_if_absent(attempt_file(number), _content(holder)):
            files = owner_files(store)
            if max(files, default=0) == number:
                for older in files.keys() - {number}:
                    store.delete(files[older].name)
                return holder
            store.delete(attempt_file(number))  # its number was used and removed long ago
    raise OwnershipError(
        f"expected to be the only run that begins on {store.uri}, got others each time; start one"
        " of them"
    )


def _refuse_if_alive(store: ObjectStore, newest: Attempt) -> None:
    holder = read_holder(store, newest.number)
    if holder is None and newest_attempt(store) != newest:
        return  # it was replaced while we looked: whoever did that comes first
    if holder is not None and (holder.released or holder.has_died()):
        return
    silent_s = max(0.0, (_now_ns(store) - newest.renewed_ns) / _NS)
    if holder is None:
        raise OwnershipError(
            f"expected to read who owns {store.uri}, got a broken record of attempt"
            f" {newest.number}, written {silent_s:.0f} s ago; if no run is at work there, delete"
            f" {store.uri}/{attempt_file(newest.number)}"
        )
    if silent_s < holder.lease_s:
        raise OwnershipError(
            f"expected no other run on {store.uri}, got {holder}, heard of {silent_s:.0f} s ago;"
            " wait for it, stop it, or name another output (silent for"
            f" {holder.lease_s:g} s it would count as dead)"
        )
    LOG.info("taking over %s from %s, silent for %.0f s", store.uri, holder, silent_s)


def _now_ns(store: ObjectStore) -> int:
    """What time it is for the storage: that of a file written now. Clocks of machines differ."""
    name = f"{OWNER_FOLDER}/clock.{uuid.uuid4().hex}"
    store.write(name, b"")
    try:
        return max(file.modified_ns for file in store.list(OWNER_FOLDER))
    finally:
        store.delete(name)


def _is_bare(store: ObjectStore) -> bool:
    """Whether there is nothing in an output but who owns it."""
    if store.is_local:
        return [path.name for path in Path(store.uri).iterdir()] == [OWNER_FOLDER]
    return next(store.walk(), None) is None


def _content(holder: Holder) -> bytes:
    return (holder.model_dump_json(indent=1) + "\n").encode()


def _place(store: ObjectStore) -> str:
    return str(Path(store.uri).resolve()) if store.is_local else store.uri
