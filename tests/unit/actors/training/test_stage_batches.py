"""Which rows and which randomness a rank gets in a step."""

import numpy as np
import pytest
import torch
from torch import distributed as dist

from actors.latents.codec_loading import load_text_encoder
from actors.training.stage_batches import StageBatches, micro_batches_of
from infra.dataset.latent_table import LatentTable, shuffled_indices
from infra.dataset.manifest import commit
from infra.dataset.shards import write_shard
from infra.errors import ConfigError, DatasetError
from omniforcing_model.distillation.latent_batch import (
    LatentBatch,
    PromptBatch,
    TrajectoryBatch,
)
from omniforcing_model.per_stream import PerStream
from omniforcing_model.sampling.whole_clip import ClipShape
from omniforcing_model.seeds import seed_of
from tests.worlds.sized_clips import SQUARE, TWO_SIZES, WIDE, write_sized_clips
from tests.worlds.training import (
    SIGMAS,
    latent_counts,
    small_run,
    write_clips,
    write_trajectories,
)


@pytest.fixture(autouse=True, scope="module")
def one_rank():
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(small_run(), tmp_path_factory.mktemp("batches") / "clips")


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    return write_trajectories(small_run(), tmp_path_factory.mktemp("batches") / "trajectories")


def test_ranks_share_the_micro_batches_of_a_step_without_a_rest():
    optimiser = small_run(batch=12, micro_batch=2).stages.trained_stage("stage_1").optimiser
    shares = [list(micro_batches_of("stage_1", optimiser, rank, 3)) for rank in range(3)]
    assert shares == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("micro_batch", "world"), [(5, 1), (2, 4), (12, 2)])
def test_a_rest_is_refused_with_all_three_numbers(micro_batch, world):
    optimiser = (
        small_run(batch=12, micro_batch=micro_batch).stages.trained_stage("stage_1").optimiser
    )
    numbers = f"batch 12, micro_batch {micro_batch} and {world} workers"
    with pytest.raises(ConfigError, match=rf"stages\.stage_1\.optimiser\.batch .*{numbers}"):
        micro_batches_of("stage_1", optimiser, 0, world)


def test_a_step_reads_the_next_rows_of_the_shuffled_dataset_in_order(clips):
    batches = StageBatches(small_run(), "teacher", clips, "cpu")
    assert len(batches) == 2
    table = LatentTable.open(clips)
    seed = small_run().stages.teacher.optimiser.seed
    rows = table.read(shuffled_indices(seed, 3, 4, table.rows), ["video", "audio_text"])
    read = [batch for batch, _ in batches.of_step("generator", 3)]
    assert all(isinstance(batch, LatentBatch) for batch in read)
    video = torch.cat([batch.latents.video for batch in read])
    text = torch.cat([batch.text.audio for batch in read])
    assert torch.equal(video, torch.from_numpy(rows["video"]))
    assert torch.equal(text, torch.from_numpy(rows["audio_text"]))
    nulls = torch.cat([batch.null_text.video for batch in read])
    assert nulls.shape == text.shape
    assert (nulls == nulls[0]).all()


def test_randomness_is_of_seed_stage_role_step_and_micro_batch(clips):
    batches = StageBatches(small_run(), "stage_1", clips, "cpu")
    seed = small_run().stages.trained_stage("stage_1").optimiser.seed
    seeds = [dice.initial_seed() for _, dice in batches.of_step("critic", 5)]
    assert seeds == [seed_of(seed, "stage_1", "critic", 5, n, bits=56) for n in (0, 1)]
    again = [dice.initial_seed() for _, dice in batches.of_step("critic", 5)]
    assert again == seeds
    others = [batches.of_step("generator", 5), batches.of_step("critic", 6)]
    assert not {dice.initial_seed() for other in others for _, dice in other} & set(seeds)


