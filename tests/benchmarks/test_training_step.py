"""A step of training beside a plain loop of the same maths, on the shape of `small`, on a CPU.

Processor time, in turn: other work on the machine changes the clock's more. Layers and clips are
fewer than a run's: what an update costs beside its passes then weighs more than it does there.
Where it goes: gradients are copied into the buckets of a reduction, from there into one piece, and
updated weights back into the model; stage III makes each block's last pass again.
"""

import statistics
import time
from pathlib import Path

import pytest

from actors.training.distillation_worker import DistillationWorker, StageWork
from infra.presets import load_preset
from omniforcing_model.flop_count import block_flops, text_flops
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from pipelines.benchmarks.training.random_batches import RandomBatches
from pipelines.planning.training_costs import passes_of
from tests.worlds.plain_training import PlainLoop
from tests.worlds.training import write_model

pytestmark = [pytest.mark.quiet, pytest.mark.timeout(3600)]
LAYERS, CLIPS, MICRO_BATCH = 2, 8, 4
STEPS = 4  # samples leave their chain after each of its steps once
MOST = 1.10


def small_for(stage):
    """Steps in which every role has its turn, of two micro-batches."""
    optimiser = {
        "batch": CLIPS,
        "micro_batch": MICRO_BATCH,
        "steps": 1 + STEPS,
        "recomputes": "false",
    }
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


def operations_again(config):
    """Of a stream's passes that the plain loop, which keeps the graphs of all blocks, makes once:
    each block's last one, those that commit, and the text that each of them reads."""
    model, text = config.model, text_flops(config.model, config.codec.text_tokens)
    grid = latent_grid(config.data.height, config.data.width, model.spatial_stride)
    count = BlockLayout(model.layout).blocks_for_seconds(config.data.seconds)
    blocks = [
        block_flops(model, index, grid, config.codec.text_tokens).total for index in range(count)
    ]
    of_text = (3 * (count - 1) + 1) * text
    return MICRO_BATCH * (sum(blocks) + sum(blocks[:-1]) + of_text)


@pytest.mark.parametrize("stage", ["teacher", "stage_1", "stage_2"])
def test_a_step_takes_a_tenth_more_than_a_plain_loops_at_most(tmp_path, stage):
    assert ratio_of(stage, tmp_path) <= MOST


def test_stage_iii_takes_a_tenth_more_than_its_operations_at_most(tmp_path):
    config = small_for("stage_3")
    ours = sum(passes_of(config, "stage_3", role).operations for role in ("critic", "generator"))
    operations = ours / (ours - operations_again(config))
    assert operations < 1.5
    assert ratio_of("stage_3", tmp_path) <= MOST * operations
