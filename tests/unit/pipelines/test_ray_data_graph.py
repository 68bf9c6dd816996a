"""How work is cut for actors, and how errors of ours come through Ray Data."""

import numpy as np
import pytest

from infra.config import ActorResources
from infra.errors import StoreError
from pipelines.preprocess import Stage, clips_per_part
from pipelines.ray_data_graph import news_of, pool, rows_per_piece, timed, whole_run

CLAIM = ActorResources(replicas=2, cpus=0.5, gpus=0)


class Worker:
    """Takes note of how many rows a call gets."""

    def __call__(self, batch):
        rows = len(batch["id"])
        ends = np.full(rows, "ok", object)
        return {"outcome": ends, "rows": np.ones(rows, int), "call": np.full(rows, rows)}


class LockedOut:
    def __call__(self, batch):
        raise StoreError("expected credentials that may read s3://bucket, got none; set them")


@pytest.mark.parametrize(
    ("rows", "actors", "piece"), [(1, 1, 1), (8, 2, 1), (100, 2, 7), (10**6, 8, 64)]
)
def test_pieces_keep_all_actors_busy_and_are_never_large(rows, actors, piece):
    assert rows_per_piece(rows, actors) == piece


def test_a_part_of_the_log_tells_of_few_clips_of_a_small_run_and_of_many_of_a_large_one():
    assert [clips_per_part(clips) for clips in (1, 7, 80, 10**6)] == [1, 1, 10, 256]


def test_a_timed_class_keeps_its_name_and_says_what_each_row_took():
    actor = timed(Worker)
    assert actor.__name__ == "Worker"
    made = actor()({"id": np.arange(3)})
    assert (made["seconds_of_Worker"] > 0).all()
    assert len(set(made["seconds_of_Worker"])) == 1


@pytest.mark.ray
def test_counts_and_seconds_reach_the_driver_and_calls_are_as_small_as_asked(ray_local):
    import ray.data

    stage = Stage(Worker, {}, CLAIM, rows_at_a_time=2)
    with whole_run():
        news = list(news_of(pool(ray.data.range(40), stage, 40)))
    assert sum(each.ends["ok"] for each in news) == 40
    assert sum(each.stage_seconds["Worker"] for each in news) > 0
    with whole_run():
        rows = pool(ray.data.range(40), stage, 40).take_all()
    assert {row["call"] for row in rows} == {2}


@pytest.mark.ray
def test_an_error_of_ours_in_an_actor_is_the_same_error_in_the_driver(ray_local):
    import ray.data

    with whole_run(), pytest.raises(StoreError) as caught:
        list(news_of(pool(ray.data.range(4), Stage(LockedOut, {}, CLAIM), 4)))
    assert str(caught.value).startswith("expected credentials that may read s3://bucket")
    assert "Traceback" not in str(caught.value)
