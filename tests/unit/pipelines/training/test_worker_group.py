"""How many training workers there are, and what each claims."""

from infra.presets import load_preset
from pipelines.training.worker_group import scaling_of


def test_training_workers_claim_what_the_configuration_says() -> None:
    overrides = [
        "cluster.distillation_worker={replicas: 3, cpus: 2, gpus: 0.5, memory_gib: 4}",
    ]
    scaling = scaling_of(load_preset("tiny", overrides).cluster.distillation_worker)
    assert (scaling.num_workers, scaling.use_gpu) == (3, True)
    assert scaling.resources_per_worker == {"CPU": 2, "GPU": 0.5, "memory": 4 * 2**30}


def test_training_workers_without_a_gpu_run_on_the_cpu() -> None:
    assert not scaling_of(load_preset("tiny").cluster.distillation_worker).use_gpu
