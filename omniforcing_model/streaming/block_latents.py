"""The latents that a block's passes begin with: noise, or what is given in its place."""

from torch import Tensor

from omniforcing_model.errors import ShapeError
from omniforcing_model.kernels.placement import to_device
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import BlockNoise
from omniforcing_model.per_stream import STREAMS, PerStream
from omniforcing_model.transformer.denoiser import Denoiser

NOTHING: PerStream[Tensor | None] = PerStream(None, None)


class BlockLatents:
    """Of one model on one latent grid, for `batch` prompts at a time."""

    def __init__(self, model: Denoiser, grid: tuple[int, int], batch: int = 1) -> None:
        self._model, self._grid, self._batch = model, grid, batch
        self._layout = BlockLayout(model.config.layout)

    def shapes(self, block: int) -> PerStream[tuple[int, ...]]:
        """Of a block's latents: video (batch, frames, channels, height, width), audio (batch,
        frames, channels)."""
        config, count = self._model.config, self._layout.block(block).count
        return PerStream(
            (self._batch, count.video, config.video.latent_channels, *self._grid),
            (self._batch, count.audio, config.audio.latent_channels),
        )

    def draw(self, noise: BlockNoise, block: int, step: int) -> PerStream[Tensor]:
        """The noise of a block's denoising step, on the model's device."""
        device = self._model.device

        def draw(_: object, name: str, shape: tuple[int, ...]) -> Tensor:
            return to_device(noise(name, block, step, shape), device)

        return self._model.halves.map(draw, PerStream(*STREAMS), self.shapes(block))

    def begun(
        self, noise: BlockNoise, block: int, given: PerStream[Tensor | None]
    ) -> PerStream[Tensor]:
        """What the first step begins with: a stream's clean latents where they are given, its noise
        else."""

        def begin(drawn: Tensor, own: Tensor | None) -> Tensor:
            return drawn if own is None else own.to(drawn.device, drawn.dtype)

        return self.draw(noise, block, 0).map(begin, given)

    def check(self, given: PerStream[Tensor | None] | PerStream[Tensor], block: int) -> None:
        """That latents which come from outside are those of a block.

        Raises:
            ShapeError: they are not.
        """
        shapes = self.shapes(block)._asdict()
        for name, latents in given.present():
            if latents is not None and tuple(latents.shape) != shapes[name]:
                raise ShapeError(
                    f"expected {name} latents {shapes[name]} for block {block}, got"
                    f" {tuple(latents.shape)}; give those of one macro-block"
                )


def both_of(given: PerStream[Tensor | None]) -> PerStream[Tensor] | None:
    """The latents of both streams, where both are given."""
    if given.video is None or given.audio is None:
        return None
    return PerStream(given.video, given.audio)
