import pyarrow as pa
import pyarrow.parquet as pq

from infra.dataset.outcome_table import (
    OUTCOMES,
    SCHEMA,
    count_outcomes,
    read_outcomes,
    write_outcomes,
)
from infra.storage.object_store import ObjectStore

OK = {"clip_uri": "a.mp4", "start_s": 0.0, "outcome": "ok", "reason": "", "error": ""}
LATER = OK | {"start_s": 5.0}
SILENT = OK | {"clip_uri": "b.mp4", "outcome": "filtered", "reason": "silence"}
BROKEN = OK | {"clip_uri": "c.mp4", "outcome": "quarantined", "reason": "unreadable"}


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def test_counts_add_up():
    counts = count_outcomes(table(OK, SILENT, BROKEN, SILENT | {"clip_uri": "d.mp4"}))
    assert counts.model_dump() == {
        "rows": 4,
        "ok": 1,
        "filtered": {"silence": 2},
        "quarantined": {"unreadable": 1},
    }


def test_outcomes_come_back_sorted_by_clip_and_time(tmp_path):
    store = ObjectStore(tmp_path)
    digest = write_outcomes(store, table(BROKEN, LATER, OK, SILENT))
    assert read_outcomes(store).to_pylist() == table(OK, LATER, SILENT, BROKEN).to_pylist()
    assert write_outcomes(store, table(LATER, SILENT, OK, BROKEN)) == digest
    assert digest == store.digest(OUTCOMES)


def test_a_table_that_cannot_be_used_is_as_good_as_none(tmp_path):
    store = ObjectStore(tmp_path)
    assert read_outcomes(store).num_rows == 0
    store.write(OUTCOMES, b"not parquet")
    assert read_outcomes(store).num_rows == 0
    sink = pa.BufferOutputStream()
    pq.write_table(table(OK).select(["clip_uri", "outcome"]), sink)
    store.write(OUTCOMES, sink.getvalue().to_pybytes())
    assert read_outcomes(store).equals(SCHEMA.empty_table())


def test_reasons_of_one_kind_are_counted_apart_by_name_and_no_rows_are_no_counts():
    mute = SILENT | {"reason": "no_audio"}
    counts = count_outcomes(table(SILENT, mute, SILENT, OK, LATER))
    assert (counts.rows, counts.ok, counts.quarantined) == (5, 2, {})
    assert list(counts.filtered.items()) == [("no_audio", 1), ("silence", 2)]
    assert count_outcomes(table()).model_dump() == {
        "rows": 0,
        "ok": 0,
        "filtered": {},
        "quarantined": {},
    }
