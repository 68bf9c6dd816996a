"""The same stream with a static cache, plainly: what the rolling engine is measured against.

Cached as OmniForcing's release caches: buffers of the whole clip's length that evict nothing, the
history copied for every attention, queries, keys and values as products of their own, and the
modulation of every frame spread over its tokens and added to each layer's table. The text's keys
and values are made on every pass; the release keeps them and makes only the caption projection
anew, so their time is also measured alone (`text_pass`) for whoever wants to take it off.

It computes on the weights of one of our models, what that model computes while its window has not
rolled. Its products and attentions are PyTorch's own, as the release's are, or in the forms that
ours have, weights packed: then what it is slower by is what cache, fusing and modulation cost, and
not the library.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from infra.errors import ConfigError
from omniforcing_model.config import ModelConfig
from omniforcing_model.kernels.attention import attend
from omniforcing_model.kernels.elementwise import EPS
from omniforcing_model.kernels.operands import split_heads
from omniforcing_model.kernels.packed_weights import can_pack, linear, pack_weight
from omniforcing_model.kernels.rotation import Rotation
from omniforcing_model.macro_block import BlockLayout, MacroBlock
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.transformer.adaln import sinusoid
from omniforcing_model.transformer.attention_view import StreamRotations, rotations_at
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from pipelines.benchmarks.model.few_steps import FewSteps

SCALE_SHIFT = {"audio_to_video": (0, 1), "video_to_audio": (2, 3)}
CROSS_GATE = 4


class _History(NamedTuple):
    """Keys and values of one layer and pathway, (batch, tokens of the clip, heads, head_dim)."""

    keys: Tensor
    values: Tensor

    def extend(self, keys: Tensor, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Write new ones at `start`; returns them after a copy of all before."""
        end = start + keys.shape[1]
        self.keys[:, start:end] = keys
        self.values[:, start:end] = values
        if start == 0:
            return keys, values
        past_keys, past_values = self.keys[:, :start].clone(), self.values[:, :start].clone()
        return torch.cat([past_keys, keys], dim=1), torch.cat([past_values, values], dim=1)


class _Modulation(NamedTuple):
    """AdaLN outputs of every token, (batch, tokens, rows, width)."""

    within: Tensor
    across: Tensor
    gate: Tensor
    embedded: Tensor


