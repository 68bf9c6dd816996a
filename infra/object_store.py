"""Files of a folder on this machine or in object storage, behind a few verbs.

A location is a path (`/data/clips`, `clips`, `file:///data/clips`) or an object-storage URI
(`s3://bucket/prefix`; credentials and endpoint from the environment, as the AWS tools read them).
What is written appears under its name only when it is complete.
"""

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pyarrow import ArrowException, fs

from infra.errors import DatasetError

_COPY_BYTES = 1 << 20


class StoredFile(NamedTuple):
    """One file: its name relative to the folder, and what tells whether it has changed."""

    name: str
    size: int
    modified_ns: int


class ObjectStore:
    """A folder of files. Names are relative, with forward slashes."""

    def __init__(self, uri: str | Path) -> None:
        """Open the folder at `uri`, which need not exist; DatasetError for an unknown scheme."""
        text = str(uri)
        if "://" not in text:
            text = str(Path(text).expanduser().absolute())
        try:
            self._files, self._root = fs.FileSystem.from_uri(text)
        except (ArrowException, OSError, ValueError) as error:
            raise DatasetError(
                f"expected a path or an s3:// URI, got {str(uri)!r} ({error}); correct the location"
            ) from error
        self.is_local = isinstance(self._files, fs.LocalFileSystem)
        # Paths as the user knows them, so that messages and manifests can be followed.
        self.uri = self._root if self.is_local else text.rstrip("/")

    def exists(self) -> bool:
        """Whether the folder is there."""
        return bool(self._info("").type == fs.FileType.Directory)

    def list(self, folder: str = "", *, recursive: bool = False) -> list[StoredFile]:
        """Files in `folder` by name, without hidden ones; empty if there is no such folder."""
        listed = self._list_local if self.is_local else self._list_remote
        files = [
            file
            for file in listed(self._path(folder), recursive)
            if not any(part.startswith(".") for part in PurePosixPath(file.name).parts)
        ]
        return sorted(files, key=lambda file: file.name)

    def _list_local(self, folder: str, recursive: bool) -> Iterator[StoredFile]:
        # Not through pyarrow, which leaves out links to nowhere: somebody meant that file.
        for parent, folders, names in os.walk(folder):
            if not recursive:
                folders.clear()
            for name in names:
                path = Path(parent) / name
                status = path.stat() if path.exists() else path.lstat()
                relative = path.relative_to(self._root).as_posix()
                yield StoredFile(relative, status.st_size, status.st_mtime_ns)

    def _list_remote(self, folder: str, recursive: bool) -> Iterator[StoredFile]:
        selector = fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
        for info in self._files.get_file_info(selector):
            if info.type == fs.FileType.File and not info.path.endswith("/"):
                name = str(PurePosixPath(info.path).relative_to(self._root))
                yield StoredFile(name, info.size or 0, info.mtime_ns or 0)

    def has(self, name: str) -> bool:
        """Whether the file is there."""
        return bool(self._info(name).type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """The whole content of a file; OSError if it cannot be read."""
        with self.open(name) as source:
            return bytes(source.read())

    def open(self, name: str) -> Any:
        """A pyarrow random-access file; OSError if it cannot be read."""
        return self._files.open_input_file(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file; it appears, or replaces an older one, only when it is complete."""
        path = self._path(name)
        if not self.is_local:  # an upload appears when it is closed
            with self._files.open_output_stream(path) as sink:
                sink.write(content)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unfinished")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file; no error if it is gone already."""
        if self.has(name):
            self._files.delete_file(self._path(name))

    def digest(self, name: str) -> str:
        """`sha256:...` of a file's content; OSError if it cannot be read."""
        sha256 = hashlib.sha256()
        with self._files.open_input_stream(self._path(name), compression=None) as source:
            while part := source.read(_COPY_BYTES):
                sha256.update(part)
        return f"sha256:{sha256.hexdigest()}"

    @contextmanager
    def local_file(self, name: str) -> Iterator[Path]:
        """A path of this machine with the file's content; a copy if it is stored elsewhere."""
        if self.is_local:
            yield Path(self._path(name))
            return
        with tempfile.TemporaryDirectory(prefix="clip-") as folder:
            copy = Path(folder) / PurePosixPath(name).name
            fs.copy_files(self._path(name), str(copy), source_filesystem=self._files)
            yield copy

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _info(self, name: str) -> Any:
        return self._files.get_file_info(self._path(name))
