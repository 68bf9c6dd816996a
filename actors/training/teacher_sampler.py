"""Makes ODE trajectories with the teacher of stage II, one shard at a time.

That teacher is the stage I model with its few steps, or the bidirectional one with guidance. A
trajectory names the row of the dataset whose prompt it was sampled for: text features are several
times as large as its states, and stand there already.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.latents.codec_loading import load_text_encoder, own_device
from actors.training.guided_sampling import teacher_guidance, teacher_schedule
from actors.training.row_shapes import clip_latents, require_shapes, text_shapes
from actors.training.trajectory_shards import TrajectoryShard, prompt_table, trajectory_shards
from infra.config import RunConfig
from infra.dataset.columns import STATE_TENSORS, TEXT_TENSORS, Column
from infra.dataset.shards import ShardRecord, write_shard
from infra.runs.checkpoint_store import resolve_model
from omniforcing_model.distillation.objective import require_finite
from omniforcing_model.distillation.ode_trajectory import GuidedSteps, make_trajectories
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.seeds import TRAINING_SEED_BITS, seed_of
from omniforcing_model.weights.checkpoint_files import load_model
from omniforcing_model.weights.stated_family import StatedFamily

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STORED = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class TrajectoryWork:
    """Which trajectories to make: `model` folder, prompts of the `dataset`, result below `out`."""

    config: RunConfig
    model: str
    dataset: str
    out: str


class TeacherSampler:
    """Answers prompts with trajectories; the same number gives the same shard, on any machine."""

    def __init__(self, work: TrajectoryWork) -> None:
        """Load the model, open the dataset; CheckpointError or DatasetError if not there."""
        torch.set_num_threads(max(1, int(work.config.cluster.teacher_sampler.cpus)))
        self._work = work
        self._settings = work.config.stages.trajectories
        self._table = prompt_table(work.config, work.dataset)
        self._shards = trajectory_shards(work.config, self._table)
        # Before the model is there: at the size of LTX-2 the text encoder needs as much room.
        self._negative = _negative_features(work.config) if self._settings.guided else None
        stated = StatedFamily.of(work.config.model)
        self._model = load_model(
            resolve_model(work.model),
            dtype=PRECISIONS[self._settings.precision],
            device=own_device(),
            stated=stated,
        )
        self._model.requires_grad_(False)
        self._shapes = text_shapes(work.config)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Write the shards numbered `id`; returns each with its `record`, the shard's as JSON."""
        numbers = [int(number) for number in batch["id"]]
        records = [self.write(number).model_dump_json() for number in numbers]
        return {"id": np.array(numbers), "record": np.array(records, dtype=object)}

    def write(self, number: int) -> ShardRecord:
        """Make and write shard `number`; DivergenceError if a state is not finite.

        It holds the shard's trajectories once, and those of a forward pass.
        """
        shard, columns, made = self._shards[number], dict[str, NDArray[Any]](), 0
        for batch in shard.batches(self._settings.batch):
            for name, values in self._make(batch).items():
                if name not in columns:
                    shape = (len(shard.places), *values.shape[1:])
                    columns[name] = np.empty(shape, values.dtype)
                columns[name][made : made + len(values)] = values
            made += len(batch.places)
        return write_shard(Path(self._work.out), columns)

    def _make(self, batch: TrajectoryShard) -> dict[str, NDArray[Any]]:
        """These trajectories, made at once."""
        size, places, indices = batch
        names = (Column.ROW_ID, Column.CAPTION, *TEXT_TENSORS.values())
        rows = self._table.read(indices, names)
        require_shapes(rows, self._shapes, self._table, indices)
        text = PerStream(*(torch.from_numpy(rows[name]) for name in TEXT_TENSORS.values()))
        states = make_trajectories(
            self._model,
            text.map(self._as_read),
            ClipShape(len(indices), *clip_latents(self._work.config, self._model.config, size)),
            self._work.config.sampling.student_sigmas,
            seeded_noise([self._noise_seed(place) for place in places]),
            self._guided_steps(len(indices)),
        )
        prompts = rows[Column.ROW_ID]
        ids = [f"{place:07d}/{row}" for place, row in zip(places, prompts, strict=True)]
        return {
            Column.ROW_ID: np.array(ids, dtype=object),
            Column.CAPTION: rows[Column.CAPTION],
            Column.HEIGHT: np.full(len(indices), size.height),
            Column.WIDTH: np.full(len(indices), size.width),
            Column.PROMPT_ROW: prompts,
            Column.PROMPT_DIGEST: np.array(self._table.text_digests(indices), dtype=object),
            **{
                STATE_TENSORS[stream]: self._stored(
                    value, f"the {stream} trajectories {places[0]} to {places[-1]}"
                )
                for stream, value in states.present()
            },
        }

    def _as_read(self, features: Tensor) -> Tensor:
        return features.to(self._model.device, self._model.dtype)

    def _stored(self, states: Tensor, what: str) -> NDArray[Any]:
        """The states as they go into a file; DivergenceError if one is not finite there."""
        stored = states.to(STORED[self._settings.states])
        return require_finite(stored, what).cpu().numpy()

    def _guided_steps(self, rows: int) -> GuidedSteps | None:
        """The teacher's own steps for a batch of `rows`, where trajectories are guided."""
        if self._negative is None:
            return None
        config, model = self._work.config, self._model
        batch = self._negative.map(lambda x: self._as_read(x.expand(rows, -1, -1)))
        guidance = teacher_guidance(config.sampling, model.read_text(batch))
        return GuidedSteps(teacher_schedule(config, model.config), guidance)

    def _noise_seed(self, place: int) -> int:
        return seed_of("trajectories", self._settings.seed, place, bits=TRAINING_SEED_BITS)


def _negative_features(config: RunConfig) -> PerStream[Tensor]:
    """Text features (1, tokens, width) of the negative prompt; the encoder is not kept."""
    return load_text_encoder(config, own_device()).encode([config.sampling.negative_prompt])
