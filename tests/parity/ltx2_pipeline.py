"""diffusers' whole LTX-2 pipeline around a small random model, and our sampler on the same clip."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.guidance import GuidanceScales
from omniforcing_model.sampling.whole_clip import Guidance, ode_trajectory
from tests.parity.ltx2_codec_models import audio_vae, video_vae
from tests.parity.ltx2_reference import drawn, drawn_config, twins

STRIDE, FRAMES_PER_LATENT, FPS, AUDIO_PER_S = 32, 8, 24.0, 25
CAPTION_WIDTH, STATES, TOKENS = 16, 3, 8
AUDIO_CHANNELS, AUDIO_BINS = 2, 4


class Settings(NamedTuple):
    """What a clip is sampled with. For the pipeline, 0 in the audio stream means the video's."""

    scales: PerStream[GuidanceScales]
    stg_layers: tuple[int, ...] | None = None

    def as_arguments(self) -> dict[str, Any]:
        """As the pipeline takes them."""
        names = ("guidance_scale", "stg_scale", "modality_scale", "guidance_rescale")
        video, audio = (dict(zip(names, scales, strict=True)) for scales in self.scales)
        return {
            **video,
            **{f"audio_{name}": value for name, value in audio.items()},
            "spatio_temporal_guidance_blocks": list(self.stg_layers or ()) or None,
        }


class PipelineCase:
    """A drawn model in the pipeline and in ours, prompts, and a clip's shape.

    `dtype` is what both transformers and the connectors compute in; latents are float32.
    """

    def __init__(
        self, profile: str, seed: int, batch: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        config = drawn_config(profile, self.generator)
        audio = config.audio.model_copy(update={"latent_channels": AUDIO_CHANNELS * AUDIO_BINS})
        if not config.modulated_text:
            config = config.model_copy(update={"text_width": CAPTION_WIDTH})
        self.config = config.model_copy(update={"audio": audio})
        self.ours, self.reference = twins(self.config, self.generator)
        self.batch = batch
        self.seed = seed
        self.latents = drawn(2, 4, self.generator)
        self.grid = (drawn(1, 3, self.generator), drawn(1, 3, self.generator))
        self.prompt, self.negative = (self._prompt().to(dtype) for _ in range(2))
        self.pipeline = self._pipeline()
        for module in (self.ours, self.reference, self.pipeline.connectors):
            module.to(dtype)
        if not self.config.modulated_text:
            _drop_self_attention_where_asked(self.reference)

    @property
    def frames(self) -> int:
        """Of the clip."""
        return FRAMES_PER_LATENT * (self.latents - 1) + 1

    @property
    def video_tokens(self) -> int:
        """Of the clip."""
        return self.latents * self.grid[0] * self.grid[1]

    @property
    def weak_layer(self) -> int:
        """A layer for spatio-temporal guidance."""
        return self.config.layers // 2

    def theirs(self, settings: Settings, **changed: Any) -> PerStream[Tensor]:
        """The pipeline's clip as our latents."""
        mask = torch.ones(self.batch, TOKENS, dtype=torch.long)
        video, audio = self.pipeline(
            prompt_embeds=self.prompt,
            negative_prompt_embeds=self.negative,
            prompt_attention_mask=mask,
            negative_prompt_attention_mask=mask,
            height=self.grid[0] * STRIDE,
            width=self.grid[1] * STRIDE,
            num_frames=self.frames,
            frame_rate=FPS,
            generator=torch.Generator().manual_seed(self.seed),
            use_cross_timestep=self.config.modulated_text,
            max_sequence_length=TOKENS,
            output_type="latent",
            return_dict=False,
            **settings.as_arguments(),
            **changed,
        )
        pictures, sound = self.pipeline.vae, self.pipeline.audio_vae
        shape = (1, -1, 1, 1, 1)
        video = (video - pictures.latents_mean.view(shape)) / pictures.latents_std.view(shape)
        packed = (audio.transpose(1, 2).flatten(2) - sound.latents_mean) / sound.latents_std
        return PerStream(video.transpose(1, 2), packed)

    def mine(self, settings: Settings, sigmas: list[float]) -> PerStream[Tensor]:
        """Our clip from the same noise and the same connectors' output."""
        with torch.no_grad():
            text, negative = (self._read(prompt) for prompt in (self.prompt, self.negative))
            guidance = Guidance(negative, settings.scales, settings.stg_layers)
            return ode_trajectory(self.ours, text, self.noise(), sigmas, guidance)[-1]

    def noise(self) -> PerStream[Tensor]:
        """What the pipeline draws: video first, then audio."""
        dice = torch.Generator().manual_seed(self.seed)
        channels = self.config.video.latent_channels
        video = torch.randn(self.batch, channels, self.latents, *self.grid, generator=dice)
        length = round(self.frames / FPS * AUDIO_PER_S)
        audio = torch.randn(self.batch, AUDIO_CHANNELS, length, AUDIO_BINS, generator=dice)
        return PerStream(video.transpose(1, 2), audio.transpose(1, 2).flatten(2))

    def _read(self, prompt: Tensor) -> Any:
        mask = torch.ones(self.batch, TOKENS, dtype=torch.long)
        video, audio, _ = self.pipeline.connectors(prompt, mask, padding_side="left")
        return self.ours.read_text(PerStream(video, audio))

    def _prompt(self) -> Tensor:
        shape = (self.batch, TOKENS, CAPTION_WIDTH * STATES)
        return torch.randn(shape, generator=self.generator)

    def _pipeline(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler, LTX2Pipeline

        pipeline = LTX2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            vae=video_vae(latent_channels=self.config.video.latent_channels),
            audio_vae=audio_vae(),
            text_encoder=None,
            tokenizer=None,
            connectors=self._connectors(),
            transformer=self.reference,
            vocoder=None,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _connectors(self) -> Any:
        from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

        torch.manual_seed(self.seed)
        config: dict[str, Any] = {
            "caption_channels": CAPTION_WIDTH,
            "text_proj_in_factor": STATES,
            "connector_rope_base_seq_len": 32,
            "rope_type": "split",
        }
        modern = self.config.modulated_text
        for stream in ("video", "audio"):
            width = getattr(self.config, stream).width if modern else CAPTION_WIDTH
            config |= {
                f"{stream}_connector_num_attention_heads": 1,
                f"{stream}_connector_attention_head_dim": width,
                f"{stream}_connector_num_layers": 1,
                f"{stream}_connector_num_learnable_registers": 4,
            }
            if modern:
                config |= {f"{stream}_hidden_dim": width, f"{stream}_gated_attn": True}
        if modern:
            config |= {"per_modality_projections": True, "proj_bias": True}
        return LTX2TextConnectors(**config).eval()


SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}


def _drop_self_attention_where_asked(reference: Any) -> None:
    """Spatio-temporal guidance as LTX-2.0's authors have it; diffusers passes over it there."""
    skipped_blocks: set[int] = set()

    def before(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        skipped_blocks.clear()
        skipped_blocks.update(arguments.get("spatio_temporal_guidance_blocks") or ())

    reference.register_forward_pre_hook(before, with_kwargs=True)
    for index, block in enumerate(reference.transformer_blocks):
        for attention in (block.attn1, block.audio_attn1):
            attention.register_forward_hook(
                lambda _, __, out, own=index: out * 0 if own in skipped_blocks else out
            )