class _Half:
    """One stream's weights, by their names in a file."""

    def __init__(
        self, name: str, config: ModelConfig, weights: Mapping[str, Tensor], packed: bool
    ) -> None:
        stream = config.video if name == "video" else config.audio
        self.name = name
        self._config, self._as_ours = config, packed
        own = {
            key.removeprefix(f"{name}."): tensor
            for key, tensor in weights.items()
            if key.startswith(f"{name}.")
        }
        self._weights = {
            key: pack_weight(tensor) if packed and _is_packed_in_ours(key, tensor) else tensor
            for key, tensor in own.items()
        }
        self.heads = stream.heads
        self.cross_heads = config.audio.heads

    def tensor(self, name: str) -> Tensor:
        return self._weights[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        return functional.rms_norm(x, weight.shape, weight, EPS)

    def text(self, features: Tensor) -> Tensor:
        hidden = functional.gelu(self.linear("caption_in", features), approximate="tanh")
        return self.linear("caption_out", hidden)

    def modulation(self, sigma: Tensor, tokens_each: int) -> _Modulation:
        """Of sigma (batch, frames), spread over the tokens of each frame."""
        timestep = sigma * self._config.timestep_scale
        within, embedded = self._adaln("time_embed", timestep)
        across, _ = self._adaln("cross_embed", timestep)
        gate, _ = self._adaln("gate_embed", sigma * self._config.gate_timestep_scale)
        parts = (within, across, gate, embedded[:, :, None])
        return _Modulation(*(part.repeat_interleave(tokens_each, dim=1) for part in parts))

    def _adaln(self, name: str, timestep: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self._weights[f"{name}.linear_1.weight"].dtype
        hidden = functional.silu(self.linear(f"{name}.linear_1", sinusoid(timestep).to(dtype)))
        embedded = self.linear(f"{name}.linear_2", hidden)
        rows = self.linear(f"{name}.linear", functional.silu(embedded))
        return rows.unflatten(-1, (-1, embedded.shape[-1])), embedded

    def queries(self, name: str, x: Tensor, heads: int, rotation: Rotation | None) -> Tensor:
        """(batch, heads, tokens, head_dim)."""
        split = split_heads(self.norm(f"{name}.norm_q", self.linear(f"{name}.to_q", x)), heads)
        return split if rotation is None else rotation(split)

    def keys_values(
        self, name: str, x: Tensor, heads: int, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor]:
        """(batch, tokens, heads, head_dim) each."""
        keys = split_heads(self.norm(f"{name}.norm_k", self.linear(f"{name}.to_k", x)), heads)
        values = split_heads(self.linear(f"{name}.to_v", x), heads)
        rotated = keys if rotation is None else rotation(keys)
        return rotated.transpose(1, 2), values.transpose(1, 2)

    def attention_output(self, name: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        attention = attend if self._as_ours else functional.scaled_dot_product_attention
        output = attention(queries, keys.transpose(1, 2), values.transpose(1, 2))
        return self.linear(f"{name}.to_out", output.transpose(1, 2).flatten(2))


class _Pass(NamedTuple):
    """What one pass of one stream reads besides its tokens."""

    half: _Half
    modulation: _Modulation
    text: Tensor
    rotations: StreamRotations
    start: int

    def rows(self, layer: int) -> Sequence[Tensor]:
        table = self.half.tensor(f"layers.{layer}.table")
        return (self.modulation.within + table.to(self.modulation.within.dtype)).unbind(2)

    def cross_rows(self, layer: int) -> Sequence[Tensor]:
        table = self.half.tensor(f"layers.{layer}.cross_table")
        rows = torch.cat([self.modulation.across, self.modulation.gate], dim=2)
        return (rows + table.to(rows.dtype)).unbind(2)

    def after_attention(self, layer: int, x: Tensor, history: _History) -> Tensor:
        """After self attention and text attention."""
        shift, scale, gate = self.rows(layer)[:3]
        half, heads = self.half, self.half.heads
        name = f"layers.{layer}.self_attention"
        inner = _norm(x) * (1 + scale) + shift
        queries = half.queries(name, inner, heads, self.rotations.within)
        new = half.keys_values(name, inner, heads, self.rotations.within)
        x = x + half.attention_output(name, queries, *history.extend(*new, self.start)) * gate
        name = f"layers.{layer}.text_queries"
        queries = half.queries(name, _norm(x), heads, None)
        text = half.keys_values(f"layers.{layer}.text_keys", self.text, heads, None)
        return x + half.attention_output(name, queries, *text)

    def after_feed_forward(self, layer: int, x: Tensor) -> Tensor:
        shift, scale, gate = self.rows(layer)[3:]
        name = f"layers.{layer}.feed_forward"
        up = self.half.linear(f"{name}.up", _norm(x) * (1 + scale) + shift)
        return x + self.half.linear(f"{name}.down", functional.gelu(up, approximate="tanh")) * gate

    def velocity(self, x: Tensor) -> Tensor:
        table = self.half.tensor("table_out")
        shift, scale = (self.modulation.embedded + table.to(x.dtype)).unbind(2)
        normed = functional.layer_norm(x, (x.shape[-1],), eps=EPS)
        return self.half.linear("proj_out", normed * (1 + scale) + shift)


def _cross_attention(
    query_pass: _Pass, key_pass: _Pass, layer: int, states: PerStream[Tensor], history: _History
) -> Tensor:
    """What one stream attends to in the other, gated; `states` are both before either's update."""
    pathway = "audio_to_video" if query_pass.half.name == "video" else "video_to_audio"
    scale, shift = SCALE_SHIFT[pathway]
    heads = query_pass.half.cross_heads
    query_rows, key_rows = query_pass.cross_rows(layer), key_pass.cross_rows(layer)
    own = _norm(getattr(states, query_pass.half.name)) * (1 + query_rows[scale]) + query_rows[shift]
    other = _norm(getattr(states, key_pass.half.name)) * (1 + key_rows[scale]) + key_rows[shift]
    name = f"layers.{layer}.cross_queries"
    queries = query_pass.half.queries(name, own, heads, query_pass.rotations.across)
    new = key_pass.half.keys_values(
        f"layers.{layer}.cross_keys", other, heads, key_pass.rotations.across
    )
    keys_values = history.extend(*new, key_pass.start)
    return query_pass.half.attention_output(name, queries, *keys_values) * query_rows[CROSS_GATE]


class StaticCacheStream:
    """Streams a clip of known length block by block."""

    def __init__(
        self,
        model: DualStreamTransformer,
        features: PerStream[Tensor],
        grid: tuple[int, int],
        sigmas: Sequence[float],
        noise: BlockNoise,
        blocks: int,
        packed: bool = False,
    ) -> None:
        """Allocate the whole clip's caches.

        Args:
            model: whose weights to compute with; both halves, LTX-2.0.
            features: of the prompt, (1, text tokens, text_width) per stream.
            grid: latent (height, width).
            sigmas: as of `Rollout`.
            noise: as of `Rollout`.
            blocks: of the clip.
            packed: multiply and attend as our model does, with packed weights where it has them.
        """
        if model.config.architecture != "ltx-2.0":
            raise ConfigError(
                f"expected a model of LTX-2.0, got {model.config.architecture}: the released code"
                " knows no other; leave the static baseline out"
            )
        self._config, self._device, self._dtype = model.config, model.device, model.dtype
        weights = model.file_tensors()
        self._halves = PerStream(*(_Half(name, model.config, weights, packed) for name in STREAMS))
        self._features, self._grid = features, grid
        self._steps = FewSteps(model.config, grid, sigmas, noise, model.device)
        self._layout = BlockLayout(model.config.layout)
        self._histories = self._allocate(self._layout.latents(blocks))
        self.block_index = 0

    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(t.numel() * t.element_size() for h in self._histories.values() for t in h)

    @torch.no_grad()
    def next_block(self) -> PerStream[Tensor]:
        """Clean latents of the next macro-block, which are written into the cache."""
        block = self._layout.block(self.block_index)
        clean = self._steps.block(block, lambda noisy, level: self._velocity(noisy, level, block))
        self._velocity(clean, 0.0, block)
        self.block_index += 1
        return clean

    @torch.no_grad()
    def text_pass(self) -> None:
        """What one pass spends on the keys and values of the text."""
        for half, features in zip(self._halves, self._features, strict=True):
            text = half.text(features)
            for layer in range(self._config.layers):
                half.keys_values(f"layers.{layer}.text_keys", text, half.heads, None)

    def _allocate(self, latents: PerStream[int]) -> dict[tuple[str, int], _History]:
        video, audio = self._config.video, self._config.audio
        video_tokens = latents.video * self._grid[0] * self._grid[1]
        audio_tokens = latents.audio + self._config.layout.sinks
        shapes = {
            "video_self": (1, video_tokens, video.heads, video.head_dim),
            "audio_self": (1, audio_tokens, audio.heads, audio.head_dim),
            "audio_to_video": (1, audio_tokens, audio.heads, audio.head_dim),
            "video_to_audio": (1, video_tokens, audio.heads, audio.head_dim),
        }
        return {
            (pathway, layer): _History(
                torch.zeros(shape, dtype=self._dtype, device=self._device),
                torch.zeros(shape, dtype=self._dtype, device=self._device),
            )
            for pathway, shape in shapes.items()
            for layer in range(self._config.layers)
        }

    def _velocity(
        self, latents: PerStream[Tensor], level: float, block: MacroBlock
    ) -> PerStream[Tensor]:
        latents = latents.map(lambda x: x.to(self._dtype))
        sinks = self._config.layout.sinks if block.index == 0 else 0
        video_half, audio_half = self._halves
        tokens = latents.video.permute(0, 1, 3, 4, 2)
        video = video_half.linear("proj_in", tokens.flatten(1, 3))
        audio = audio_half.linear("proj_in", latents.audio)
        if sinks:
            audio = torch.cat([audio_half.tensor("sinks.tokens")[None], audio], dim=1)
        video_pass, audio_pass = self._passes(level, block, sinks)
        for layer in range(self._config.layers):
            video = video_pass.after_attention(layer, video, self._histories["video_self", layer])
            audio = audio_pass.after_attention(layer, audio, self._histories["audio_self", layer])
            before = PerStream(video, audio)
            to_video, to_audio = (
                self._histories[pathway, layer] for pathway in ("audio_to_video", "video_to_audio")
            )
            video = video + _cross_attention(video_pass, audio_pass, layer, before, to_video)
            audio = audio + _cross_attention(audio_pass, video_pass, layer, before, to_audio)
            video = video_pass.after_feed_forward(layer, video)
            audio = audio_pass.after_feed_forward(layer, audio)
        picture = video_pass.velocity(video).reshape(*tokens.shape).permute(0, 1, 4, 2, 3)
        return PerStream(picture, audio_pass.velocity(audio)[:, sinks:])

    def _passes(self, level: float, block: MacroBlock, sinks: int) -> PerStream[_Pass]:
        spans = self._layout.spans_s(block)
        rotations = rotations_at(self._config, spans, self._grid, sinks, self._device)
        cells = self._grid[0] * self._grid[1]
        frames = PerStream(block.count.video, block.count.audio + sinks)
        sinks_before = 0 if block.index == 0 else self._config.layout.sinks
        starts = PerStream(block.first.video * cells, block.first.audio + sinks_before)
        return self._halves.map(
            lambda half, count, each, features, turns, start: _Pass(
                half,
                half.modulation(torch.full((1, count), level, device=self._device), each),
                half.text(features),
                turns,
                start,
            ),
            frames,
            PerStream(cells, 1),
            self._features,
            rotations,
            starts,
        )


def _is_packed_in_ours(name: str, tensor: Tensor) -> bool:
    """Whether `pack_for_streaming` packs it: the projections of the layers."""
    is_matrix = name.endswith(".weight") and tensor.ndim == 2
    return name.startswith("layers.") and is_matrix and can_pack(tensor)


def _norm(x: Tensor) -> Tensor:
    """RMSNorm as PyTorch has it: our faster forms are part of what is measured."""
    return functional.rms_norm(x, (x.shape[-1],), eps=EPS)
