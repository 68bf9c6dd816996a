"""Where a machine's choice of kernels is kept, so that its processes agree on it.

One folder per processor and version of PyTorch, below XDG_CACHE_HOME. A measurement writes a
proposal; it becomes the choice when a process begins while no other one goes by the folder. So
those that run at the same time always go by the same.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from infra.machine import processor_facts

Values = dict[str, Any]  # of JSON


def kernel_folder() -> Path:
    """The folder of this machine's kind; it may not be there yet."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    facts = json.dumps([processor_facts(), metadata.version("torch")])
    return Path(cache) / "omniforcing" / "kernels" / hashlib.sha256(facts.encode()).hexdigest()[:16]


class KernelStore:
    """A folder of kernels and what was chosen among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: int | None = None

    def settle(self) -> Values | None:
        """What this process goes by until it ends; None as long as nothing was chosen.

        OSError if the folder cannot be written to.
        """
        if self._held is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._held = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            with suppress(BlockingIOError):
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(FileNotFoundError):
                    self._proposal.replace(self._choice)
            fcntl.flock(self._held, fcntl.LOCK_SH)
        return _read(self._choice)

    def release(self) -> None:
        """Go by it no longer, as at the end of the process."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def latest(self) -> Values | None:
        """What processes will go by that begin when those of now have ended."""
        return _read(self._proposal) or _read(self._choice)

    def propose(self, values: Values) -> None:
        """Keep what was measured, in place of an earlier proposal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".proposal.{os.getpid()}"
        unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self._proposal)

    @contextmanager
    def measuring(self) -> Iterator[bool]:
        """Whether nobody else measures meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder / "measuring", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(lock)

    @property
    def _choice(self) -> Path:
        return self.folder / "choice.json"

    @property
    def _proposal(self) -> Path:
        return self.folder / "proposal.json"


def _read(path: Path) -> Values | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
