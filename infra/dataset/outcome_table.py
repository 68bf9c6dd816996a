"""What became of every input row of a preprocessing run: one line each in `outcomes.parquet`.

A row is a window of a clip, or a clip that has none. Its outcome is `ok` (it is in the dataset),
`filtered` (a gate refused it: it would be refused again) or `quarantined` (it could not be worked
on; tried again with --redrive).
"""

from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from infra.dataset.columns import OUTCOME_ROW, Column, schema
from infra.errors import MachineError, StoreError
from infra.records import Record
from infra.storage.object_store import ObjectStore

OUTCOMES = "outcomes.parquet"
OK: Final = "ok"
FILTERED: Final = "filtered"
QUARANTINED: Final = "quarantined"
OutcomeKind = Literal["ok", "filtered", "quarantined"]
# Best first.
OUTCOME_KINDS = (OK, FILTERED, QUARANTINED)

SCHEMA = schema(OUTCOME_ROW)


class OutcomeCounts(Record):
    """Rows by outcome; `rows` is the sum of all others."""

    rows: int = Field(ge=0)
    ok: int = Field(ge=0)
    filtered: dict[str, int]
    quarantined: dict[str, int]


def count_outcomes(outcomes: pa.Table) -> OutcomeCounts:
    """Count rows by the columns outcome and reason."""
    groups = (
        outcomes.group_by([Column.OUTCOME, Column.REASON])
        .aggregate([([], "count_all")])
        .to_pylist()
    )
    counted = {
        (group[Column.OUTCOME], group[Column.REASON]): group["count_all"] for group in groups
    }
    reasons = {
        kind: {reason: n for (k, reason), n in sorted(counted.items()) if k == kind}
        for kind in (FILTERED, QUARANTINED)
    }
    return OutcomeCounts(
        rows=outcomes.num_rows,
        ok=sum(n for (kind, _), n in counted.items() if kind == OK),
        filtered=reasons[FILTERED],
        quarantined=reasons[QUARANTINED],
    )


def write_outcomes(store: ObjectStore, outcomes: pa.Table) -> str:
    """Write the table, sorted by clip and time, in place of an older one; its `sha256:...`."""
    sink = pa.BufferOutputStream()
    by = [(Column.CLIP_URI, "ascending"), (Column.START_S, "ascending")]
    pq.write_table(
        outcomes.select(SCHEMA.names).cast(SCHEMA).sort_by(by), sink, write_page_checksum=True
    )
    store.write(OUTCOMES, sink.getvalue().to_pybytes())
    return store.digest(OUTCOMES)


def read_outcomes(store: ObjectStore) -> pa.Table:
    """The outcomes that a run left; no rows if there are none, or they are of another schema."""
    if not store.has(OUTCOMES):
        return SCHEMA.empty_table()
    try:
        table = pq.read_table(
            pa.BufferReader(store.read(OUTCOMES)), page_checksum_verification=True
        )
    except (StoreError, MachineError):
        raise
    except (OSError, pa.ArrowException):
        return SCHEMA.empty_table()
    return table if table.schema.names == SCHEMA.names else SCHEMA.empty_table()
