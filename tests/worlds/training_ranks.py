"""Stages I and III trained by ranks with every ZeRO stage; their models stay below a folder."""

from pathlib import Path

from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import small_run, write_clips, write_model

STAGES = ("stage_1", "stage_3")
ZERO_STAGES = (1, 2, 3)
STEPS = 2


def train_in_ranks(folder, ranks, timeout_s):
    """Train all; RuntimeError with what they said if one of them fails or hangs."""
    config = small_run()
    write_clips(config, folder / "clips")
    write_model(config, folder / "model")
    run_in_ranks(train, ranks, folder, {}, timeout_s)


def model_of(folder, stage, zero_stage):
    """The file of weights that a stage has left."""
    return run_folder(folder, zero_stage) / "stages" / stage / "model" / "model.safetensors"


def run_folder(folder, zero_stage):
    """Where the stages of one ZeRO stage lie."""
    return Path(folder) / f"zero_{zero_stage}"


def train(folder):
    """What each rank does."""
    from actors.training.distillation_worker import DistillationWorker, StageWork

    starts = dict.fromkeys(("generator", "critic", "teacher"), str(folder / "model"))
    for zero_stage in ZERO_STAGES:
        for stage in STAGES:
            # Two micro-batches per rank, and four steps that samples may leave after.
            config = small_run(
                "sampling.student_sigmas=[1.0, 0.8, 0.6, 0.3]",
                steps=STEPS,
                zero_stage=zero_stage,
                batch=4,
                micro_batch=1,
            )
            run = str(run_folder(folder, zero_stage))
            work = StageWork(stage, config, run, str(folder / "clips"), starts, ())
            worker = DistillationWorker(work)
            worker.run()
            worker.close()


def stop_one_rank(folder):
    """Train a teacher whose second rank alone is asked to stop after three steps; steps made."""
    from torch import distributed as dist

    from actors.training.distillation_worker import DistillationWorker, StageWork

    clips = folder / "clips"
    if dist.get_rank() == 0:
        write_clips(small_run(), clips)
    dist.barrier()
    config = small_run("stages.teacher.optimiser.checkpoint_every=100", steps=6)
    worker = DistillationWorker(
        StageWork("teacher", config, str(folder / "run"), str(clips), {}, ())
    )
    worker.run(is_asked_to_stop=lambda: dist.get_rank() == 1 and worker.steps_done == 3)
    worker.close()
    return worker.steps_done
