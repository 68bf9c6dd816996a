"""Files of a folder on this machine or in object storage, behind a few verbs.

A location is a path (`/data/clips`, `clips`, `file:///data/clips`) or an object-storage URI
(`s3://bucket/prefix`; credentials and endpoint from the environment, as the AWS tools read them).
What is written appears under its name only when it is complete. A member of a tar is a name too
(`pack.tar/0001.mp4`), with the offset and size of its bytes.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from infra.errors import DatasetError, MachineError, StoreError
from infra.machine_faults import machine_fault, machine_faults
from infra.storage.local_files import (
    link_if_absent,
    local_parts,
    size_and_time,
    unfinished_file,
)
from infra.storage.s3_bucket import S3Bucket
from infra.storage.scratch import scratch_folder, write_scratch

PLAIN_FILE = -1
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_IN_TAR = re.compile(r"\.tar(?=/)", re.IGNORECASE)


class StoredFile(NamedTuple):
    """One file: its name relative to the folder, and what tells whether it has changed."""

    name: str
    size: int
    modified_ns: int


class FileVersion(NamedTuple):
    """What changes with a file's content. tag: of the store's own; on a disk, the inode."""

    size: int
    modified_ns: int
    tag: str


class LeftOutFolder(NamedTuple):
    """A folder whose files a walk does not list, and why: in one line, expected and got.

    is_link: it is a link to a folder; otherwise we may not read it.
    """

    name: str
    is_link: bool
    error: str


class ObjectStore:
    """A folder of files. Names are relative, with forward slashes; others are a PermissionError.

    In object storage every method raises StoreError if there is no access to it at all; where this
    machine's disk is full or fails, MachineError.
    """

    def __init__(self, uri: str | Path, *, confined: bool = False) -> None:
        """Open the folder at `uri`, which need not exist; DatasetError for an unknown scheme.

        confined: for untrusted files: a link that leads out of the folder is not read (OSError).
        """
        text = str(uri)
        scheme = text.partition("://")[0].lower() if "://" in text else ""
        if scheme not in ("", "file", "s3"):
            raise DatasetError(
                f"expected a path or an s3:// URI, got {text!r}; correct the location"
            )
        self.is_local = scheme != "s3"
        self._confined_to: Path | None = None
        self._bucket: S3Bucket | None = None
        if self.is_local:
            path = unquote(urlsplit(text).path) if scheme else text
            self._root = str(Path(path).expanduser().absolute())
            # Paths as the user knows them, so that messages and manifests can be followed.
            self.uri = self._root
            self._confined_to = Path(self._root).resolve() if confined else None
            return
        bucket, _, prefix = text.partition("://")[2].partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise DatasetError(
                "expected s3://bucket/prefix with a bucket's name alone, got"
                f" {bucket.rpartition('@')[2]!r}; credentials and endpoint come from the"
                " environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL)"
            )
        self._bucket = S3Bucket(bucket)
        self._root = prefix.strip("/")
        self.uri = f"s3://{bucket}/{self._root}".rstrip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as the location alone; a connection does not."""
        if self._confined_to is not None:
            return confined_store, (self.uri,)
        return ObjectStore, (self.uri,)

    def exists(self) -> bool:
        """Whether the folder is there."""
        if self._bucket is None:
            return Path(self._root).is_dir()
        return not self._root or self._bucket.has_any(f"{self._root}/")

    def list(self, folder: str = "", *, recursive: bool = False) -> list[StoredFile]:
        """Files in `folder` by name, without hidden ones in it; empty if there is none."""
        return sorted(self.walk(folder, recursive=recursive), key=lambda file: file.name)

    def walk(
        self,
        folder: str = "",
        *,
        recursive: bool = True,
        left_out: Callable[[LeftOutFolder], object] | None = None,
    ) -> Iterator[StoredFile]:
        """The files of `list` in any order, one at a time.

        left_out: gets the folders whose files are not listed; without it, one that may not be read
        is a StoreError, as `folder` itself and any other failure of this machine's storage is.
        """
        path = self._path(folder)
        if self._bucket is None:
            walked = self._walk_local(path, recursive, left_out)
        else:
            walked = self._walk_bucket(path, recursive)
        for file in walked:
            if "/." not in f"/{file.name[len(folder) :]}":
                yield file

    def _walk_local(
        self, folder: str, recursive: bool, left_out: Callable[[LeftOutFolder], object] | None
    ) -> Iterator[StoredFile]:
        def failed(error: OSError) -> None:
            place = str(error.filename)
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                return  # there is none, or no longer
            if (fault := machine_fault(error)) is not None:
                raise fault from error
            closed = _closed(place, error)
            if left_out is None or place == folder or not isinstance(error, PermissionError):
                raise closed from error
            left_out(LeftOutFolder(self._relative(place), False, str(closed)))

        # Not through pyarrow, which leaves out links to nowhere: somebody meant that file.
        for parent, folders, names in os.walk(folder, onerror=failed):
            folders[:] = [name for name in folders if recursive and not name.startswith(".")]
            if left_out is not None:
                links = [Path(parent) / name for name in folders]
                for link in filter(Path.is_symlink, links):
                    left_out(self._linked_folder(link))
            for name in names:
                path = Path(parent) / name
                size, modified_ns = size_and_time(path)
                yield StoredFile(self._relative(path), size, modified_ns)

    def _linked_folder(self, link: Path) -> LeftOutFolder:
        name, target = self._relative(link), link.resolve()
        if target.is_relative_to(Path(self._root).resolve()):
            error = (
                f"expected a folder at {name}, got a link to {target} in {self.uri}, whose files"
                " are listed there; remove the link"
            )
        else:
            error = (
                f"expected a folder at {name}, got a link out of {self.uri} to {target}; mount or"
                " copy that folder there, or read it by itself"
            )
        return LeftOutFolder(name, True, error)

    def _relative(self, path: str | Path) -> str:
        return Path(path).relative_to(self._root).as_posix()

    def _walk_bucket(self, folder: str, recursive: bool) -> Iterator[StoredFile]:
        assert self._bucket is not None
        prefix = f"{folder}/" if folder else ""
        start = len(self._root) + 1 if self._root else 0
        for item in self._bucket.list(prefix, recursive=recursive):
            yield StoredFile(item.key[start:], item.size, item.modified_ns)

    def has(self, name: str) -> bool:
        """Whether the file is there; StoreError if its folder is closed to us."""
        path = self._path(name)
        if self._bucket is not None:
            return self._bucket.has(path)
        try:
            return Path(path).is_file()
        except PermissionError as error:
            raise _closed(Path(path).parent, error) from error

    def read(self, name: str) -> bytes:
        """The whole content of a file; OSError if it cannot be read."""
        return b"".join(self.parts(name, PLAIN_FILE, 0))

    def open(self, name: str) -> Any:
        """A pyarrow random-access file; OSError if it cannot be read."""
        path = self._path(name)
        if self._bucket is not None:
            return self._bucket.open(path)
        with machine_faults(path):
            return pa.OSFile(self._require_inside(path))

    def write(self, name: str, content: bytes) -> None:
        """Write a file; it appears, or replaces an older one, only when it is complete."""
        path = self._path(name)
        if self._bucket is not None:
            self._bucket.put(path, content)
            return
        with machine_faults(path), unfinished_file(Path(path), content) as unfinished:
            unfinished.replace(path)

    def write_if_absent(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; whether it is this call's. One of several at a time
        wins, on any machine.

        content: different from any other that is written so: it tells whose the file is. StoreError
        if storage has no such writes, or only says so.
        """
        path = self._path(name)
        if self._bucket is not None:
            written = self._bucket.put_if_absent(path, content)
        else:
            with machine_faults(path), unfinished_file(Path(path), content) as unfinished:
                written = link_if_absent(unfinished, Path(path), content)
        if written:
            return True
        try:
            return self.read(name) == content  # a repeated request may refuse what the first wrote
        except FileNotFoundError:
            return False

    def delete(self, name: str) -> None:
        """Remove a file; no error if it is gone already."""
        path = self._path(name)
        if self._bucket is None:
            Path(path).unlink(missing_ok=True)
        else:
            self._bucket.delete(path)

    def delete_folder(self, folder: str) -> None:
        """Remove a folder with all that is in it; no error if it is gone already."""
        if self._bucket is None:
            shutil.rmtree(self._path(folder), ignore_errors=True)
            return
        for file in self.list(folder, recursive=True):
            self.delete(file.name)

    def digest(self, name: str, archive_offset: int = PLAIN_FILE, size: int = 0) -> str:
        """`sha256:...` of a file's content, or of a tar's member; OSError if it cannot be read.

        archive_offset, size: where in the tar the bytes of the member are.
        """
        sha256 = hashlib.sha256()
        for part in self.parts(name, archive_offset, size):
            sha256.update(part)
        return f"sha256:{sha256.hexdigest()}"

    def version(self, name: str, archive_offset: int = PLAIN_FILE) -> FileVersion:
        """What tells a file, or the tar of a member, from what stood there before; OSError if it is
        not there."""
        path = self._path(name if archive_offset == PLAIN_FILE else self._tar_of(name))
        if self._bucket is not None:
            return FileVersion(*self._bucket.version(path))
        status = Path(self._require_inside(path)).stat()
        return FileVersion(status.st_size, status.st_mtime_ns, str(status.st_ino))

    @contextmanager
    def local_file(
        self, name: str, archive_offset: int = PLAIN_FILE, size: int = 0
    ) -> Iterator[Path]:
        """A path of this machine with the file's content; a copy unless it is a file of its own.

        archive_offset, size: where in the tar the bytes of the member are. OSError if it cannot be
        read. The copy goes when the block ends.
        """
        if self._bucket is None and archive_offset == PLAIN_FILE:
            yield Path(self._require_inside(self._path(name)))
            return
        with scratch_folder() as folder:
            # Names in archives may be longer than this machine's files may have them.
            copy = folder / f"clip{PurePosixPath(name).suffix}"
            write_scratch(copy, self.parts(name, archive_offset, size))
            yield copy

    def expect_folder_of(self, name: str, archive_offset: int = PLAIN_FILE) -> None:
        """MachineError if the folder of a listed file, or this one, is gone or empty: whatever was
        mounted there is lost."""
        if self._bucket is not None:
            return
        file = self._tar_of(name) if archive_offset != PLAIN_FILE else name
        root = Path(self._root)
        for folder in dict.fromkeys((root, Path(self._path(file)).parent)):
            with machine_faults(folder):
                state = _lost(folder, folder == root)
            if state:
                raise MachineError(
                    f"expected the folder {folder} with {name}, which was there before, got"
                    f" {state}; mount or copy it again, then run the same command again: what is"
                    " done stays done"
                )

    def parts(self, name: str, archive_offset: int = PLAIN_FILE, size: int = 0) -> Iterator[bytes]:
        """The content of a file, or of a tar's member, part by part; OSError as of `read`."""
        member = archive_offset != PLAIN_FILE
        path = self._path(self._tar_of(name) if member else name)
        span = (archive_offset, size) if member else (0, None)
        read = 0
        parts = local_parts if self._bucket is None else self._bucket.parts
        for part in parts(self._require_inside(path), *span):
            read += len(part)
            yield part
        if member and read != size:
            raise OSError(
                f"expected {size} bytes of {name} at {archive_offset}, got {read}; the archive has"
                " changed since it was listed"
            )

    def _tar_of(self, name: str) -> str:
        tars = [name[: match.end()] for match in _IN_TAR.finditer(name)]
        if not tars:
            raise OSError(f"expected a member of a tar, as pack.tar/0001.mp4, got {name!r}")
        # A folder, too, may be called something.tar.
        return next((tar for tar in tars[:-1] if self.has(tar)), tars[-1])

    def _require_inside(self, path: str) -> str:
        """`path`, if it does not lead out of the folder of a confined store, or to no file: a pipe
        would be waited for."""
        if self._confined_to is not None:
            target = Path(path).resolve()
            if not target.is_relative_to(self._confined_to):
                raise OSError(
                    f"expected a file inside {self.uri}, got a link out of it at {path}; copy the"
                    " file to where the link is"
                )
            if target.exists() and not target.is_file():
                raise OSError(f"expected a file, got {path}, which is no file; name another")
        return path

    def _path(self, name: str) -> str:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise PermissionError(
                f"expected a name below {self.uri}, got {name!r}; give a relative one"
            )
        return f"{self._root}/{name}".strip("/" if self._bucket else "") if name else self._root


def confined_store(uri: str | Path) -> ObjectStore:
    """A folder of untrusted files: links out of it are not followed."""
    return ObjectStore(uri, confined=True)


def _lost(folder: Path, is_root: bool) -> str:
    """What is wrong with a folder of listed files, "" for nothing."""
    try:
        with os.scandir(folder) as entries:
            return "" if any(entries) else "an empty one"
    except (FileNotFoundError, NotADirectoryError):
        return "none"
    except PermissionError as error:  # a file below may be open to us all the same
        return str(error) if is_root else ""


def _closed(folder: str | Path, error: OSError) -> StoreError:
    return StoreError(
        f"expected a folder that we may read at {folder}, got: {error.strerror}; look at its"
        " permissions and its mount"
    )
