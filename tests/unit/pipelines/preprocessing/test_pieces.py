"""How the rows of a plan are cut for actors, and what a graph reports of them."""

import numpy as np
import pytest

from infra.errors import StoreError
from infra.presets import load_preset
from pipelines.preprocessing.pieces import progress_of, rows_per_call, task_pieces
from pipelines.preprocessing.row_tables import ROWS_PER_PART, RowPlan
from pipelines.ray_jobs.settings import ray_data_settings

SETTINGS = load_preset("tiny").preprocessing


@pytest.mark.parametrize(
    ("rows", "actors", "at_a_time"), [(1, 1, 8), (100, 1, 8), (8, 2, 1), (100, 2, 4), (5000, 3, 8)]
)
def test_pieces_hold_every_row_once_and_get_smaller_until_no_actor_waits(rows, actors, at_a_time):
    parts = tuple(f"part-{n}" for n in range(-(-rows // ROWS_PER_PART)))
    pieces = list(task_pieces(RowPlan(parts, rows), actors, at_a_time, SETTINGS))
    taken = [
        (piece["part"], row)
        for piece in pieces
        for row in range(piece["first"], piece["first"] + piece["rows"])
    ]
    assert taken == [(f"part-{row // ROWS_PER_PART}", row % ROWS_PER_PART) for row in range(rows)]
    sizes = [piece["rows"] for piece in pieces]
    assert max(sizes) <= 64
    if actors > 1:
        assert sizes[-actors:] == [1] * min(actors, len(sizes))
    else:
        assert sizes == {1: [1], 100: [64, 32, 4]}[rows]
    if len(parts) == 1:
        assert sizes == sorted(sizes, reverse=True)
        assert all(size % at_a_time == 0 for size in sizes if size > at_a_time)


def test_more_pieces_an_actor_are_smaller_ones():
    many = load_preset("tiny", ["preprocessing.pieces_per_actor=6"]).preprocessing
    first = [next(task_pieces(RowPlan(("part",), 120), 2, 1, each)) for each in (SETTINGS, many)]
    assert [piece["rows"] for piece in first] == [20, 10]


def test_a_million_rows_are_some_thousand_pieces():
    rows = 1_000_000
    parts = tuple(f"part-{n}" for n in range(-(-rows // ROWS_PER_PART)))
    sizes = [piece["rows"] for piece in task_pieces(RowPlan(parts, rows), 2, 8, SETTINGS)]
    assert sum(sizes) == rows
    assert len(sizes) < 5000


def test_calls_are_as_large_as_they_may_be_and_make_whole_shards():
    calls = [(64, 8), (50, 8), (2, 8), (7, 8), (13, 8), (64, 1), (3, 100)]
    assert [rows_per_call(*each) for each in calls] == [8, 5, 2, 7, 1, 1, 3]


@pytest.mark.parametrize(("rows", "actors", "first"), [(300_000, 2, 73), (200_000, 2, 64)])
def test_pieces_of_a_large_run_are_larger_to_be_4096_at_most(rows, actors, first):
    parts = tuple(f"part-{n}" for n in range(-(-rows // ROWS_PER_PART)))
    assert next(task_pieces(RowPlan(parts, rows), actors, 1, SETTINGS))["rows"] == first


class Reports:
    """What tasks of a graph have written, in the form of a dataset of Ray."""

    def iter_batches(self, **how):
        assert how == {"batch_size": None, "batch_format": "numpy"}
        outcomes = np.array(["ok", "filtered", "ok"], object)
        seconds = np.array([0.5, 0.25, 1.0])
        yield {"outcome": outcomes, "rows": np.array([3, 2, 4]), "seconds_of_Decoder": seconds}
        yield {"outcome": outcomes[:1], "rows": np.array([1]), "other": seconds[:1]}


def test_progress_is_rows_by_outcome_and_seconds_by_stage():
    first, second = progress_of(Reports())
    assert first == ({"ok": 7, "filtered": 2}, {"Decoder": 1.75})
    assert second == ({"ok": 1}, {})


def locked_out(batch):
    raise StoreError("expected credentials that may read s3://bucket, got none; set them")


@pytest.mark.ray
def test_an_error_of_ours_in_a_graph_is_the_same_error_in_the_driver(ray_local):
    import ray.data

    with ray_data_settings(), pytest.raises(StoreError) as caught:
        list(progress_of(ray.data.range(4).map_batches(locked_out)))
    assert str(caught.value).startswith("expected credentials that may read s3://bucket")
    assert "Traceback" not in str(caught.value)
