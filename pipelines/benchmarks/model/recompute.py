"""The same stream without a cache: every pass runs over the whole clip so far.

What a causal model without a cache must do. The history stands at sigma 0, the new block at the
step's sigma, and a block needs no pass that refreshes anything. Nothing leaves the window here:
that would save no work and cost a copy of block 0 per distance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.four_way_mask import CausalView
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.text_context import TextContext
from pipelines.benchmarks.model.few_steps import FewSteps


class RecomputedStream:
    """Denoises the next block of a clip that is given as latents."""

    def __init__(
        self,
        model: DualStreamTransformer,
        text: TextContext,
        grid: tuple[int, int],
        sigmas: Sequence[float],
        noise: BlockNoise,
    ) -> None:
        """As of `Rollout`."""
        self._model, self._text, self._grid = model, text, grid
        self._steps = FewSteps(model.config, grid, sigmas, noise, model.device)
        self._layout = BlockLayout(model.config.layout)

    @torch.no_grad()
    def block(self, index: int, history: PerStream[Tensor] | None) -> PerStream[Tensor]:
        """Clean latents of block `index` after `history`, the clean latents of those before."""
        model = self._model
        layout = model.config.layout.model_copy(update={"window_blocks": index + 1})
        whole = model.config.model_copy(update={"layout": layout})
        view = CausalView(whole, self._layout.latents(index + 1), self._grid, model.device)

        def velocity(noisy: PerStream[Tensor], level: float) -> PerStream[Tensor]:
            clip = noisy if history is None else history.map(_append, noisy)
            columns = torch.zeros(1, index + 1, device=model.device)
            columns[:, -1] = level
            answer: PerStream[Tensor] = model(
                clip.map(lambda x: x.to(model.dtype)), columns, self._text, view
            )
            return answer.map(lambda v, x: v[:, -x.shape[1] :], noisy)

        return self._steps.block(self._layout.block(index), velocity)


def _append(past: Tensor, new: Tensor) -> Tensor:
    return torch.cat([past, new], dim=1)
