"""Every tensor of the transformer: its name in our files, in LTX-2's and in diffusers', its shape.

One table for LTX-2.0 and 2.3. Diffusers renamed some parts of LTX-2's names, part by part between
the dots; our names say which stream holds the tensor, so that one half can be read alone. A
cross-modal attention is LTX-2's `audio_to_video_attn`, where video queries audio: its queries and
output are the video stream's, its keys and values the audio stream's.
"""

from collections.abc import Iterator
from typing import NamedTuple

from omniforcing_model.config import ModelConfig
from omniforcing_model.per_stream import STREAMS

SINKS = "audio.sinks.tokens"
RELEASED_SINKS = "audio_sink_tokens"
TIME_CHANNELS = 256  # of the sinusoid of sigma

# LTX-2's own part of a name, by diffusers' part.
LTX_PARTS = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
    "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
    "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}


class TensorName(NamedTuple):
    """One tensor: our name, diffusers' (None for one of ours alone), LTX-2's, and its shape."""

    ours: str
    diffusers: str | None
    ltx: str
    shape: tuple[int, ...]


_Entry = tuple[str, str, tuple[int, ...]]  # our name, diffusers', shape


class _Sizes(NamedTuple):
    """What the names and shapes of one stream depend on."""

    stream: str
    prefix: str  # diffusers', for parts that both streams have
    latent_channels: int
    width: int
    heads: int
    cross_width: int  # of the cross-modal attentions, of either direction
    cross_heads: int
    text_width: int
    gated: bool
    modulated_text: bool

    @property
    def rows(self) -> int:
        """Rows of a layer's table: shift, scale and gate of each modulated part."""
        return 9 if self.modulated_text else 6


def tensor_table(config: ModelConfig) -> tuple[TensorName, ...]:
    """All tensors of a model of `config`, both streams."""
    table = []
    for stream in STREAMS:
        own = config.video if stream == "video" else config.audio
        sizes = _Sizes(
            stream,
            "audio_" if stream == "audio" else "",
            own.latent_channels,
            own.width,
            own.heads,
            config.audio.width,
            config.audio.heads,
            config.text_width,
            config.gated_attention,
            config.modulated_text,
        )
        entries = [*_outside_layers(sizes)]
        for index in range(config.layers):
            entries += [
                (f"layers.{index}.{ours}", f"transformer_blocks.{index}.{theirs}", shape)
                for ours, theirs, shape in _layer(sizes)
            ]
        table += [
            TensorName(f"{stream}.{ours}", theirs, _ltx_name(theirs), shape)
            for ours, theirs, shape in entries
        ]
    sinks = (config.layout.sinks, config.audio.width)
    return (*table, TensorName(SINKS, None, RELEASED_SINKS, sinks))


def _ltx_name(diffusers: str) -> str:
    return ".".join(LTX_PARTS.get(part, part) for part in diffusers.split("."))


def _outside_layers(sizes: _Sizes) -> Iterator[_Entry]:
    prefix, width = sizes.prefix, sizes.width
    gate = "audio_v2a_gate" if sizes.stream == "audio" else "video_a2v_gate"
    yield from _linear("proj_in", f"{prefix}proj_in", width, sizes.latent_channels)
    yield from _linear("proj_out", f"{prefix}proj_out", sizes.latent_channels, width)
    yield "table_out", f"{prefix}scale_shift_table", (2, width)
    yield from _embedding("time_embed", f"{prefix}time_embed", width, sizes.rows)
    scale_shift = f"av_cross_attn_{sizes.stream}_scale_shift"
    yield from _embedding("cross_embed", scale_shift, width, 4)
    yield from _embedding("gate_embed", f"av_cross_attn_{gate}", width, 1)
    if sizes.modulated_text:
        yield from _embedding("prompt_embed", f"{prefix}prompt_adaln", width, 2)
    else:
        caption = f"{prefix}caption_projection"
        yield from _linear("caption_in", f"{caption}.linear_1", width, sizes.text_width)
        yield from _linear("caption_out", f"{caption}.linear_2", width, width)


def _layer(sizes: _Sizes) -> Iterator[_Entry]:
    """One layer; names begin after its number."""
    prefix, width, cross = sizes.prefix, sizes.width, sizes.cross_width
    query_side, key_side = "audio_to_video_attn", "video_to_audio_attn"
    if sizes.stream == "audio":
        query_side, key_side = key_side, query_side
    heads = sizes.heads if sizes.gated else 0
    cross_heads = sizes.cross_heads if sizes.gated else 0
    yield from _queries("self_attention", f"{prefix}attn1", width, width, heads)
    yield from _keys("self_attention", f"{prefix}attn1", width, width)
    yield from _queries("text_queries", f"{prefix}attn2", width, width, heads)
    yield from _keys("text_keys", f"{prefix}attn2", width, width)
    yield from _queries("cross_queries", query_side, width, cross, cross_heads)
    yield from _keys("cross_keys", key_side, width, cross)
    yield from _linear("feed_forward.up", f"{prefix}ff.net.0.proj", 4 * width, width)
    yield from _linear("feed_forward.down", f"{prefix}ff.net.2", width, 4 * width)
    yield "table", f"{prefix}scale_shift_table", (sizes.rows, width)
    yield "cross_table", f"{sizes.stream}_a2v_cross_attn_scale_shift_table", (5, width)
    if sizes.modulated_text:
        yield "text_table", f"{prefix}prompt_scale_shift_table", (2, width)


def _queries(ours: str, theirs: str, width: int, inner: int, gates: int) -> Iterator[_Entry]:
    """The query side: `width` of its stream, `inner` of all heads, a gate for each head."""
    yield from _linear(f"{ours}.to_q", f"{theirs}.to_q", inner, width)
    yield f"{ours}.norm_q.weight", f"{theirs}.norm_q.weight", (inner,)
    yield from _linear(f"{ours}.to_out", f"{theirs}.to_out.0", width, inner)
    if gates:
        yield from _linear(f"{ours}.to_gate", f"{theirs}.to_gate_logits", gates, width)


def _keys(ours: str, theirs: str, width: int, inner: int) -> Iterator[_Entry]:
    """The key side."""
    yield from _linear(f"{ours}.to_k", f"{theirs}.to_k", inner, width)
    yield from _linear(f"{ours}.to_v", f"{theirs}.to_v", inner, width)
    yield f"{ours}.norm_k.weight", f"{theirs}.norm_k.weight", (inner,)


def _embedding(ours: str, theirs: str, width: int, rows: int) -> Iterator[_Entry]:
    """Sigma to `rows` rows of modulation."""
    embedder = f"{theirs}.emb.timestep_embedder"
    yield from _linear(f"{ours}.linear_1", f"{embedder}.linear_1", width, TIME_CHANNELS)
    yield from _linear(f"{ours}.linear_2", f"{embedder}.linear_2", width, width)
    yield from _linear(f"{ours}.linear", f"{theirs}.linear", rows * width, width)


def _linear(ours: str, theirs: str, out_width: int, in_width: int) -> Iterator[_Entry]:
    yield f"{ours}.weight", f"{theirs}.weight", (out_width, in_width)
    yield f"{ours}.bias", f"{theirs}.bias", (out_width,)
