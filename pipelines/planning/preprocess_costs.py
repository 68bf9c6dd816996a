"""What preprocessing would cost, before anything is rented: work from shapes, times rates.

Operations of LTX-2's video encoder and of Gemma 3 12B are counted from their layers; how fast
machines are, what they cost and what clips are like are assumptions of the configuration, and stand
in the result.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from infra.claims import ActorResources
from infra.config import RunConfig
from omniforcing_model.latent_clock import VIDEO_FPS, frames_for_seconds
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout

GIGA = 1e9
HOUR_S = 3600
FLOAT_BYTES = 4


class EncoderStage(NamedTuple):
    """Residual blocks of LTX-2's video encoder, and how the next stage is smaller (t, h, w)."""

    channels: int
    blocks: int
    stride: tuple[int, int, int]


# As in diffusers' AutoencoderKLLTX2Video with LTX-2's configuration.
ENCODER = (
    EncoderStage(128, 4, (1, 2, 2)),
    EncoderStage(256, 6, (2, 1, 1)),
    EncoderStage(512, 6, (2, 2, 2)),
    EncoderStage(1024, 2, (2, 2, 2)),
    EncoderStage(2048, 2, (1, 1, 1)),
)
PATCH, PATCH_CHANNELS, KERNEL = 4, 48, 27
# Gemma 3 12B without its embeddings: operations per token are twice that.
GEMMA_PARAMETERS = 11.8e9
GEMMA_BYTES = 24e9


class StageCost(NamedTuple):
    """One stage over all clips: seconds of one actor per unit, hours of cores and GPUs."""

    stage: str
    unit: str
    seconds_per_unit: float
    core_hours: float
    gpu_hours: float
    wall_hours: float


def preprocess_costs(config: RunConfig) -> dict[str, Any]:
    """Hours, money and bytes of `planning.clips` clips, by stage, with the assumptions."""
    assumed = config.planning
    stages = list(_stages(config))
    cores, gpus = (sum(getattr(s, n) for s in stages) for n in ("core_hours", "gpu_hours"))
    slowest = max(stages, key=lambda stage: stage.wall_hours)
    windows = assumed.clips * assumed.windows_per_clip
    return {
        "clips": assumed.clips,
        "windows": windows,
        "stages": [stage._asdict() for stage in stages],
        "bottleneck": slowest.stage,
        "wall_hours": slowest.wall_hours,
        "core_hours": cores,
        "gpu_hours": gpus,
        "money": cores * assumed.core_hour + gpus * assumed.gpu_hour,
        "gigabytes": windows * row_bytes(config) / GIGA,
        "assumptions": assumed.model_dump(exclude={"clips", "link_gb_s"}),
    }


def row_bytes(config: RunConfig) -> int:
    """Bytes of one row's tensors: float32 latents, and text features of both streams."""
    model, data = config.model, config.data
    latents = BlockLayout(model.layout)
    counts = latents.latents(latents.blocks_for_seconds(data.seconds))
    height, width = latent_grid(data.height, data.width, model.spatial_stride)
    video = counts.video * model.video.latent_channels * height * width
    audio = counts.audio * model.audio.latent_channels
    text = 2 * config.codec.text_tokens * model.text_width
    return FLOAT_BYTES * (video + audio + text)


def encoder_flops(frames: int, height: int, width: int) -> float:
    """Operations of LTX-2's video encoder on one window."""
    time, rows, columns = frames, height // PATCH, width // PATCH
    flops = _convolution(PATCH_CHANNELS, ENCODER[0].channels) * time * rows * columns
    for stage, after in zip(ENCODER, (*ENCODER[1:], None), strict=True):
        places = time * rows * columns
        flops += 2 * stage.blocks * _convolution(stage.channels, stage.channels) * places
        if after is not None:
            reduced = after.channels // prod(stage.stride)
            flops += _convolution(stage.channels, reduced) * places
        time = -(-time // stage.stride[0])
        rows, columns = rows // stage.stride[1], columns // stage.stride[2]
    return flops


def _convolution(channels: int, outputs: int) -> float:
    return 2.0 * KERNEL * channels * outputs


def _stages(config: RunConfig) -> Iterator[StageCost]:
    data, cluster, assumed = config.data, config.cluster, config.planning
    windows = assumed.clips * assumed.windows_per_clip
    flops_per_s = assumed.operations_per_second
    frames = frames_for_seconds(data.seconds)
    survey_s = assumed.source_seconds * assumed.survey_s_per_second
    decode_s = frames / VIDEO_FPS * assumed.decode_s_per_second
    encode_s = encoder_flops(frames, data.height, data.width) / flops_per_s
    text_s = 2 * GEMMA_PARAMETERS * config.codec.text_tokens / flops_per_s
    if config.codec.kind == "ltx2":
        text_s = max(text_s, assumed.gemma_pass_s)
    # Tokens of a batch come one after the other, each after a look at all weights.
    step_s = GEMMA_BYTES / assumed.bytes_per_second
    if data.rewriter.kind == "gemma":
        step_s = max(step_s, assumed.gemma_pass_s)
    rewrite_s = data.rewriter.max_new_tokens * step_s / data.rewriter.batch
    if data.rewriter.kind == "grammar":
        rewrite_s = 0.0
    yield _cost("clip_surveyor", "clip", survey_s, assumed.clips, cluster.clip_surveyor)
    yield _cost("clip_decoder", "window", decode_s, windows, cluster.clip_decoder)
    yield _cost("latent_encoder", "window", encode_s, windows, cluster.latent_encoder)
    yield _cost("caption_rewriter", "caption", rewrite_s, assumed.clips, cluster.caption_rewriter)
    yield _cost("text_encoder", "caption", text_s, assumed.clips, cluster.text_encoder)


def _cost(stage: str, unit: str, seconds: float, units: float, claim: ActorResources) -> StageCost:
    hours = seconds * units / HOUR_S
    return StageCost(
        stage, unit, seconds, hours * claim.cpus, hours * claim.gpus, hours / claim.replicas
    )