def test_a_stage_of_trajectories_reads_their_states_and_sigmas(trajectories):
    batches = StageBatches(small_run(), "stage_2", trajectories, "cpu")
    batch, _ = next(iter(batches.of_step("generator", 0)))
    assert isinstance(batch, TrajectoryBatch)
    assert batch.sigmas.tolist() == [*SIGMAS, 0.0]
    assert batch.states.video.shape[:2] == batch.states.audio.shape[:2] == (2, 3)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.seconds=2", r"video of row \d+, clip /clips/\d+.mp4 in .*float32 of \(7, 4, 1, 1\)"),
        ("codec.text_tokens=7", r"video_text of row .*of \(7, 16\), got float32 of \(6, 16\); set"),
        ("model.audio.latent_channels=5", r"audio of row .* of \(26, 5\), got .* \(26, 3\)"),
    ],
)
def test_rows_of_another_run_are_refused_by_name_and_shape(clips, override, said):
    batches = StageBatches(small_run(override), "teacher", clips, "cpu")
    with pytest.raises(DatasetError, match=said):
        next(iter(batches.of_step("generator", 0)))


def test_the_text_of_a_trajectory_is_that_of_the_row_that_it_names(trajectories):
    batches = StageBatches(small_run(), "stage_2", trajectories, "cpu")
    table = LatentTable.open(trajectories)
    seed = small_run().stages.trained_stage("stage_2").optimiser.seed
    names = table.read(shuffled_indices(seed, 2, 4, table.rows), ["prompt_row"])["prompt_row"]
    prompts = LatentTable.open(f"{trajectories}-prompts")
    expected = prompts.read(prompts.find(names), ["video_text", "audio_text"])
    text = [batch.text for batch, _ in batches.of_step("generator", 2)]
    for stream in ("video", "audio"):
        read = torch.cat([getattr(of_batch, stream) for of_batch in text])
        assert torch.equal(read, torch.from_numpy(expected[f"{stream}_text"]))


def test_states_that_are_stored_in_half_their_size_are_trained_on_in_float32(tmp_path):
    table = LatentTable.open(write_trajectories(small_run(), tmp_path / "full"))
    rows = table.read(range(table.rows))
    del rows["row_digest"]
    for name in ("video_states", "audio_states"):
        rows[name] = rows[name].astype(np.float16)
    halves = tmp_path / "halves"
    commit(halves, "trajectories", [write_shard(halves, rows)], table.manifest.provenance)
    one, other = (
        next(StageBatches(small_run(), "stage_2", str(data), "cpu").of_step("generator", 0))[0]
        for data in (table.uri, halves)
    )
    for full, half in zip(one.states, other.states, strict=True):
        assert half.dtype == torch.float32
        assert torch.equal(half, full.half().float())


def test_trajectories_of_other_states_are_refused(trajectories):
    batches = StageBatches(small_run("data.seconds=2"), "stage_2", trajectories, "cpu")
    with pytest.raises(DatasetError, match=r"video_states of row \d+ in .* of \(3, 7, 4, 1, 1\)"):
        next(iter(batches.of_step("generator", 0)))


def test_a_clip_that_is_left_out_is_in_no_batch(clips):
    table = LatentTable.open(clips)
    left_out = table.read([3], ["clip_uri", "video"])
    uri = left_out["clip_uri"][0]
    batches = StageBatches(small_run(f"data.exclude=[{uri}]"), "teacher", clips, "cpu")
    seen = [b.latents.video for step in range(11) for b, _ in batches.of_step("generator", step)]
    assert len(torch.cat(seen).unique(dim=0)) == table.rows - 1
    assert not any(
        torch.equal(clip, torch.from_numpy(left_out["video"][0])) for clip in torch.cat(seen)
    )


def test_samples_of_a_step_leave_their_chain_together_whatever_the_rank_and_micro_batch(clips):
    def draws(role, step, **settings):
        batches = StageBatches(small_run(batch=12, **settings), "stage_3", clips, "cpu")
        return [batch.exit_draw for batch, _ in batches.of_step(role, step)]

    one = draws("generator", 5, micro_batch=2)
    assert len(one) == 6
    assert len({*one, *draws("generator", 5, micro_batch=3)}) == 1
    steps = [draws("critic", step)[0] for step in range(40)]
    assert len(set(steps)) == 40
    assert {int(draw * 4) for draw in steps} == {0, 1, 2, 3}
    assert draws("generator", 5) != draws("critic", 5)


def test_the_negative_prompt_stands_where_a_matching_stage_leaves_the_caption_out(clips):
    config = small_run("stages.stage_1.negative_prompt=a green disc")
    encoder = load_text_encoder(config, torch.device("cpu"))
    for stage, prompt in (("stage_1", "a green disc"), ("stage_3", ""), ("teacher", "")):
        batch, _ = next(StageBatches(config, stage, clips, "cpu").of_step("generator", 0))
        for null, features in zip(batch.null_text, encoder.encode([prompt]), strict=True):
            assert torch.equal(null, features.expand_as(null)), stage


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches") / "sizes"
    return write_sized_clips(small_run(), folder, {SQUARE: 5, WIDE: 7})


