"""The gates of a dataset for people: each limit, what it is for, and how many rows it refused."""

from collections.abc import Mapping

from actors.clips.gates import GATES
from infra.config import GatesConfig
from infra.dataset.outcome_table import OutcomeCounts
from infra.records import Record


class GateLine(Record):
    """A setting of `data.gates` and its value, what it means, the reason that it gives, and how
    many rows were refused for that reason, maybe by another setting too."""

    setting: str
    limit: float
    meaning: str
    reason: str
    refused: int


def gate_lines(gates: Mapping[str, float], counts: OutcomeCounts) -> tuple[GateLine, ...]:
    """A line for each of `gates`, limits by setting, in the order in which they are applied."""
    reasons = {gate.setting: gate.reason for gate in GATES}
    return tuple(
        GateLine(
            setting=setting,
            limit=gates[setting],
            meaning=GatesConfig.model_fields[setting].description or "",
            reason=reason,
            refused=counts.filtered.get(reason, 0),
        )
        for setting, reason in reasons.items()
        if setting in gates and setting in GatesConfig.model_fields
    )
