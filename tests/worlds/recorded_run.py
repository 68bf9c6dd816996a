"""What one seed gives, down to the bit: losses, weights, streams and datasets of a small run.

`python -m tests.worlds.recorded_run` prints them as JSON. Bits depend on the instructions that a
CPU has: whoever compares them sets PLAIN_INSTRUCTIONS in the environment, which every x86-64 has.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

# Of PyTorch, oneDNN, MKL and OpenBLAS.
PLAIN_INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "OMP_NUM_THREADS": "1",
}
STAGES = ("teacher", "stage_1", "stage_2", "stage_3")
STEPS = 4
SHAPES = {
    "paper": (),
    "released": ("model.layout.first_block={video: 4, audio: 26}", "model.layout.sinks=0"),
    "interleaved": ("model.rotary.pairs=interleaved", "model.rotary.phases=float32"),
    "2.3": ("model.architecture=ltx-2.3", "model.text_width=128"),
    "bfloat16": ("sampling.student_precision=bfloat16",),
}
PROMPT = "a red disc flashes twice a second with a high beep"


def digest(*parts):
    """Of bytes, one after the other."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:32]


def digest_of_tensors(tensors):
    import torch

    return digest(*(t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors))


def training(folder):
    """Losses of every step, and the digest of the model that each stage leaves."""
    from actors.training.distillation_worker import DistillationWorker, StageWork
    from infra.runs.provenance import ArtifactRef, read_model_manifest
    from tests.worlds.training import small_run, write_clips, write_model, write_trajectories

    config = small_run(steps=STEPS)
    clips = write_clips(config, folder / "clips")
    trajectories = write_trajectories(config, folder / "trajectories")
    model = write_model(config, folder / "model")
    inputs = (
        ArtifactRef(role="clips", kind="dataset", name="clips", digest="sha256:1", uri="/clips"),
    )
    for stage in STAGES:
        roles = () if stage == "teacher" else ("generator", "critic", "teacher")
        data = trajectories if stage == "stage_2" else clips
        starts = dict.fromkeys(roles, model)
        losses = []
        worker = DistillationWorker(
            StageWork(stage, config, str(folder / "run"), data, starts, inputs)
        )
        worker.run(lambda _, figures, losses=losses: losses.append(figures))
        worker.close()
        manifest = read_model_manifest(folder / "run" / "stages" / stage / "model")
        yield stage, {"losses": losses, "model": manifest.digest, "recipe": manifest.recipe_digest}


def streams(folder):
    """Latents, pictures and sound of a stream, in several shapes of model."""
    import torch

    from actors.streaming.stream_worker import StreamWorker
    from omniforcing_model.per_stream import PerStream
    from tests.worlds.streaming import write_streaming_world

    for name, overrides in SHAPES.items():
        place = folder / name.replace(" ", "_")
        place.mkdir(parents=True)
        model, config = write_streaming_world(place, *overrides)
        worker = StreamWorker(model, config)
        generator = torch.Generator().manual_seed(5)
        halves = (config.model.video, config.model.audio)
        own_width = config.model.architecture == "ltx-2.3"
        text = PerStream(
            *(
                torch.randn(
                    config.codec.text_tokens,
                    half.width if own_width else config.model.text_width,
                    generator=generator,
                ).numpy()
                for half in halves
            )
        )
        count = worker.open("one", text, 7, 5)
        blocks = [worker.next_block("one") for _ in range(count)]
        worker.close("one")
        yield (
            name,
            {
                "frames": digest(*(block.frames.tobytes() for block in blocks)),
                "waveform": digest(*(block.waveform.tobytes() for block in blocks)),
            },
        )


def student(folder):
    """The shipped student's stream as generate writes it, decoded again."""
    from infra.media.files import read_frames, read_waveform
    from infra.presets import load_preset
    from infra.terminal.progress import SilentProgress
    from pipelines.generate import Request, generate_here

    config = load_preset("tiny")
    file = folder / "stream.mp4"
    generate_here(config, config.models.stage_3, Request(PROMPT, 3, 7), file, SilentProgress())
    frames = read_frames(file, 24, (64, 64), 73)
    sound = read_waveform(file, 16_000, 1, 3.0)
    yield "student", {"frames": digest(frames.tobytes()), "waveform": digest(sound.tobytes())}


def dataset(folder):
    """Digest and outcomes of a dataset of rendered clips, without AAC and H.264 in between."""
    from infra.presets import load_preset
    from infra.terminal.progress import SilentProgress
    from pipelines.preprocessing.preprocess import preprocess
    from tests.worlds.beacon_clips import write_beacon_clips

    clips = write_beacon_clips(folder / "clips", 4, seconds=2)
    config = load_preset(
        "tiny", ["data.seconds=1", "data.split.kind=fixed", "cluster.local_cpus=6"]
    )
    summary = preprocess(config, str(clips), str(folder / "dataset"), SilentProgress())
    yield "dataset", {"digest": summary.digest, "ok": summary.ok, "rows": summary.rows}


PARTS = {"training": training, "streams": streams, "student": student, "dataset": dataset}


def record(parts):
    """Everything of some parts, by part and name."""
    with tempfile.TemporaryDirectory(prefix="recorded-run-") as folder:
        return {part: dict(PARTS[part](Path(folder) / part)) for part in parts}


if __name__ == "__main__":
    print(json.dumps(record(sys.argv[1:] or PARTS), indent=1))  # noqa: T201  # its result
