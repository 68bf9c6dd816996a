"""The attempts at an output, as files of its folder `.owner`, and the check before each commit.

    .owner/000003.json      the third attempt: who makes it; renewed by being written again

An attempt is a file that exactly one process can make (`ObjectStore.write_if_absent`), and its
number is a fencing token: the highest one owns the output, everybody else is fenced off, however
late they wake up. Whatever replaces or deletes something there checks first. Files named after
their content, and parts of logs, which are only added, need no check.

Between a check and the write that follows it lie milliseconds in which an attempt could be
replaced: for that, a process must be stopped just there, and for longer than its lease. What
it then writes is a whole manifest or checkpoint of its own, which the next commit replaces.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import ValidationError

from infra.errors import OwnershipError
from infra.leases.holder import Holder
from infra.storage.object_store import ObjectStore, StoredFile

OWNER_FOLDER = ".owner"
_ATTEMPT = re.compile(rf"{re.escape(OWNER_FOLDER)}/(\d{{6,}})\.json")


class Attempt(NamedTuple):
    """The number of an attempt, and when it was renewed by the clock of the storage."""

    number: int
    renewed_ns: int


@dataclass(frozen=True)
class Fence:
    """An attempt at the output `uri`, as plain values: what a worker shows before it commits."""

    uri: str
    attempt: int

    def check(self, store: ObjectStore | None = None) -> None:
        """Return if the attempt still owns the output; costs one listing of a file or two.

        store: at `uri`, if there is one that is connected. OwnershipError, with who has taken it
        over, if not. StoreError if storage does not answer.
        """
        store = store or ObjectStore(self.uri)
        newest = newest_attempt(store)
        if newest is not None and newest.number == self.attempt:
            return
        if newest is None or newest.number < self.attempt:
            raise OwnershipError(
                f"expected attempt {self.attempt} to own {self.uri}, got no trace of it: somebody"
                f" has emptied {OWNER_FOLDER} there; nothing more is written, run the command again"
            )
        holder = read_holder(store, newest.number)
        who = f"{holder}" if holder else "somebody unknown"
        raise OwnershipError(
            f"expected attempt {self.attempt} to own {self.uri}, got that attempt {newest.number}"
            f" has taken it over: {who}; this one was taken for dead and writes nothing more, wait"
            " for the other, or stop it and run the command again"
        )


def require_owner(fence: Fence | None) -> None:
    """`fence.check()`; None where nobody else works, as in a folder that was made for one call."""
    if fence is not None:
        fence.check()


def attempt_file(number: int) -> str:
    """Name of an attempt's record."""
    return f"{OWNER_FOLDER}/{number:06d}.json"


def owner_files(store: ObjectStore) -> dict[int, StoredFile]:
    """The records of attempts, by number."""
    found = ((file, _ATTEMPT.fullmatch(file.name)) for file in store.list(OWNER_FOLDER))
    return {int(match[1]): file for file, match in found if match}


def newest_attempt(store: ObjectStore) -> Attempt | None:
    """The attempt that owns the output, or was the last to; None if there was none."""
    files = owner_files(store)
    if not files:
        return None
    number = max(files)
    return Attempt(number, files[number].modified_ns)


def read_holder(store: ObjectStore, attempt: int) -> Holder | None:
    """Who makes an attempt; None if its record is gone, cut off or of another version."""
    try:
        return Holder.model_validate_json(store.read(attempt_file(attempt)))
    except (FileNotFoundError, ValidationError):
        return None
