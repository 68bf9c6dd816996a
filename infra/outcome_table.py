"""What became of every input row of a preprocessing run: one line each in `outcomes.parquet`.

A row ends as `ok` (it is in a shard), `filtered` (a gate refused it: it would be refused again) or
`quarantined` (it could not be worked on; tried again by the next run that has something to do).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from infra.object_store import ObjectStore
from omniforcing_model.config import FrozenConfig

OUTCOMES = "outcomes.parquet"
OK: Final = "ok"
FILTERED: Final = "filtered"
QUARANTINED: Final = "quarantined"
OutcomeKind = Literal["ok", "filtered", "quarantined"]


class Outcome(NamedTuple):
    """One input row and its end; `reason` and `error` are empty for `ok`."""

    clip_uri: str
    clip_bytes: int
    clip_modified_ns: int
    clip_digest: str
    row_id: str
    caption_raw: str
    caption: str
    rewritten: bool
    outcome: OutcomeKind
    reason: str
    error: str
    attempts: int


SCHEMA = pa.schema(
    [
        pa.field(name, {int: pa.int64(), bool: pa.bool_()}.get(kind, pa.string()))
        for name, kind in Outcome.__annotations__.items()
    ]
)


class OutcomeCounts(FrozenConfig):
    """Rows by outcome; `rows` is the sum of all others."""

    rows: int = Field(ge=0)
    ok: int = Field(ge=0)
    filtered: dict[str, int]
    quarantined: dict[str, int]


def count_outcomes(outcomes: Iterable[Outcome]) -> OutcomeCounts:
    """Count rows by outcome and reason."""
    counted = Counter((row.outcome, row.reason) for row in outcomes)
    reasons = {
        kind: {reason: n for (k, reason), n in sorted(counted.items()) if k == kind}
        for kind in (FILTERED, QUARANTINED)
    }
    return OutcomeCounts(
        rows=counted.total(),
        ok=sum(n for (kind, _), n in counted.items() if kind == OK),
        filtered=reasons[FILTERED],
        quarantined=reasons[QUARANTINED],
    )


def write_outcomes(store: ObjectStore, outcomes: Iterable[Outcome]) -> str:
    """Write the table, sorted by clip, in place of an older one; returns its `sha256:...`."""
    rows = [row._asdict() for row in sorted(outcomes)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink)
    content = sink.getvalue().to_pybytes()
    store.write(OUTCOMES, content)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def read_outcomes(store: ObjectStore) -> list[Outcome]:
    """The outcomes that a run left; none if the table is absent, damaged or of another schema.

    They only save work, so a table that cannot be used is as good as none.
    """
    if not store.has(OUTCOMES):
        return []
    try:
        table = pq.read_table(pa.BufferReader(store.read(OUTCOMES)))
    except (OSError, pa.ArrowException):
        return []
    if table.schema.names != SCHEMA.names:
        return []
    return [Outcome(**row) for row in table.to_pylist()]
