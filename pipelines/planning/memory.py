"""What a run will hold in memory, from its configuration alone: no torch, nothing allocated.

Parameter counts and cache sizes are formulas of what the model builds; tests compare them with the
model itself.
"""

from dataclasses import asdict, dataclass
from typing import Any

from infra.config import RunConfig
from infra.stages import STAGES, TRAINED, OptimiserConfig
from omniforcing_model.config import ModelConfig, StreamConfig
from omniforcing_model.latent_grid import latent_grid
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream

FLOAT_BYTES = 4
# AdamW keeps a mean and a variance of every gradient.
ADAM_STATES = 2
SINUSOID_WIDTH = 256
ADALN_ROWS = (6, 4, 1)
TABLE_ROWS_PER_LAYER = 6 + 5
OUTPUT_TABLE_ROWS = 2


def parameter_counts(config: ModelConfig) -> PerStream[int]:
    """Parameters of each half of the transformer."""
    video = _stream_parameters(config, config.video)
    audio = _stream_parameters(config, config.audio)
    return PerStream(video, audio + config.layout.sinks * config.audio.width)


def _stream_parameters(config: ModelConfig, stream: StreamConfig) -> int:
    width, channels = stream.width, stream.latent_channels
    modulation = sum(
        _linear(SINUSOID_WIDTH, width) + _linear(width, width) + _linear(width, rows * width)
        for rows in ADALN_ROWS
    )
    text = _linear(config.text_width, width) + _linear(width, width)
    projections = _linear(channels, width) + _linear(width, channels) + OUTPUT_TABLE_ROWS * width
    return modulation + text + projections + config.layers * _layer_parameters(config, width)


def _layer_parameters(config: ModelConfig, width: int) -> int:
    cross = config.audio.width
    attentions = sum(_attention(width, inner) for inner in (width, width, cross))
    feed_forward = _linear(width, 4 * width) + _linear(4 * width, width)
    return attentions + feed_forward + TABLE_ROWS_PER_LAYER * width


def _attention(width: int, inner: int) -> int:
    """Query, key, value and output projections, and the two norms."""
    return 3 * _linear(width, inner) + _linear(inner, width) + 2 * inner


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def cache_bytes(config: ModelConfig, grid: tuple[int, int]) -> int:
    """Bytes of the rolling caches of one stream on a latent grid (height, width)."""
    layout, pixels = BlockLayout(config.layout), grid[0] * grid[1]
    per_block = PerStream(layout.following_count.video * pixels, layout.following_count.audio)
    first = PerStream(
        layout.first_count.video * pixels, layout.first_count.audio + config.layout.sinks
    )
    # Pinned blocks that follow the window are kept as they were first rotated, too.
    copies = 1 if config.layout.anchor == "follows" else 0
    values = per_block.map(
        lambda tokens, start: _values_per_channel(layout, start, tokens, copies), first
    )
    # Self attention of each stream at its own width, both cross attentions at the audio's.
    width = config.audio.width
    across = 0 if layout.sees_own_block_alone(across=True) else width
    total: int = values.video * (config.video.width + across) + values.audio * (width + across)
    return config.layers * total * FLOAT_BYTES


def _values_per_channel(layout: BlockLayout, first: int, tokens: int, copies: int) -> int:
    """Keys and values of one pathway, from the tokens of the first block and of later ones."""
    pinned = first + (layout.config.pinned_blocks - 1) * tokens
    return 2 * (pinned + layout.slots * tokens) + copies * pinned


@dataclass(frozen=True)
class RankMemory:
    """Megabytes of one training worker, without activations."""

    parameters_mb: float
    gradients_mb: float
    optimiser_mb: float
    ema_mb: float
    frozen_mb: float

    @property
    def total_mb(self) -> float:
        """All of it."""
        return float(sum(asdict(self).values()))

    def as_dict(self) -> dict[str, float]:
        """Rounded, with the total."""
        return {
            name: round(mb, 1) for name, mb in (asdict(self) | {"total_mb": self.total_mb}).items()
        }


def rank_memory(
    parameters: int, optimiser: OptimiserConfig, trained: int, frozen: int, workers: int
) -> RankMemory:
    """Memory of one of `workers` ranks.

    Args:
        parameters: of one copy of the model.
        trained: roles with an optimiser (generator; critic).
        frozen: roles without one (the teacher).
    """
    model_mb = parameters * FLOAT_BYTES / 1e6

    def share(from_zero_stage: int) -> float:
        return model_mb / workers if optimiser.zero_stage >= from_zero_stage else model_mb

    return RankMemory(
        parameters_mb=trained * share(3),
        gradients_mb=trained * share(2),
        optimiser_mb=trained * ADAM_STATES * share(1),
        ema_mb=share(1),
        frozen_mb=frozen * share(3),
    )


def memory_plan(config: RunConfig) -> dict[str, Any]:
    """Parameters, bytes of a stream's cache, and every training stage's memory per rank."""
    counts = parameter_counts(config.model)
    parameters = sum(counts)
    workers = config.cluster.distillation_worker.replicas
    grid = latent_grid(config.data.height, config.data.width, config.model.spatial_stride)
    settings = {stage: config.stages.trained_stage(stage) for stage in TRAINED}
    return {
        "parameters": {"video": counts.video, "audio": counts.audio, "total": parameters},
        "kv_cache_mb_per_stream": round(cache_bytes(config.model, grid) / 1e6, 2),
        "per_rank": {
            stage: rank_memory(
                parameters, of.optimiser, len(of.roles), len(STAGES[stage].frozen), workers
            ).as_dict()
            for stage, of in settings.items()
        },
    }
