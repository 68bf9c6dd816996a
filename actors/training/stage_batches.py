"""The micro-batches of a stage that one rank takes, and the randomness of each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from actors.training.prompt_features import features_of
from actors.training.prompt_rows import PROMPT_COLUMNS, PromptRows
from actors.training.row_shapes import (
    Shape,
    clip_latents,
    latent_shapes,
    require_shapes,
    text_shapes,
)
from actors.training.step_rows import StepRows
from infra.config import FrameSize, RunConfig
from infra.dataset.columns import LATENT_TENSORS, STATE_TENSORS, TEXT_TENSORS
from infra.dataset.latent_table import LatentTable
from infra.errors import ConfigError
from infra.stages import LATENTS, STAGES, TRAJECTORIES, OptimiserConfig
from omniforcing_model.distillation.latent_batch import (
    Batch,
    LatentBatch,
    PromptBatch,
    TrajectoryBatch,
)
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.seeds import TRAINING_SEED_BITS, seed_of, uniform_of


def micro_batches_of(stage: str, optimiser: OptimiserConfig, rank: int, world: int) -> range:
    """Numbers of the micro-batches of each step that a rank takes; ConfigError if some are left."""
    batch, micro = optimiser.batch, optimiser.micro_batch
    if batch % micro or (batch // micro) % world:
        raise ConfigError(
            f"expected stages.{stage}.optimiser.batch to be workers * k * micro_batch, got batch"
            f" {batch}, micro_batch {micro} and {world} workers; change one of them"
        )
    return range(rank, batch // micro, world)


class Batches(Protocol):
    """What one rank of a stage trains on, step by step."""

    def __len__(self) -> int:
        """Micro-batches of this rank in every step."""
        ...

    def of_step(self, role: str, step: int) -> Iterator[tuple[Batch, torch.Generator]]:
        """The micro-batches of the step after `step` others, as `role` sees them, and the
        randomness of each; the gradients of one are taken before the next is asked for."""
        ...


class StageBatches:
    """What one rank of a stage trains on, step by step; every rank makes one at the same time.

    A stage that samples from noise reads prompts alone; of their rows it takes the size.
    """

    def __init__(
        self, config: RunConfig, stage: str, data: str, device: str, prompts: str | None = None
    ) -> None:
        """Open the rows at the URI `data`, and encode the prompt that stands in for a caption.

        prompts: URI of the dataset that trajectories name rows of, None where they say it is.

        Raises:
            ConfigError: workers, batch and micro-batch do not divide; no text encoder.
            DatasetError: the data cannot be read.
        """
        self._config, self._stage, self._device = config, stage, device
        self._optimiser = config.stages.trained_stage(stage).optimiser
        self._reads = STAGES[stage].reads
        of_trajectories = self._reads == TRAJECTORIES
        # Trajectories have been made without the rows that are left out.
        exclude = () if of_trajectories else config.data.exclude
        self._table = LatentTable.open(data, sizes=config.data.sizes, exclude=exclude)
        seed, batch = self._optimiser.seed, self._optimiser.batch
        self._rows = StepRows(self._table.rows_of_sizes, seed, stage, batch)
        self._prompts: PromptRows | None = None
        self._sigmas: Tensor | None = None
        if of_trajectories:
            self._prompts = PromptRows(self._table, prompts, text_shapes(config))
            self._sigmas = torch.tensor(self._table.manifest.provenance["sigmas"], device=device)
        self._numbers = micro_batches_of(
            stage, self._optimiser, dist.get_rank(), dist.get_world_size()
        )
        self._null_text: PerStream[Tensor] | None = None
        if not of_trajectories:
            # Features (1, tokens, width) of the prompt that guidance pushes away from.
            features = features_of(config, config.stages.trained_stage(stage).null_prompt)
            self._null_text = features.map(lambda own: own.to(device))

    def __len__(self) -> int:
        """Micro-batches of this rank in every step."""
        return len(self._numbers)

    def of_step(self, role: str, step: int) -> Iterator[tuple[Batch, torch.Generator]]:
        """The micro-batches of the step after `step` others, as `role` sees them."""
        optimiser, micro = self._optimiser, self._optimiser.micro_batch
        size, rows = self._rows.of_step(step)
        draws = [
            uniform_of(optimiser.seed, self._stage, role, step, what) for what in ("exit", "length")
        ]
        for number in self._numbers:
            batch = self._read(size, rows[number * micro : (number + 1) * micro], draws)
            seed = seed_of(optimiser.seed, self._stage, role, step, number, bits=TRAINING_SEED_BITS)
            yield batch, torch.Generator(self._device).manual_seed(seed)

    def _read(self, size: FrameSize, indices: NDArray[np.int64], draws: Sequence[float]) -> Batch:
        shapes, names = self._shapes(size), PROMPT_COLUMNS if self._prompts else ()
        columns = self._table.read(indices, [*shapes, *names])
        require_shapes(columns, shapes, self._table, indices)
        if self._prompts is not None:
            columns |= self._prompts.read(columns)
        text = self._on_device(columns, TEXT_TENSORS.values())
        if self._sigmas is not None:
            states = self._on_device(columns, STATE_TENSORS.values())
            return TrajectoryBatch(states, self._sigmas, text)
        assert self._null_text is not None, "of stages that read prompts"
        null = self._null_text.map(lambda features: features.expand(len(indices), -1, -1))
        if self._reads == LATENTS:
            return LatentBatch(self._on_device(columns, LATENT_TENSORS), text, null)
        clips = ClipShape(len(indices), *clip_latents(self._config, self._config.model, size))
        return PromptBatch(text, null, clips, *draws)

    def _shapes(self, size: FrameSize) -> dict[str, Shape]:
        """Of the tensors that are read of a row of this size, by column."""
        if self._sigmas is not None:
            return latent_shapes(self._config, size, len(self._sigmas))
        latents = latent_shapes(self._config, size) if self._reads == LATENTS else {}
        return latents | text_shapes(self._config)

    def _on_device(
        self, columns: Mapping[str, NDArray[Any]], names: Iterable[str]
    ) -> PerStream[Tensor]:
        """The tensors `names` of both streams, float32 whatever they are stored as."""
        return PerStream(*(torch.from_numpy(columns[n]).to(self._device).float() for n in names))
