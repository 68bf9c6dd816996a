"""What a stage trains on, of the run's shapes and random: no dataset, no codec and no text encoder.

One exit step after another takes its turn, so that as many steps as the student's chain has are its
mean.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from actors.training.row_shapes import clip_latents, latent_shapes, text_shapes
from infra.config import RunConfig
from infra.dataset.columns import LATENT_TENSORS, STATE_TENSORS, TEXT_TENSORS
from infra.stages import LATENTS, STAGES, TRAJECTORIES
from omniforcing_model.distillation.latent_batch import (
    Batch,
    LatentBatch,
    PromptBatch,
    TrajectoryBatch,
)
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape

SEED = 0


class RandomBatches:
    """Of one rank, which takes all micro-batches of a step; each is the same clips."""

    def __init__(
        self,
        config: RunConfig,
        stage: str,
        device: str,
        began: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        """Draw the clips of a micro-batch.

        Args:
            config: of the run.
            stage: which one.
            device: where they are.
            began: is told whose turn it is, before its passes.
            ended: is called once the gradients of a turn have been taken.
        """
        optimiser = config.stages.trained_stage(stage).optimiser
        self._count = optimiser.batch // optimiser.micro_batch
        self._exits = len(config.sampling.student_sigmas)
        self._device, self._began, self._ended = device, began, ended
        self._batch = self._made(config, stage, optimiser.micro_batch)

    def __len__(self) -> int:
        """Micro-batches of every step."""
        return self._count

    def of_step(self, role: str, step: int) -> Iterator[tuple[Batch, torch.Generator]]:
        """The micro-batches of the step after `step` others. The first leaves the chain at its end,
        the next ones after one pass, after two, and so on."""
        self._began(role)
        batch = self._batch
        if isinstance(batch, PromptBatch):
            leaves_after = (step - 1) % self._exits
            batch = batch._replace(exit_draw=(leaves_after + 0.5) / self._exits)
        for number in range(self._count):
            yield batch, torch.Generator(self._device).manual_seed(SEED + number)
        self._ended()

    def _made(self, config: RunConfig, stage: str, clips: int) -> Batch:
        sigmas = [*config.sampling.student_sigmas, 0.0]
        reads, size = STAGES[stage].reads, config.data.largest_size
        states = len(sigmas) if reads == TRAJECTORIES else None
        shapes = latent_shapes(config, size, states) | text_shapes(config)
        drawn = torch.Generator().manual_seed(SEED)

        def stream_pair(video: str, audio: str) -> PerStream[Tensor]:
            made = (
                torch.randn(clips, *shapes[name], generator=drawn, device="cpu").to(self._device)
                for name in (video, audio)
            )
            return PerStream(*made)

        text = stream_pair(*TEXT_TENSORS.values())
        if reads == LATENTS:
            return LatentBatch(stream_pair(*LATENT_TENSORS), text, text)
        if reads == TRAJECTORIES:
            made = stream_pair(*STATE_TENSORS.values())
            return TrajectoryBatch(made, torch.tensor(sigmas, device=self._device), text)
        shape = ClipShape(clips, *clip_latents(config, config.model, size))
        return PromptBatch(text, text, shape, exit_draw=0.0)
