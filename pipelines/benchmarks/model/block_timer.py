"""A program of its own: streams a preset with random weights, a block for every line it reads.

`against.py` runs it on the sources of this checkout and of another one, older or newer: so it names
little, and nothing of its own folder. Arguments: preset, dtype, threads. Each block answers with
seconds by the clock and of the processor.
"""

import json
import sys
import time

import torch

from infra.presets import load_preset
from omniforcing_model.transformer.projections import pack_for_streaming
from pipelines.benchmarks.machine.device import DtypeName
from pipelines.benchmarks.stand_ins.subject import random_subject


@torch.inference_mode()
def time_blocks(preset: str, dtype: DtypeName, threads: int) -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(threads)
    subject = random_subject(load_preset(preset), dtype, torch.device("cpu"))
    pack_for_streaming(subject.model)
    rollout = subject.rollout()
    _say("ready")
    for _ in sys.stdin:
        began, worked = time.perf_counter(), time.process_time()
        rollout.next_block()
        rollout.commit()
        _say([time.perf_counter() - began, time.process_time() - worked])


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    time_blocks(sys.argv[1], sys.argv[2], int(sys.argv[3]))  # type: ignore[arg-type]
