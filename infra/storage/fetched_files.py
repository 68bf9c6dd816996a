"""Files of a store on this machine's disk for as long as they are worked on.

What is in object storage or in an archive is fetched once for all that one worker does with it in a
row. The copies lie in a folder of the worker's own in the temporary folder. It goes with the
worker; that of one that was killed goes with the next, or at the end of the run.
"""

import os
import shutil
import weakref
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from infra.storage.object_store import PLAIN_FILE, ObjectStore
from infra.storage.scratch import locked_folder, remove_abandoned, scratch_faults, write_scratch

# Of one worker: of the windows of two clips in turn, none is fetched twice.
MOST_COPIES = 2
MOST_BYTES = 2 << 30


class FetchedFile(NamedTuple):
    """A file's path here, valid until the next one is asked for, and `sha256:...` of its content.

    digest: None for a file of this machine that is as it was when it was listed.
    """

    path: Path
    digest: str | None


class _Copy(NamedTuple):
    path: Path
    size: int
    digest: str


class FetchedFiles:
    """The files that one worker reads, with copies of the last few that need one."""

    def __init__(
        self, store: ObjectStore, most_copies: int = MOST_COPIES, most_bytes: int = MOST_BYTES
    ) -> None:
        """Read files of `store`; keep so many copies and bytes at most, but one in any case."""
        self._store = store
        self._most_copies = most_copies
        self._most_bytes = most_bytes
        self._copies: OrderedDict[tuple[object, ...], _Copy] = OrderedDict()
        self._digests: dict[tuple[object, ...], str] = {}
        self._folder: Path | None = None
        self._fetched = 0

    def get(
        self, name: str, archive_offset: int = PLAIN_FILE, size: int = 0, modified_ns: int = 0
    ) -> FetchedFile:
        """The file called so, or the member of an archive that is called so.

        Args:
            name: of the file, relative to the store's folder.
            archive_offset: where in the archive the bytes of the member are.
            size: its bytes, as listed.
            modified_ns: when it was changed, as listed.

        Raises:
            OSError: it cannot be read.
            MachineError: the copy cannot be written.
            StoreError: there is no access to the store at all.
        """
        version = self._store.version(name, archive_offset)
        key = (name, archive_offset, size, *version)
        if self._store.is_local and archive_offset == PLAIN_FILE:
            with self._store.local_file(name) as path:
                as_listed = (version.size, version.modified_ns) == (size, modified_ns)
                return FetchedFile(path, None if as_listed else self._digest(key, name))
        if key in self._copies and self._copies[key].path.is_file():
            self._copies.move_to_end(key)
        else:
            self._make_room(version.size if archive_offset == PLAIN_FILE else size)
            self._copies[key] = self._fetch(name, archive_offset, size)
        copy = self._copies[key]
        return FetchedFile(copy.path, copy.digest)

    def _digest(self, key: tuple[object, ...], name: str) -> str:
        """Of a file of this machine, which is read once for all its windows."""
        if key not in self._digests:
            self._digests = {key: self._store.digest(name)}
        return self._digests[key]

    def _make_room(self, size: int) -> None:
        held = sum(copy.size for copy in self._copies.values())
        while self._copies and (
            len(self._copies) >= self._most_copies or held + size > self._most_bytes
        ):
            _, copy = self._copies.popitem(last=False)
            copy.path.unlink(missing_ok=True)
            held -= copy.size

    def _fetch(self, name: str, archive_offset: int, size: int) -> _Copy:
        self._fetched += 1
        # Names in archives may be longer than this machine's files may have them.
        path = self._own_folder() / f"clip{self._fetched}{PurePosixPath(name).suffix}"
        try:
            return _Copy(path, *write_scratch(path, self._store.parts(name, archive_offset, size)))
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _own_folder(self) -> Path:
        if self._folder is None or not self._folder.is_dir():
            remove_abandoned()
            with scratch_faults("the folder for temporary files"):
                self._folder, lock = locked_folder()
            weakref.finalize(self, _remove, self._folder, lock, os.getpid())
        return self._folder


def _remove(folder: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # and not a child that was forked
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
