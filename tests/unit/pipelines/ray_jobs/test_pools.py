"""How work is cut for actors, and how errors of ours come through Ray Data."""

import numpy as np
import pytest

from infra.claims import LaterPoolResources, PoolResources
from infra.errors import StoreError
from infra.presets import load_preset
from pipelines.preprocessing.pieces import progress_of, rows_per_call, task_pieces
from pipelines.preprocessing.preprocess import GraphStage, clips_per_part
from pipelines.preprocessing.row_tables import ROWS_PER_PART, RowPlan
from pipelines.ray_jobs.pools import claim_of, map_through_pools, pools_of, worker_class
from pipelines.ray_jobs.settings import ray_data_settings

SETTINGS = load_preset("tiny").preprocessing


class Worker:
    """Takes note of how many rows a call gets."""

    def __call__(self, batch):
        rows = len(batch["id"])
        ends = np.full(rows, "ok", object)
        return {"outcome": ends, "rows": np.ones(rows, int), "call": np.full(rows, rows)}


class Doubling:
    def __call__(self, batch):
        return {**batch, "call": 2 * batch["call"]}


class Told:
    def __call__(self, batch):
        ends = np.array([f"calls of {call}" for call in batch["call"]], object)
        return {**batch, "outcome": ends}


class LockedOut:
    def __call__(self, batch):
        raise StoreError("expected credentials that may read s3://bucket, got none; set them")


def stage(actor, **claim):
    kind = LaterPoolResources if "with_previous" in claim else PoolResources
    resources = kind(**{"replicas": 2, "cpus": 0.5, "gpus": 0} | claim)
    return GraphStage(actor, {}, resources, rows_at_a_time=2)


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
    given = [(64, 8), (50, 8), (2, 8), (7, 8), (13, 8), (64, 1), (3, 100)]
    assert [rows_per_call(*each) for each in given] == [8, 5, 2, 7, 1, 1, 3]


def test_a_part_of_the_log_tells_of_few_clips_of_a_small_run_and_of_many_of_a_large_one():
    assert [clips_per_part(clips) for clips in (1, 7, 80, 10**6)] == [1, 1, 10, 256]


def test_stages_of_one_pool_work_in_turn_under_their_names_and_say_what_each_row_took():
    pool = [stage(Worker), stage(Doubling, with_previous=True)]
    worker = worker_class(pool)
    assert worker.__name__ == "Worker_Doubling"
    members = [(each.actor, each.arguments) for each in pool]
    calls = list(worker(members, rows_at_a_time=2)({"id": np.arange(5)}))
    assert [list(call["call"]) for call in calls] == [[4, 4], [4, 4], [2]]
    assert all((call["seconds_of_Worker"] > 0).all() for call in calls)
    assert all((call["seconds_of_Doubling"] > 0).all() for call in calls)


def test_a_stage_with_the_previous_one_adds_its_models_and_no_pool():
    stages = [
        stage(Worker, cpus=1, gpus=0.25, with_previous=True, replicas=3),
        stage(Doubling, cpus=0.5, gpus=0.5, memory_gib=4, with_previous=True),
        stage(Worker, cpus=2),
    ]
    first, second = pools_of(stages)
    assert [each.actor for each in first] == [Worker, Doubling]
    claim = claim_of(first)
    assert (claim.cpus, claim.gpus, claim.memory_gib, claim.replicas) == (1, 0.75, 4, 3)
    assert claim_of(second).cpus == 2


@pytest.mark.ray
def test_counts_and_seconds_reach_the_driver_and_calls_are_as_small_as_asked(ray_local):
    import ray.data

    stages = [stage(Worker), stage(Doubling, with_previous=True), stage(Told, replicas=1)]
    with ray_data_settings():
        news = list(progress_of(map_through_pools(ray.data.range(40), stages, 40)))
    assert sum(each.outcomes["calls of 4"] for each in news) == 40
    assert {name for each in news for name in each.stage_seconds} >= {"Worker", "Doubling"}
    assert sum(each.stage_seconds["Worker"] for each in news) > 0


@pytest.mark.ray
def test_an_error_of_ours_in_an_actor_is_the_same_error_in_the_driver(ray_local):
    import ray.data

    with ray_data_settings(), pytest.raises(StoreError) as caught:
        list(progress_of(map_through_pools(ray.data.range(4), [stage(LockedOut)], 4)))
    assert str(caught.value).startswith("expected credentials that may read s3://bucket")
    assert "Traceback" not in str(caught.value)
