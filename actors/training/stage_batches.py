"""The micro-batches of a stage that one rank takes, and the randomness of each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from actors.latents.codec_loading import load_text_encoder, own_device
from actors.training.prompt_rows import PROMPT_COLUMNS, PromptRows
from actors.training.row_shapes import require_shapes, row_shapes
from infra.config import RunConfig
from infra.dataset.columns import LATENT_TENSORS, STATE_TENSORS, TEXT_TENSORS
from infra.dataset.latent_table import LatentTable, shuffled_indices
from infra.errors import ConfigError
from infra.stages import STAGES, TRAJECTORIES, OptimiserConfig
from omniforcing_model.distillation.latent_batch import Batch, LatentBatch, TrajectoryBatch
from omniforcing_model.per_stream import PerStream
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
    """What one rank of a stage trains on, step by step; every rank makes one at the same time."""

    def __init__(
        self, config: RunConfig, stage: str, data: str, device: str, prompts: str | None = None
    ) -> None:
        """Open the rows at the URI `data`.

        prompts: URI of the dataset that trajectories name rows of, None where they say it is.

        Raises:
            ConfigError: workers, batch and micro-batch do not divide.
            DatasetError: the data cannot be read.
        """
        self._config, self._stage, self._device = config, stage, device
        self._optimiser = config.stages.trained_stage(stage).optimiser
        of_clips = STAGES[stage].reads != TRAJECTORIES
        # Trajectories have been made without the rows that are left out.
        exclude = config.data.exclude if of_clips else ()
        self._table = LatentTable.open(data, size=config.data.sizes[0], exclude=exclude)
        sigmas = None if of_clips else self._table.manifest.provenance["sigmas"]
        self._sigmas = None if sigmas is None else torch.tensor(sigmas, device=device)
        self._shapes = row_shapes(config, None if sigmas is None else len(sigmas))
        self._prompts: PromptRows | None = None
        if not of_clips:
            of_text = {name: self._shapes.pop(name) for name in TEXT_TENSORS.values()}
            self._prompts = PromptRows(self._table, prompts, of_text)
        self._numbers = micro_batches_of(
            stage, self._optimiser, dist.get_rank(), dist.get_world_size()
        )
        self._null_prompt = config.stages.trained_stage(stage).null_prompt
        self._null_text: PerStream[Tensor] | None = None

    def __len__(self) -> int:
        """Micro-batches of this rank in every step."""
        return len(self._numbers)

    def of_step(self, role: str, step: int) -> Iterator[tuple[Batch, torch.Generator]]:
        """The micro-batches of the step after `step` others, as `role` sees them."""
        optimiser, micro = self._optimiser, self._optimiser.micro_batch
        rows = shuffled_indices(optimiser.seed, step, optimiser.batch, self._table.rows)
        draws = [
            uniform_of(optimiser.seed, self._stage, role, step, what) for what in ("exit", "length")
        ]
        for number in self._numbers:
            batch = self._read(rows[number * micro : (number + 1) * micro], draws)
            seed = seed_of(optimiser.seed, self._stage, role, step, number, bits=TRAINING_SEED_BITS)
            yield batch, torch.Generator(self._device).manual_seed(seed)

    def _read(self, indices: NDArray[np.int64], draws: Sequence[float]) -> Batch:
        names = PROMPT_COLUMNS if self._prompts else ()
        columns = self._table.read(indices, [*self._shapes, *names])
        require_shapes(columns, self._shapes, self._table, indices)
        if self._prompts is not None:
            columns |= self._prompts.read(columns)
        text = self._on_device(columns, TEXT_TENSORS.values())
        if self._sigmas is not None:
            states = self._on_device(columns, STATE_TENSORS.values())
            return TrajectoryBatch(states, self._sigmas, text)
        latents = self._on_device(columns, LATENT_TENSORS)
        null = self._null_features().map(lambda features: features.expand(len(indices), -1, -1))
        return LatentBatch(latents, text, null, *draws)

    def _on_device(
        self, columns: Mapping[str, NDArray[Any]], names: Iterable[str]
    ) -> PerStream[Tensor]:
        """The tensors `names` of both streams, float32 whatever they are stored as."""
        return PerStream(*(torch.from_numpy(columns[n]).to(self._device).float() for n in names))

    def _null_features(self) -> PerStream[Tensor]:
        """Text features (1, tokens, width) of the prompt that guidance pushes away from."""
        if self._null_text is None:
            encoded: list[Any] = [None]
            if dist.get_rank() == 0:  # one text encoder of 12 billion weights is enough
                encoder = load_text_encoder(self._config, own_device())
                encoded = [encoder.encode([self._null_prompt])]
            dist.broadcast_object_list(encoded)
            self._null_text = encoded[0].map(lambda features: features.to(self._device))
        return self._null_text
