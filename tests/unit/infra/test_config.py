"""What a configuration says in other words than those it was given in."""

import pytest
from pydantic import ValidationError

from infra.claims import ActorClaim
from infra.config import ClusterConfig
from infra.presets import load_preset


def test_a_claim_reaches_ray_in_its_own_names_and_in_bytes() -> None:
    claim = ActorClaim(cpus=2, gpus=0.5, memory_gib=1.5)
    assert claim.ray_options == {"num_cpus": 2, "num_gpus": 0.5, "memory": 3 * 2**29}
    assert claim.ray_bundle == {"CPU": 2, "GPU": 0.5, "memory": 3 * 2**29}


def test_memory_that_is_not_claimed_is_not_named_to_ray() -> None:
    assert ActorClaim(cpus=1, gpus=0).ray_options == {"num_cpus": 1, "num_gpus": 0}


@pytest.mark.parametrize(
    "knob",
    [
        "gateway.replicas",
        "gateway.min_replicas",
        "video_stream.replicas",
        "teacher_sampler.min_replicas",
        "distillation_worker.with_previous",
        "clip_surveyor.with_previous",
        "clip_decoder.with_previous",
    ],
)
def test_no_actor_has_a_knob_that_it_does_not_read(knob: str) -> None:
    actor, name = knob.split(".")
    cluster = load_preset("tiny").cluster.model_dump()
    cluster[actor][name] = 1
    with pytest.raises(ValidationError, match=rf"{actor}\.{name}\n  Extra inputs"):
        ClusterConfig.model_validate(cluster)
