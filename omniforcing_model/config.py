"""Shapes and rules of the model, as frozen values; imports no torch.

A checkpoint carries its ModelConfig beside its tensors: the rotary type, the frequency precision
and the gate multiplier are part of the function that the weights compute.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from omniforcing_model.latent_clock import AUDIO_LATENTS_PER_SECOND, VIDEO_LATENTS_PER_SECOND

# Rows of families.py.
FamilyName = Literal["ltx-2", "omniforcing-5s", "taomate", "echo-wm-flash", "lightx2v-ar"]


class FrozenConfig(BaseModel):
    """Base of every configuration value: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamConfig(FrozenConfig):
    """One modality's transformer: latent channels in and out, heads and their width."""

    latent_channels: int = Field(gt=0)
    heads: int = Field(gt=0)
    head_dim: int = Field(gt=0, multiple_of=2)

    @property
    def width(self) -> int:
        """Width of the residual stream: heads * head_dim."""
        return self.heads * self.head_dim


class RotaryConfig(FrozenConfig):
    """The rotary profile: which pairs turn, how exact the frequencies are, and the horizons.

    LTX-2's header says split and float64; the released OmniForcing weights need interleaved and
    float32. A model run with the other profile computes noise without an error.

    `phases` is the precision in which positions are multiplied by frequencies. LTX-2's authors do
    it in float32, which a loaded checkpoint keeps; float64 keeps streams of hours as exact as short
    ones.
    """

    pairs: Literal["split", "interleaved"]
    frequencies: Literal["float64", "float32"]
    phases: Literal["float64", "float32"] = "float64"
    theta: float = Field(gt=1)
    max_seconds: float = Field(gt=0)
    max_height: float = Field(gt=0)
    max_width: float = Field(gt=0)


class BlockLatents(FrozenConfig):
    """Latents of a macro-block: frames of video, and of audio without the sinks."""

    video: int = Field(gt=0)
    audio: int = Field(gt=0)


class LayoutConfig(FrozenConfig):
    """How the streams are cut into macro-blocks, which of them see each other, and at which sigma.

    LAYOUTS (families.py) has the numbers of the paper and of the releases. The paper's: a global
    prefix of 1 video and 1 audio latent (plus the sinks), then 3 and 25 per second.
    """

    first_block: BlockLatents
    following_block: BlockLatents = Field(
        default=BlockLatents(video=3, audio=25), description="whole seconds of both streams"
    )
    sinks: int = Field(ge=0, description="learned audio tokens in front of the first block")
    pinned_blocks: int = Field(
        default=1, ge=1, description="from the first one on, which stay visible for ever"
    )
    window_blocks: int = Field(
        gt=0,
        description="blocks of history that stay visible; training rolls it only where clips are"
        " more than a block longer",
    )
    anchor: Literal["follows", "stays"] = Field(
        default="follows",
        description="where pinned blocks are seen once the window rolls: right before it, or at"
        " their own time",
    )
    cross_view: Literal["history", "own"] = Field(
        default="history",
        description="what the cross-modal attentions see: all that the others do, or their own"
        " block alone",
    )
    cross_sigma: Literal["own", "one"] = Field(
        default="own",
        description="of the cross-modal modulation: the block's, or 1 in every pass",
    )
    prompt_sigma: Literal["own", "one"] = Field(
        default="own", description="of the prompt's modulation (LTX-2.3), likewise"
    )

    @property
    def full_from(self) -> int:
        """Index of the first block that sees a whole window of blocks that are not pinned."""
        return self.pinned_blocks + self.window_blocks

    @field_validator("following_block")
    @classmethod
    def _same_time(cls, block: BlockLatents) -> BlockLatents:
        """Both streams of a block end at the same whole second, or they would drift apart."""
        seconds = max(1, round(block.video / VIDEO_LATENTS_PER_SECOND))
        fit = (VIDEO_LATENTS_PER_SECOND * seconds, AUDIO_LATENTS_PER_SECOND * seconds)
        if (block.video, block.audio) != fit:
            raise ValueError(
                f"expected whole seconds of {VIDEO_LATENTS_PER_SECOND} video and"
                f" {AUDIO_LATENTS_PER_SECOND} audio latents, got {block.video} and {block.audio};"
                f" write {fit[0]} and {fit[1]}"
            )
        return block


class ModelConfig(FrozenConfig):
    """The dual-stream transformer.

    LTX-2.3 differs from 2.0 in this: every attention has a gate per head, the text attention is
    modulated by sigma on both of its sides, and text features come in each stream's own width.
    """

    architecture: Literal["ltx-2.0", "ltx-2.3"] = "ltx-2.0"
    layers: int = Field(gt=0)
    video: StreamConfig
    audio: StreamConfig
    text_width: int = Field(gt=0, description="of the text features; 2.3: the video stream's width")
    spatial_stride: int = Field(gt=0, description="pixels per latent, both directions")
    timestep_scale: float = Field(gt=0)
    gate_timestep_scale: float = Field(gt=0, description="LTX-2: cross timestep multiplier")
    rotary: RotaryConfig
    layout: LayoutConfig
    family: FamilyName | None = Field(
        default=None, description="the release whose weights these are, or null"
    )

    @property
    def gated_attention(self) -> bool:
        """Whether each attention head has a gate."""
        return self.architecture == "ltx-2.3"

    @property
    def modulated_text(self) -> bool:
        """Whether sigma modulates the text attention, its keys and values included."""
        return self.architecture == "ltx-2.3"
