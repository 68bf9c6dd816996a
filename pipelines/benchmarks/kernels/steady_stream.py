"""A stream whose window is full and whose block 0 has moved: from there on blocks are alike."""

from typing import NamedTuple

import torch

from omniforcing_model.config import LayoutConfig
from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.passes import Passes
from omniforcing_model.streaming.stream_batch import RowStream, StreamBatch
from pipelines.benchmarks.stand_ins.subject import SEED, Subject


def steady_block(layout: LayoutConfig) -> int:
    """The first block in which nothing is new: for the one before it pinned blocks move already."""
    return layout.full_from + 2


class SteadyStream(NamedTuple):
    """The only row of a batch."""

    batch: StreamBatch
    stream: RowStream

    def next_block(self) -> None:
        """Denoise a block and commit it."""
        self.stream.next_block()
        self.stream.commit()


@torch.no_grad()
def steady_stream(subject: Subject, passes: Passes | None = None) -> SteadyStream:
    """A stream before a steady block; of the blocks before, only the last is denoised.

    Args:
        subject: whose weights are final from here on.
        passes: who runs the passes; by default as is best where the model is.
    """
    model = subject.model.seal()
    batch = StreamBatch(model, subject.grid, subject.sigmas, passes=passes)
    steady = SteadyStream(batch, batch.open(0, subject.text, seeded_noise(SEED)))
    config, layout = model.config, BlockLayout(model.config.layout)
    for index in range(steady_block(config.layout) - 1):
        count = layout.block(index).count
        shapes = PerStream(
            (1, count.video, config.video.latent_channels, *subject.grid),
            (1, count.audio, config.audio.latent_channels),
        )
        steady.stream.force_block(shapes.map(lambda shape: torch.zeros(shape, device=model.device)))
    steady.next_block()
    return steady
