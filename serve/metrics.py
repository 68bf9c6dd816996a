"""What the endpoint counts, in Prometheus' text format."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.protocol import StreamStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BLOCK_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.0, 5.0)
FIRST_CHUNK_BUCKETS_S = (0.1, 0.25, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0)


@dataclass
class Histogram:
    """Counts of values up to each bound, with their sum."""

    bounds: tuple[float, ...]
    counts: Counter[float] = field(default_factory=Counter)
    total: int = 0
    sum: float = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.total += 1
        self.sum += value
        self.counts.update(bound for bound in self.bounds if value <= bound)

    def lines(self, name: str) -> Iterable[str]:
        """The histogram's samples."""
        for bound in self.bounds:
            yield f'{name}_bucket{{le="{bound:g}"}} {self.counts[bound]}'
        yield f'{name}_bucket{{le="+Inf"}} {self.total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {self.total}"


class Metrics:
    """Counters of one gateway since it started."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()
        self._block = Histogram(BLOCK_BUCKETS_S)
        self._first_chunk = Histogram(FIRST_CHUNK_BUCKETS_S)

    def ended(self, status: StreamStatus) -> None:
        """Count a stream that has ended."""
        self._ended[status.state] += 1
        for block in status.blocks:
            self._block.add(block.block_s)
        if status.first_chunk_s is not None:
            self._first_chunk.add(status.first_chunk_s)

    def refused(self, status_code: int) -> None:
        """Count a request for a stream that was not accepted."""
        self._refused[status_code] += 1

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Everything as text; `gauges` are further (help, value) by name."""
        lines: list[str] = []

        def family(name: str, kind: str, about: str, samples: Iterable[str]) -> None:
            lines.extend((f"# HELP {name} {about}", f"# TYPE {name} {kind}", *samples))

        for name, (about, value) in gauges.items():
            family(name, "gauge", about, [f"{name} {value:g}"])
        name = "omniforcing_streams_ended_total"
        family(name, "counter", "Streams by how they ended.", _labelled(name, "state", self._ended))
        name = "omniforcing_streams_refused_total"
        about = "Requests for a stream that were refused, by HTTP status."
        family(name, "counter", about, _labelled(name, "status", self._refused))
        name = "omniforcing_block_seconds"
        about = "Seconds to compute a block of one second."
        family(name, "histogram", about, self._block.lines(name))
        name = "omniforcing_first_chunk_seconds"
        about = "Seconds from an accepted request to its first second of media."
        family(name, "histogram", about, self._first_chunk.lines(name))
        return "\n".join(lines) + "\n"


def _labelled(name: str, label: str, counts: Counter[Any]) -> list[str]:
    return [f'{name}{{{label}="{key}"}} {value}' for key, value in sorted(counts.items())]
