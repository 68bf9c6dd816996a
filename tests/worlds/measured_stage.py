"""A stage on some ranks, with the most memory that each of them held."""

import threading
from contextlib import contextmanager
from pathlib import Path

from infra.config import RunConfig
from infra.presets import load_preset
from tests.worlds.live_bytes import LiveBytes
from tests.worlds.ranks import run_in_ranks
from tests.worlds.training import SMALL, write_clips, write_model, write_trajectories

KIB = 1024
LOOKS_EVERY_S = 0.01
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
    write = write_trajectories if stage == "stage_2" else write_clips
    data = write(config, folder / "data")
    write_model(config, folder / "model")
    ranks = config.cluster.distillation_worker.replicas
    values = config.model_dump(mode="json")
    given = {"stage": stage, "data": data, "values": values, "memory": memory}
    return run_in_ranks(peaks_of_a_stage, ranks, folder, given, timeout_s)


def peaks_of_a_stage(folder, stage, data, values, memory):
    """One of the ranks."""
    from actors.training.deepspeed_engines import deepspeed
    from actors.training.distillation_worker import DistillationWorker, StageWork

    deepspeed()  # imports it
    folder, config = Path(folder), RunConfig.model_validate(values)
    starts = dict.fromkeys(("generator", "critic", "teacher"), str(folder / "model"))
    work = StageWork(stage, config, str(folder / "run"), data, starts, ())
    peaks = {}
    with LiveBytes() if memory == "alive" else resident() as seen:
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
    seen.peak = seen.live
    yield
    peaks[name] = seen.peak


class Resident:
    """`live`: resident bytes of this process that no file holds, less those at first; `peak`: the
    most there were when it was looked at."""

    def __init__(self):
        self._first, self.peak = _resident(), 0

    @property
    def live(self):
        return _resident() - self._first

    def look(self):
        self.peak = max(self.peak, self.live)


@contextmanager
def resident():
    """Look at it again and again."""
    seen, ended = Resident(), threading.Event()

    def look():
        while not ended.wait(LOOKS_EVERY_S):
            seen.look()

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def _resident():
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * KIB
