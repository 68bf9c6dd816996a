"""Stages as pools of actors: whose claims add up, and what calls get."""

import numpy as np
import pytest

from infra.claims import LaterPoolResources, PoolResources
from infra.errors import MachineError
from pipelines.preprocessing.preprocess import GraphStage
from pipelines.ray_jobs.pools import claim_of, map_through_pools, pools_of, worker_class
from pipelines.ray_jobs.settings import ray_data_settings


class Worker:
    """Takes note of how many rows a call gets."""

    def __call__(self, batch):
        rows = len(batch["id"])
        outcomes = np.full(rows, "ok", object)
        return {"outcome": outcomes, "rows": np.ones(rows, int), "call": np.full(rows, rows)}


class Doubling:
    def __call__(self, batch):
        return {**batch, "call": 2 * batch["call"]}


class CallSizes:
    def __call__(self, batch):
        outcomes = np.array([f"calls of {call}" for call in batch["call"]], object)
        return {**batch, "outcome": outcomes}


def stage(actor, **claim):
    kind = LaterPoolResources if "with_previous" in claim else PoolResources
    resources = kind(**{"replicas": 2, "cpus": 0.5, "gpus": 0} | claim)
    return GraphStage(actor, {}, resources, rows_at_a_time=2)


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
def test_rows_stream_through_pools_in_calls_as_small_as_configured(ray_local):
    import ray.data

    stages = [stage(Worker), stage(Doubling, with_previous=True), stage(CallSizes, replicas=1)]
    with ray_data_settings():
        rows = map_through_pools(ray.data.range(40), stages, 40).take_all()
    assert [row["outcome"] for row in rows] == ["calls of 4"] * 40
    assert all(row["seconds_of_Worker"] > 0 for row in rows)
    assert all(row["seconds_of_CallSizes"] > 0 for row in rows)


class Broken:
    def __init__(self):
        raise OSError(24, "Too many open files", "weights.safetensors")


def test_a_stage_that_cannot_be_built_fails_in_its_first_call_and_not_before():
    worker = worker_class([stage(Broken)])([(Broken, {})], rows_at_a_time=None)
    with pytest.raises(MachineError, match=r"one more file to open at weights\.safetensors"):
        next(worker({"id": np.arange(2)}))
