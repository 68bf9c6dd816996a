"""What the endpoint counts for Prometheus, as it happens."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from serve.sessions.protocol import ENDED, StreamState

CONTENT_TYPE = CONTENT_TYPE_LATEST
BLOCK_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.0, 5.0)
FIRST_CHUNK_BUCKETS_S = (0.1, 0.25, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Counts of one gateway since it started, in a registry of their own."""

    def __init__(self, open_streams: Callable[[], float]) -> None:
        """`open_streams` says how many are open whenever Prometheus asks."""
        self._registry = CollectorRegistry()
        Gauge(
            "omniforcing_open_streams", "Streams accepted and not over.", registry=self._registry
        ).set_function(open_streams)
        self._pairs_ready = Gauge(
            "omniforcing_pairs_ready", "Pairs that can stream.", registry=self._registry
        )
        self._blocks = Counter(
            "omniforcing_blocks", "Blocks computed and encoded.", registry=self._registry
        )
        self._block_s = Histogram(
            "omniforcing_block_seconds",
            "Seconds to compute a block of one second.",
            buckets=BLOCK_BUCKETS_S,
            registry=self._registry,
        )
        self._first_chunk_s = Histogram(
            "omniforcing_first_chunk_seconds",
            "Seconds from an accepted request to its first second of media.",
            buckets=FIRST_CHUNK_BUCKETS_S,
            registry=self._registry,
        )
        self._moves = Counter(
            "omniforcing_stream_moves",
            "Times that a stream lost its pair and went on with another.",
            registry=self._registry,
        )
        self._ended = Counter(
            "omniforcing_streams_ended",
            "Streams by how they ended.",
            ["state"],
            registry=self._registry,
        )
        for state in sorted(ENDED):
            self._ended.labels(state)  # a rate needs the 0 before the first one
        self._refused = Counter(
            "omniforcing_streams_refused",
            "Requests for a stream that were refused, by HTTP status.",
            ["status"],
            registry=self._registry,
        )

    def count_block(self, block_s: float) -> None:
        """A block took `block_s` to compute, and is encoded."""
        self._blocks.inc()
        self._block_s.observe(block_s)

    def count_first_chunk(self, first_chunk_s: float) -> None:
        """The first second of a stream was ready `first_chunk_s` after its request."""
        self._first_chunk_s.observe(first_chunk_s)

    def count_ended(self, state: StreamState) -> None:
        """A stream ended like this."""
        self._ended.labels(state).inc()

    def count_move(self) -> None:
        """A stream lost its pair, and goes on with another."""
        self._moves.inc()

    def count_refused(self, status_code: int) -> None:
        """A request for a stream was not accepted."""
        self._refused.labels(str(status_code)).inc()

    def text(self, pairs_ready: int) -> bytes:
        """Everything in Prometheus' text format; `pairs_ready` is how many there are now."""
        self._pairs_ready.set(pairs_ready)
        return generate_latest(self._registry)
