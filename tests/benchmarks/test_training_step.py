"""A step of training beside a plain loop of the same maths, on the shape of `small`, on a CPU.

Processor time, in turn: other work on the machine changes the clock's more. Layers and clips are
fewer than a run's: what an update costs beside its passes then weighs more than it does there.
"""

import statistics
import time
from pathlib import Path

import pytest

from actors.training.distillation_worker import DistillationWorker, StageWork
from infra.presets import load_preset
from pipelines.benchmarks.training.random_batches import RandomBatches
from tests.worlds.plain_training import PlainLoop
from tests.worlds.training import write_model

pytestmark = [pytest.mark.quiet, pytest.mark.timeout(3600)]
LAYERS, CLIPS, STEPS = 2, 2, 5
MOST = 1.10


def small_for(stage):
    """Steps in which every role has its turn, of micro-batches of one clip."""
    optimiser = {"batch": CLIPS, "micro_batch": 1, "steps": 1 + STEPS, "recomputes": "false"}
    changes = [
        f"model.layers={LAYERS}",
        "cluster.distillation_worker.replicas=1",
        *(f"stages.{stage}.optimiser.{key}={value}" for key, value in optimiser.items()),
    ]
    if stage in ("stage_1", "stage_3"):
        changes.append(f"stages.{stage}.critic_ratio=1")
    return load_preset("small", changes)


def ratio_of(stage, folder):
    """Of the processor time of our step to that of the plain loop, by median."""
    config = small_for(stage)
    start = write_model(config, folder / "model")
    batches = RandomBatches(config, stage, "cpu", began=lambda _: None, ended=lambda: None)
    roles = ("generator", "critic", "teacher")
    work = StageWork(stage, config, str(folder), "", dict.fromkeys(roles, start), ())
    ours = DistillationWorker(work, batches=batches)
    plain = PlainLoop(config, stage, batches, Path(start))
    ratios = []
    for step in range(1 + STEPS):
        seconds, other_s = (processor_s(run.step) for run in (ours, plain))
        if step:  # the first one makes what stays
            ratios.append(seconds / other_s)
    ours.close()
    return statistics.median(ratios)


def processor_s(run):
    began = time.process_time()
    run()
    return time.process_time() - began


@pytest.mark.parametrize("stage", ["teacher", "stage_1", "stage_2"])
def test_a_step_takes_a_tenth_more_than_a_plain_loops_at_most(tmp_path, stage):
    assert ratio_of(stage, tmp_path) <= MOST
