"""A replica's side of a pair: it reports in, and opens the exchange with its partner."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import DistStoreError

from infra.config import ServeConfig
from omniforcing_model.errors import ExchangeError, OmniForcingError
from omniforcing_model.transformer.exchange import DistributedExchange, failure_reason
from serve.pairs.pair_registry import Address, Assignment

LOG = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = "lo"
MEETING_POLL = timedelta(seconds=1)


def is_loopback(host: str) -> bool:
    """Whether a server at `host` is reachable from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Rendezvous:
    """Point-to-point connections between two replicas, one partnership after the other.

    The video side listens. With `host` on the loopback interface nothing listens anywhere else.
    """

    def __init__(self, host: str, listens: bool, timeout_s: float) -> None:
        """`host` is this replica's address for its partner."""
        self._timeout = timedelta(seconds=timeout_s)
        self._store: TCPStore | None = None
        self.address: Address | None = None
        if is_loopback(host):
            os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK_INTERFACE  # gloo takes it from nowhere else
        if listens:
            # Left alone, the store would listen on every interface.
            server = socket.socket()
            server.bind((host, 0))
            server.listen()
            self.address = Address(host, server.getsockname()[1])
            self._store = TCPStore(
                *self.address,
                is_master=True,
                wait_for_workers=False,
                timeout=self._timeout,
                master_listen_fd=server.detach(),
            )

    def join(self, place: Assignment, holds: Callable[[], bool]) -> DistributedExchange | None:
        """Open the exchange of `place`; None if `holds` says meanwhile that it is another's.

        ExchangeError if the partner does not come.
        """
        self.leave()
        try:
            # What a late half of an older epoch writes is under another name.
            store = PrefixStore(f"epoch-{place.epoch}", self._store or self._reach(place))
            if not self._meet(store, place.rank, holds):
                return None
            dist.init_process_group(
                "gloo",
                store=store,
                rank=place.rank,
                world_size=2,
                timeout=self._timeout,
            )
        except RuntimeError as error:
            self.leave()
            raise ExchangeError(
                f"expected a partner for epoch {place.epoch}, got: {failure_reason(error)};"
                " it is tried again"
            ) from error
        return DistributedExchange(None, peers=1 - place.rank)

    def leave(self) -> None:
        """Close the exchange, if one is open."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _meet(self, store: PrefixStore, rank: int, holds: Callable[[], bool]) -> bool:
        """Wait until both halves are here; False as soon as the place does not hold any more.

        A partner may die on its way. Gloo would wait for it, while another one waits for us.
        """
        store.set(f"here-{rank}", "1")
        deadline = time.monotonic() + self._timeout.total_seconds()
        while True:
            try:
                store.wait([f"here-{1 - rank}"], MEETING_POLL)
            except DistStoreError:
                if not holds():
                    return False
                if time.monotonic() > deadline:
                    raise
            else:
                return True

    def _reach(self, place: Assignment) -> TCPStore:
        if place.rendezvous is None:
            raise RuntimeError("the video replica has no address")
        return TCPStore(*place.rendezvous, is_master=False, timeout=self._timeout)


class PairingLoop:
    """A thread that reports in and calls `join` whenever the place of the replica changes."""

    def __init__(
        self,
        beat: Callable[[int | None], Assignment | None],
        join: Callable[[Assignment], bool],
        name: str,
        serve: ServeConfig,
    ) -> None:
        """Start.

        Args:
            beat: reports the joined epoch to the registry, returns the place in a pair.
            join: opens the exchange of a place; False if it is another's by now, ExchangeError if
                the partner does not come.
            name: of the replica, for the log.
            serve: how often it reports, and how many joins in a row may fail: now and then one
                does, because the partner went away meanwhile.
        """
        self._beat = beat
        self._join = join
        self._name = name
        self._serve = serve
        self._stopped = threading.Event()
        self._failures = 0
        self._over: int | None = None
        self.epoch: int | None = None
        self._thread = threading.Thread(target=self._run, name="pairing", daemon=True)
        self._thread.start()

    def forget(self, epoch: int) -> None:
        """The exchange of `epoch` is closed, and is not opened again.

        Until the registry has heard so it still names that place, whose other half may be dead.
        """
        self._over = epoch
        if self.epoch == epoch:
            self.epoch = None

    def stop(self) -> None:
        """End the thread; returns at once."""
        self._stopped.set()

    @property
    def problem(self) -> str | None:
        """Why this replica cannot be paired any more, None while it can."""
        if not self._thread.is_alive():
            return "the pairing thread has ended"
        if self._failures > self._serve.failed_joins:
            return f"joining a pair failed {self._failures} times in a row"
        return None

    def _run(self) -> None:
        while not self._stopped.wait(self._serve.pairing_interval_s):
            try:
                place = self._beat(self.epoch)
                if place is not None and place.epoch not in (self.epoch, self._over):
                    self.epoch = None
                    if self._join(place):
                        self.epoch = place.epoch
                        self._failures = 0
                        self._beat(self.epoch)
            except OmniForcingError as error:
                self._failures += 1
                LOG.warning("%s could not join: %s", self._name, error)
            except Exception:
                # The registry restarts like any replica; only its absence ends here.
                LOG.exception("%s could not report in", self._name)
