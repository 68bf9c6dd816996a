"""Makes ODE trajectories with the teacher of stage II, one shard at a time.

That teacher is the stage I model with its few steps, or the bidirectional one with guidance. A
trajectory names the row of the dataset whose prompt it was sampled for: text features are several
times as large as its states, and stand there already.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, not in __all__

from actors.latents.codec_loading import own_device
from actors.training.deepspeed_engines import DTYPES, SPREAD_WEIGHTS, Held, quiet_deepspeed
from actors.training.guided_sampling import teacher_guidance, teacher_schedule
from actors.training.prompt_features import features_of
from actors.training.ranks import Rank, backend_of, gathered, own_rank, raised_by_all
from actors.training.role_engine import FrozenRole
from actors.training.row_shapes import clip_latents, require_shapes, text_shapes
from actors.training.start_weights import CheckpointWeights, made_network
from actors.training.trajectory_shards import TrajectoryShard, prompt_table, trajectory_shards
from infra.config import RunConfig
from infra.dataset.columns import STATE_TENSORS, TEXT_TENSORS, Column
from infra.dataset.shards import ShardRecord, write_shard
from infra.machine_faults import machine_faults
from infra.runs.checkpoint_store import resolve_model
from omniforcing_model.distillation.objective import require_finite
from omniforcing_model.distillation.ode_trajectory import GuidedSteps, make_trajectories
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.seeds import TRAINING_SEED_BITS, seed_of
from omniforcing_model.transformer.denoiser import Denoiser
from omniforcing_model.weights.checkpoint_files import load_model
from omniforcing_model.weights.stated_family import StatedFamily

STORED = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class TrajectoryWork:
    """Which trajectories to make: `model` folder, prompts of the `dataset`, result below `out`."""

    config: RunConfig
    model: str
    dataset: str
    out: str


class TeacherSampler:
    """Answers prompts with trajectories; the same number gives the same shard, on any machine.

    The ranks of a process group are one sampler: they hold the model together, share the batches of
    a shard, and call `write` at the same time. A process without a group is one alone.
    """

    def __init__(self, work: TrajectoryWork) -> None:
        """Load the model, open the dataset; CheckpointError or DatasetError if not there."""
        torch.set_num_threads(max(1, int(work.config.cluster.teacher_sampler.cpus)))
        self._work = work
        self._settings = work.config.stages.trajectories
        self._rank = own_rank()
        with raised_by_all():
            self._table = prompt_table(work.config, work.dataset)
        self._shards = trajectory_shards(work.config, self._table)
        # Before the model is there: at the size of LTX-2 the text encoder needs as much room.
        self._negative = self._negative_features() if self._settings.guided else None
        self._model = self._whole_model() if self._rank.of == 1 else self._model_in_parts()
        self._shapes = text_shapes(work.config)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Write the shards numbered `id`; returns each with its `record`, the shard's as JSON."""
        return answer_of(batch, self.write)

    def write(self, number: int) -> ShardRecord | None:
        """Make shard `number`; the first rank writes it and returns its record.

        That rank holds the shard's trajectories once, and those of a forward pass of each rank.
        DivergenceError, on every rank, if a state is not finite; DatasetError likewise.
        """
        shard, rank = self._shards[number], self._rank
        batches = list(shard.batches(self._settings.batch))
        columns: dict[str, NDArray[Any]] = {}
        written = 0
        for turn in range(0, len(batches), rank.of):
            of_turn = batches[turn : turn + rank.of]
            # A rank without a batch makes the last one too: all ranks make the same passes.
            made = self._make(of_turn[min(rank.number, len(of_turn) - 1)])
            own = made if rank.number < len(of_turn) else {}
            for batch, values_of in zip(of_turn, gathered(own), strict=False):
                for name, values in values_of.items():
                    if name not in columns:
                        shape = (len(shard.places), *values.shape[1:])
                        columns[name] = np.empty(shape, values.dtype)
                    columns[name][written : written + len(values)] = values
                written += len(batch.places)
        return write_shard(Path(self._work.out), columns) if rank.number == 0 else None

    def _negative_features(self) -> PerStream[Tensor]:
        return features_of(self._work.config, self._work.config.sampling.negative_prompt)

    def _whole_model(self) -> Denoiser:
        model = load_model(
            resolve_model(self._work.model),
            dtype=DTYPES[self._settings.precision],
            device=own_device(),
            stated=StatedFamily.of(self._work.config.model),
        )
        return model.requires_grad_(False)

    def _model_in_parts(self) -> Denoiser:
        """Each rank reads its own part of the weights; a layer is whole while it computes."""
        stated = StatedFamily.of(self._work.config.model)
        held = Held(self._settings.precision, SPREAD_WEIGHTS)
        with raised_by_all():
            weights = CheckpointWeights(resolve_model(self._work.model), stated)
        network = made_network(weights, held, own_device())
        self._role = FrozenRole(network, held)  # its hooks end with it
        return self._role.passes

    def _make(self, batch: TrajectoryShard) -> dict[str, NDArray[Any]]:
        """These trajectories, made at once."""
        size, places, indices = batch
        with raised_by_all():
            rows = self._read(indices)
        # Copied: the last digit of a product depends on where its factors lie in memory.
        text = PerStream(*(torch.tensor(rows[name]) for name in TEXT_TENSORS.values()))
        with quiet_deepspeed() if self._rank.of > 1 else nullcontext():
            states = make_trajectories(
                self._model,
                text.map(self._as_read),
                ClipShape(len(indices), *clip_latents(self._work.config, self._model.config, size)),
                self._work.config.sampling.student_sigmas,
                seeded_noise([self._noise_seed(place) for place in places]),
                self._guided_steps(len(indices)),
            )
        with raised_by_all():
            stored = self._stored_states(states, f"trajectories {places[0]} to {places[-1]}")
        prompts = rows[Column.ROW_ID]
        ids = [f"{place:07d}/{row}" for place, row in zip(places, prompts, strict=True)]
        return {
            Column.ROW_ID: np.array(ids, dtype=object),
            Column.CAPTION: rows[Column.CAPTION],
            Column.HEIGHT: np.full(len(indices), size.height),
            Column.WIDTH: np.full(len(indices), size.width),
            Column.PROMPT_ROW: prompts,
            Column.PROMPT_DIGEST: rows[Column.PROMPT_DIGEST],
            **stored,
        }

    def _read(self, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """These rows of the dataset, with the prompts."""
        names = (Column.ROW_ID, Column.CAPTION, *TEXT_TENSORS.values())
        rows = self._table.read(indices, names)
        require_shapes(rows, self._shapes, self._table, indices)
        rows[Column.PROMPT_DIGEST] = np.array(self._table.text_digests(indices), dtype=object)
        return rows

    def _as_read(self, features: Tensor) -> Tensor:
        return features.to(self._model.device, self._model.dtype)

    def _stored_states(self, states: PerStream[Tensor], what: str) -> dict[str, NDArray[Any]]:
        """The states as they go into a file; DivergenceError if one is not finite there."""
        dtype = STORED[self._settings.states]
        return {
            STATE_TENSORS[stream]: require_finite(own.to(dtype), f"the {stream} {what}")
            .cpu()
            .numpy()
            for stream, own in states.present()
        }

    @torch.no_grad()
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


class Meeting(NamedTuple):
    """Where the ranks of a sampler find each other."""

    address: str
    port: int


class SamplerRank:
    """One of the processes that are a sampler together."""

    def __init__(self) -> None:
        self._store: TCPStore | None = None

    def invite(self, ranks: int) -> Meeting:
        """Listen on this machine, as the first of `ranks`."""
        import ray  # noqa: PLC0415  # a sampler alone needs none

        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._store = store = TCPStore(address, 0, ranks, is_master=True, wait_for_workers=False)
        return Meeting(address, store.port)

    def join(self, work: TrajectoryWork, rank: Rank, meeting: Meeting) -> None:
        """Meet the others and make the sampler; errors as of `TeacherSampler`."""
        store = self._store or TCPStore(*meeting, rank.of, is_master=False)
        backend = backend_of(own_device())
        dist.init_process_group(backend, store=store, rank=rank.number, world_size=rank.of)
        with machine_faults():
            self._sampler = TeacherSampler(work)

    def write(self, number: int) -> ShardRecord | None:
        """As of `TeacherSampler`."""
        with machine_faults():
            return self._sampler.write(number)


def answer_of(
    batch: Mapping[str, NDArray[Any]], write: Callable[[int], ShardRecord | None]
) -> dict[str, NDArray[Any]]:
    """Rows of Ray Data with the shards numbered `id`, each with its `record` as JSON."""
    numbers = [int(number) for number in batch["id"]]
    records = [record.model_dump_json() for record in map(write, numbers) if record is not None]
    return {"id": np.array(numbers), "record": np.array(records, dtype=object)}
