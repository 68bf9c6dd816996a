"""A stage on some ranks, with the most memory that each of them held."""

import gc
from contextlib import contextmanager, nullcontext
from pathlib import Path

from infra.config import RunConfig
from infra.presets import load_preset
from tests.worlds.live_bytes import LiveBytes
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import SMALL, write_clips, write_model, write_trajectories

KIB = 1024
NO_SIZE = ("model.layers=1", "data.seconds=1")
RESET_PEAK = "5"  # of /proc/PID/clear_refs
# Memory that is freed is given back, so that what is resident follows what is alive.
GIVES_BACK = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
# Six layers that ZeRO 3 cuts, and clips whose activations are as large as a role.
MEASURED = (
    *SMALL,
    "model.layers=6",
    "model.video={latent_channels: 4, heads: 4, head_dim: 32}",
    "model.audio={latent_channels: 3, heads: 4, head_dim: 16}",
    "codec.text_tokens=24",
    "data.seconds=5",
    "data.height=64",
    "data.width=96",
)


def measured_run(stage, ranks, clips, settings, shape=()):
    """A run of two steps of `stage`: `clips` in a rank's micro-batch, and `settings` of its
    optimiser."""
    optimiser = (
        "steps=2",
        "warmup_steps=0",
        "checkpoint_every=2",
        f"batch={ranks * clips}",
        f"micro_batch={clips}",
        *settings,
    )
    overrides = [
        *MEASURED,
        *shape,
        *(f"stages.{stage}.optimiser.{setting}" for setting in optimiser),
        f"cluster.distillation_worker.replicas={ranks}",
    ]
    if stage in ("stage_1", "stage_3"):
        overrides.append(f"stages.{stage}.critic_ratio=2")
    return load_preset("tiny", overrides)


def measure(config, stage, folder, memory, timeout_s=1500):
    """Most bytes of each rank, from construction to publishing: `alive` in PyTorch's allocator, by
    phase and as "peak", or `resident`, less what was so before there was a model, as "peak"."""
    ranks = config.cluster.distillation_worker.replicas
    optimiser = config.stages.trained_stage(stage).optimiser
    again = measured_run(stage, ranks, 1, [f"zero_stage={optimiser.zero_stage}"], NO_SIZE)
    runs = [
        {"values": run.model_dump(mode="json"), **_written(run, stage, folder / name)}
        for name, run in (("first", again), ("measured", config))
    ]
    given = {"stage": stage, "runs": runs, "memory": memory}
    return run_in_ranks(peaks_of_a_stage, ranks, folder, given, timeout_s, GIVES_BACK)


def _written(config, stage, folder):
    """The rows of a run, its start and where it goes."""
    write = write_trajectories if stage == "stage_2" else write_clips
    data = write(config, folder / "data")
    return {
        "data": data,
        "model": write_model(config, folder / "model"),
        "run": str(folder / "run"),
    }


def peaks_of_a_stage(folder, stage, runs, memory):
    """One of the ranks."""
    del folder
    first, measured = runs
    # It imports what libraries import when they are used, a fifth of a gigabyte.
    _peaks(stage, first, nullcontext(Resident()))
    gc.collect()
    return _peaks(stage, measured, LiveBytes() if memory == "alive" else nullcontext(Resident()))


def _peaks(stage, run, memory):
    from actors.training.distillation_worker import DistillationWorker, StageWork

    config = RunConfig.model_validate(run["values"])
    starts = dict.fromkeys(("generator", "critic", "teacher"), run["model"])
    work = StageWork(stage, config, run["run"], run["data"], starts, ())
    peaks = {}
    with memory as seen:
        with peak_of(seen, "construction", peaks):
            worker = DistillationWorker(work)
        # A critic has its turn in both steps, its generator in the second.
        for step in ("first step", "second step"):
            with peak_of(seen, step, peaks):
                worker.step()
        with peak_of(seen, "save", peaks):
            worker.save()
        with peak_of(seen, "publish", peaks):
            worker.publish()
        worker.close()
    return {"peak": max(peaks.values()), **peaks}


@contextmanager
def peak_of(seen, name, peaks):
    """The most of a stretch, into `peaks`."""
    seen.restart()
    yield
    peaks[name] = seen.peak


class Resident:
    """Resident bytes of this process, less those at first: `live` now, `peak` the most there were
    since `restart`, which the kernel keeps."""

    def __init__(self):
        self._first = _of_process("VmRSS")

    @property
    def live(self):
        return _of_process("VmRSS") - self._first

    @property
    def peak(self):
        return _of_process("VmHWM") - self._first

    def restart(self):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)


def _of_process(name):
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * KIB
