"""Who holds an output: the record of one attempt, and whether its process lives."""

import getpass
import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime

from infra.processes import is_process, start_ticks
from infra.records import Record

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESS_NAMESPACE = Path("/proc/self/ns/pid")


class Holder(Record):
    """One attempt at an output, and the process that makes it.

    `attempt`: its number, which only grows. `token`: tells records apart that say the same.
    `work`: what it does, as "preprocess". `machine`: where `pid` means a process; "" if that cannot
    be told. `start_ticks`: when that process began, since the machine did. `lease_s`: without being
    renewed for so long it counts as dead. `released`: it has ended, whatever came of it.
    """

    attempt: int
    token: str
    work: str
    user: str
    host: str
    machine: str
    pid: int
    start_ticks: int
    since: AwareDatetime
    lease_s: float
    released: bool = False

    def __str__(self) -> str:
        """Who it is and since when."""
        since = f"{self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.work} by {self.user} on {self.host} (process {self.pid}) since {since}"

    def has_died(self) -> bool:
        """Whether its process is known to have ended; on another machine nobody knows."""
        here = bool(self.machine) and self.machine == _this_machine()
        return here and not is_process(self.pid, self.start_ticks)


def this_process(work: str, attempt: int, lease_s: float) -> Holder:
    """The record of an attempt of this process."""
    return Holder(
        attempt=attempt,
        token=uuid.uuid4().hex,
        work=work,
        user=_user(),
        host=socket.gethostname(),
        machine=_this_machine(),
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()) or 0,
        since=datetime.now(UTC),
        lease_s=lease_s,
    )


def _this_machine() -> str:
    """This run of this machine, and the container whose processes this one sees."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {_PROCESS_NAMESPACE.readlink()}"
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return str(os.getuid())
