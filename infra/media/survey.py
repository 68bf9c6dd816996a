"""First looks at an untrusted file, in one child: headers, packets, the shape of its pictures."""

from pathlib import Path

from infra.errors import MediaError
from infra.media.clip_child import facts, job_records
from infra.media.files import ClipProbe, parse_probe
from infra.media.limits import ChildLimits
from infra.media.packets import PacketTimes, parse_packets

_FACTS_BYTES = 1 << 20
_MEMORY_MB = 2048


class ClipSurvey:
    """Facts about a clip that are found out one after the other, each when it is asked for.

    Every method raises MediaError for a clip that cannot be read; the last one DamagedClipError if
    what its headers say makes no sense.
    """

    def __init__(self, path: Path, timeout_s: float = 30.0) -> None:
        self._path = path
        limits = ChildLimits(timeout_s, _FACTS_BYTES, _MEMORY_MB)
        self._records = job_records("survey", path, limits, steps=3)

    def header(self) -> ClipProbe:
        """What the headers say; a length that they do not say is that of the packets."""
        return parse_probe(self._next(), self._path)

    def packets(self) -> PacketTimes:
        """What all packets say; after `header`."""
        return parse_packets(self._next(), self._path)

    def aspect(self) -> float:
        """Width over height of the first picture as a viewer sees it; after `packets`."""
        aspect = float(facts(self._next(), self._path)["aspect"])
        for _ in self._records:  # none is left, but how it ended is told last
            raise MediaError(f"expected the end of facts about {self._path}, got more of them")
        return aspect

    def _next(self) -> bytes:
        for _, content in self._records:
            return content
        raise MediaError(f"expected more facts about {self._path}, got none; check the file")
