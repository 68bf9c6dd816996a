"""Where an actor computes: on a GPU that is its own, or not on any."""

import pytest
import torch

from actors.latents.codec_loading import own_device


class Asked:
    """An actor on a machine with a GPU, which this one may not be."""

    def device(self):
        torch.cuda.is_available = lambda: True
        return own_device()


def test_a_process_of_its_own_takes_the_gpu_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device() == "cpu"


@pytest.mark.ray
def test_an_actor_without_a_claim_leaves_the_gpu_to_others(ray_local):
    import ray

    actor = ray.remote(Asked).options(num_cpus=0.1).remote()
    assert ray.get(actor.device.remote()) == "cpu"
    ray.kill(actor)
