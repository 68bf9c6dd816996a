from infra.object_store import ObjectStore
from infra.outcome_table import OUTCOMES, Outcome, count_outcomes, read_outcomes, write_outcomes

OK = Outcome("a.mp4", 9, 1, "sha256:a", "row-a", "red", "a red disc", True, "ok", "", "", 1)
SILENT = OK._replace(clip_uri="b.mp4", outcome="filtered", reason="silence", error="too quiet")
BROKEN = OK._replace(clip_uri="c.mp4", outcome="quarantined", reason="unreadable", attempts=2)


def test_counts_add_up():
    counts = count_outcomes([OK, SILENT, BROKEN, SILENT._replace(clip_uri="d.mp4")])
    assert counts.model_dump() == {
        "rows": 4,
        "ok": 1,
        "filtered": {"silence": 2},
        "quarantined": {"unreadable": 1},
    }


def test_outcomes_come_back_sorted_by_clip(tmp_path):
    store = ObjectStore(tmp_path)
    digest = write_outcomes(store, [BROKEN, OK, SILENT])
    assert read_outcomes(store) == [OK, SILENT, BROKEN]
    assert write_outcomes(store, [SILENT, OK, BROKEN]) == digest == store.digest(OUTCOMES)


def test_a_table_that_cannot_be_used_is_as_good_as_none(tmp_path):
    store = ObjectStore(tmp_path)
    assert read_outcomes(store) == []
    store.write(OUTCOMES, b"not parquet")
    assert read_outcomes(store) == []