def test_a_stage_that_samples_from_noise_gets_prompts_and_the_shape_of_a_clip(clips):
    table = LatentTable.open(clips)
    seed = small_run().stages.trained_stage("stage_1").optimiser.seed
    rows = table.read(shuffled_indices(seed, 3, 4, table.rows), ["video_text"])
    for stage in ("stage_1", "stage_3"):
        batches = StageBatches(small_run(), stage, clips, "cpu")
        read = [batch for batch, _ in batches.of_step("critic", 3)]
        assert all(isinstance(batch, PromptBatch) for batch in read)
        assert {batch.shape for batch in read} == {ClipShape(2, latent_counts(small_run()), (1, 1))}
        text = torch.cat([batch.text.video for batch in read])
        assert torch.equal(text, torch.from_numpy(rows["video_text"]))


@pytest.mark.parametrize(
    ("stage", "folder", "spared"),
    [("stage_1", "latents", True), ("stage_3", "latents", True), ("stage_1", "text", False)],
)
def test_a_stage_that_samples_from_noise_opens_no_file_of_latents(tmp_path, stage, folder, spared):
    """The files are there, and hold nothing but zeros."""
    config = small_run(TWO_SIZES)
    data = write_sized_clips(config, tmp_path / "clips", {SQUARE: 5, WIDE: 7})
    for file in (tmp_path / "clips" / folder).iterdir():
        file.write_bytes(bytes(file.stat().st_size))
    batches = StageBatches(config, stage, data, "cpu")
    if spared:
        assert len([batch for step in range(8) for batch in batches.of_step("critic", step)]) == 16
    else:
        with pytest.raises(DatasetError, match=r"text/.*\.parquet"):
            next(batches.of_step("critic", 0))


@pytest.mark.parametrize("stage", ["teacher", "stage_1", "stage_3"])
def test_a_step_has_one_size_in_all_its_micro_batches_and_every_size_has_steps(two_sizes, stage):
    config = small_run(TWO_SIZES)
    batches, counts, grids = (
        StageBatches(config, stage, two_sizes, "cpu"),
        latent_counts(config),
        [],
    )
    for step in range(12):
        shapes = {shape_of(batch) for batch, _ in batches.of_step("generator", step)}
        (shape,) = shapes
        assert (shape.batch, shape.latents) == (2, counts)
        grids.append(shape.grid)
    assert set(grids) == {(1, 1), (1, 2)}


def shape_of(batch):
    if isinstance(batch, PromptBatch):
        return batch.shape
    video, audio = batch.latents
    return ClipShape(len(video), PerStream(video.shape[1], audio.shape[1]), tuple(video.shape[3:]))


def test_a_step_has_the_same_rows_however_it_is_cut_and_whatever_the_role(two_sizes):
    def text(stage, step, role, micro_batch):
        config = small_run(TWO_SIZES, micro_batch=micro_batch)
        batches = StageBatches(config, stage, two_sizes, "cpu")
        return torch.cat([batch.text.video for batch, _ in batches.of_step(role, step)])

    for step in range(6):
        whole = text("stage_3", step, "critic", 4)
        assert torch.equal(whole, text("stage_3", step, "critic", 1))
        assert torch.equal(whole, text("stage_3", step, "generator", 2))


def test_clips_of_sizes_that_the_run_does_not_have_are_in_no_batch(two_sizes):
    batches = StageBatches(small_run(), "teacher", two_sizes, "cpu")
    videos = [batch.latents.video for step in range(6) for batch, _ in batches.of_step("x", step)]
    assert {tuple(video.shape[3:]) for video in videos} == {(1, 1)}
    assert len(torch.cat(videos).unique(dim=0)) == 5
    with pytest.raises(
        DatasetError, match=r"clips of 64 x 64 or 96 x 32 in .* got 32 x 32, 32 x 6"
    ):
        other = ("data.height=64", "data.width=64", "data.buckets=[{height: 96, width: 32}]")
        StageBatches(small_run(*other), "stage_1", two_sizes, "cpu")
