"""Rollouts that read a nearer copy of the weights train the same student, bit for bit."""

import hashlib
import os
from pathlib import Path

import pytest
from torch import distributed as dist

from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import small_run, write_clips, write_model

RANKS = 4
KINDS = ("sharded", "node", "whole")
STEPS = 2  # rollouts of the second read what the first has updated


def train(folder, precision):
    """What each of two nodes' two ranks does: the student's digest, and what a copy holds."""
    from actors.training.distillation_worker import DistillationWorker, StageWork

    os.environ["NODE_RANK"] = str(dist.get_rank() // 2)
    starts = dict.fromkeys(("generator", "critic", "teacher"), str(folder / "model"))
    found = {}
    for kind in KINDS:
        config = small_run(
            f"stages.stage_3.rollout_weights={kind}",
            f"stages.stage_3.optimiser.precision={precision}",
            "stages.stage_3.critic_ratio=1",
            steps=STEPS,
            zero_stage=3,
            batch=4,
            micro_batch=1,
        )
        run = folder / kind
        work = StageWork("stage_3", config, str(run), str(folder / "clips"), starts, ())
        worker = DistillationWorker(work)
        worker.run()
        copy = worker._engines["generator"]._copy
        held = 0 if copy is None else sum(map(held_of, copy._network.parameters()))
        worker.close()
        weights = Path(run) / "stages" / "stage_3" / "model" / "model.safetensors"
        found[kind] = [hashlib.sha256(weights.read_bytes()).hexdigest(), held]
    return found


def held_of(parameter):
    return parameter.ds_tensor.numel() if hasattr(parameter, "ds_tensor") else parameter.numel()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rollouts_that_read_a_copy_change_no_bit(tmp_path, precision):
    config = small_run()
    write_clips(config, tmp_path / "clips")
    write_model(config, tmp_path / "model")
    ranks = run_in_ranks(train, RANKS, tmp_path, {"precision": precision}, 380)
    whole = ranks[0]["whole"][1]
    for found in ranks:
        digests = {kind: digest for kind, (digest, _) in found.items()}
        assert digests == dict.fromkeys(KINDS, digests["sharded"])
        assert found["sharded"][1] == 0
        assert 0.5 * whole <= found["node"][1] <= 0.6 * whole
