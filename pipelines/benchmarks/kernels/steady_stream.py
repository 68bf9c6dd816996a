"""A stream whose window is full and whose block 0 has moved: from there on blocks are alike."""

import torch

from omniforcing_model.macro_block import BlockLayout
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout
from pipelines.benchmarks.stand_ins.subject import Subject


def steady_block(window_blocks: int) -> int:
    """The first block in which nothing is new: block 0 moves for the one before it already."""
    return window_blocks + 3


@torch.no_grad()
def steady_rollout(subject: Subject) -> Rollout:
    """A rollout before its first steady block.

    It has jumped there from block 0, over a window that is left as it was; then came one block,
    so that everything has been done once.
    """
    rollout, config = subject.rollout(), subject.model.config
    count = BlockLayout(config.layout).block(0).count
    shapes = PerStream(
        (1, count.video, config.video.latent_channels, *subject.grid),
        (1, count.audio, config.audio.latent_channels),
    )
    rollout.force_block(shapes.map(lambda shape: torch.zeros(shape, device=subject.model.device)))
    rollout.commit()
    rollout.block_index = steady_block(config.layout.window_blocks) - 1
    rollout.next_block()
    rollout.commit()
    return rollout
