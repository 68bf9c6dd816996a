"""Some ranks that train together, without Ray: a process each, and gloo between them.

`python -m tests.worlds.training_ranks FOLDER RANK RANKS` is one of them. All of them train stages I
and III with every ZeRO stage, and leave the models below FOLDER.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.worlds.training import small_run, write_clips, write_model

STAGES = ("stage_1", "stage_3")
ZERO_STAGES = (1, 2, 3)
STEPS = 2


def train_in_ranks(folder, ranks, timeout_s):
    """Train all; RuntimeError with what they said if one of them fails or hangs."""
    config = small_run()
    write_clips(config, folder / "clips")
    write_model(config, folder / "model")
    command = [sys.executable, "-m", __name__, folder]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=timeout_s)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(text[-3000:] for text in said))


def model_of(folder, stage, zero_stage):
    """The file of weights that a stage has left."""
    return run_folder(folder, zero_stage) / "stages" / stage / "model" / "model.safetensors"


def run_folder(folder, zero_stage):
    """Where the stages of one ZeRO stage lie."""
    return Path(folder) / f"zero_{zero_stage}"


def _train(folder, rank, ranks):
    from torch import distributed as dist

    from actors.training.distillation_worker import DistillationWorker, StageWork

    store = dist.FileStore(str(folder / f"store-{ranks}"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
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


if __name__ == "__main__":
    _train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
