import numpy as np
import pytest
import torch

from actors.training.guided_sampling import trajectory_sigmas
from actors.training.teacher_sampler import TeacherSampler, TrajectoryWork
from actors.training.trajectory_shards import prompt_table, trajectory_shards
from infra.dataset.latent_table import LatentTable
from infra.dataset.manifest import commit
from infra.dataset.shards import ShardRecord
from infra.errors import DatasetError
from infra.runs.stage_recipe import stage_recipe
from omniforcing_model.errors import DivergenceError
from omniforcing_model.weights.checkpoint_files import load_model, save_model
from tests.worlds.config_trace import reads_of, unanswered
from tests.worlds.sized_clips import SQUARE, TWO_SIZES, WIDE, write_sized_clips
from tests.worlds.training import latent_counts, small_run, write_clips, write_model


@pytest.fixture
def sampler(tmp_path):
    config = small_run("stages.trajectories.count=6", "stages.trajectories.batch=4")
    clips = write_clips(config, tmp_path / "clips")
    model = write_model(config, tmp_path / "model")

    def of(name="out"):
        return TeacherSampler(TrajectoryWork(config, model, clips, str(tmp_path / name)))

    return of


def rows_of(folder, records):
    commit(folder, "trajectories", records, {})
    table = LatentTable.open(folder)
    return table.read(range(table.rows))


def test_a_trajectory_runs_from_noise_to_a_clean_clip_for_a_prompt_of_the_dataset(
    sampler, tmp_path
):
    rows = rows_of(tmp_path / "out", [sampler().write(number) for number in (0, 1)])
    counts = latent_counts(small_run())
    assert rows["video_states"].shape == (6, 3, counts.video, 4, 1, 1)
    assert rows["audio_states"].shape == (6, 3, counts.audio, 3)
    assert all(caption.startswith("clip number") for caption in rows["caption"])
    assert len(set(rows["caption"])) == 6
    noise = rows["audio_states"][:, 0]
    assert abs(noise.mean()) < 0.2
    assert abs(noise.std() - 1) < 0.2


def test_the_same_number_gives_the_same_shard_and_each_trajectory_its_own_noise(sampler, tmp_path):
    assert sampler("one").write(1) == sampler("other").write(1)
    rows = rows_of(tmp_path / "out", [sampler().write(number) for number in (0, 1)])
    starts = rows["audio_states"][:, 0].reshape(6, -1)
    assert len(np.unique(starts, axis=0)) == 6


def test_how_many_stand_in_a_file_changes_no_trajectory(tmp_path):
    config = small_run("stages.trajectories.count=6", "stages.trajectories.batch=2")
    clips = write_clips(config, tmp_path / "clips")
    model = write_model(config, tmp_path / "model")

    def rows(rows_per_shard):
        overrides = [f"stages.trajectories.{key}" for key in ("count=6", "batch=2")]
        several = small_run(*overrides, f"stages.trajectories.rows_per_shard={rows_per_shard}")
        out = tmp_path / str(rows_per_shard)
        sampler = TeacherSampler(TrajectoryWork(several, model, clips, str(out)))
        records = [sampler.write(number) for number in range(-(-6 // rows_per_shard))]
        return [record.rows for record in records], rows_of(out, records)

    counts, few = rows(3)
    assert counts == [3, 3]
    counts, many = rows(5)
    assert counts == [5, 1]
    assert few["row_id"].tolist() == many["row_id"].tolist()
    for name in ("video_states", "audio_states"):
        np.testing.assert_allclose(few[name], many[name], atol=1e-5)


def test_a_trajectory_names_its_prompts_row_and_holds_none_of_its_text(sampler, tmp_path):
    rows = rows_of(tmp_path / "out", [sampler().write(number) for number in (0, 1)])
    names = {"caption", "height", "width", "prompt_row", "prompt_digest"}
    names |= {"video_states", "audio_states"}
    assert set(rows) == {"row_id", "row_digest", *names}
    table = LatentTable.open(tmp_path / "clips")
    numbers = table.find(rows["prompt_row"])
    assert table.read(numbers, ["caption"])["caption"].tolist() == rows["caption"].tolist()
    assert table.text_digests(numbers) == rows["prompt_digest"].tolist()


def test_states_are_stored_and_products_made_as_the_settings_say(tmp_path):
    clips = write_clips(small_run(), tmp_path / "clips")
    model = write_model(small_run(), tmp_path / "model")

    def rows(**settings):
        of_stage = [f"stages.trajectories.{name}={value}" for name, value in settings.items()]
        out = tmp_path / "-".join(settings.values())
        work = TrajectoryWork(small_run(*of_stage), model, clips, str(out))
        return rows_of(out, [TeacherSampler(work).write(0)])

    full = rows(precision="float32", states="float32")
    halves = rows(precision="float32", states="float16")
    short = rows(precision="bfloat16", states="float16")
    for name in ("video_states", "audio_states"):
        assert full[name].dtype == np.float32
        assert halves[name].dtype == short[name].dtype == np.float16
        np.testing.assert_array_equal(halves[name], full[name].astype(np.float16))
        off = np.abs(short[name][:, -1].astype(np.float32) - full[name][:, -1])
        assert 0 < off.max() < 0.1
        # It is the products that are short, not the states from step to step.
        np.testing.assert_array_equal(short[name][:, 0], halves[name][:, 0])


def test_a_state_that_its_type_cannot_hold_is_named_and_not_stored(tmp_path):
    config = small_run("stages.trajectories.states=float16")
    clips = write_clips(config, tmp_path / "clips")
    write_model(config, tmp_path / "model")
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        model.audio.proj_out.bias.fill_(1e6)
    save_model(tmp_path / "model", model, {})
    work = TrajectoryWork(config, str(tmp_path / "model"), clips, str(tmp_path / "out"))
    with pytest.raises(DivergenceError, match="the audio trajectories 0 to 3"):
        TeacherSampler(work).write(0)
    assert not (tmp_path / "out").exists()


def test_a_prompt_of_another_shape_is_refused_by_name(sampler, tmp_path):
    clips = write_clips(small_run("codec.text_tokens=9"), tmp_path / "others")
    work = TrajectoryWork(small_run(), str(tmp_path / "model"), clips, str(tmp_path / "out"))
    with pytest.raises(DatasetError, match=r"video_text of row .*clip /clips.*\(9, 16\)"):
        TeacherSampler(work).write(0)


def test_guided_trajectories_are_states_of_the_teachers_many_steps(tmp_path):
    guided = ("stages.trajectories.guided=true", "sampling.teacher_steps=12")
    plain = ("sampling.student_sigmas=[1.0, 0.9, 0.5]", "stages.trajectories.batch=2")
    config = small_run(*plain, *guided)
    model = write_model(config, tmp_path / "model")
    clips = write_clips(config, tmp_path / "clips")

    def rows(name, *overrides):
        work = TrajectoryWork(small_run(*plain, *overrides), model, clips, str(tmp_path / name))
        return rows_of(tmp_path / name, [TeacherSampler(work).write(0)])

    one, other = rows("guided", *guided), rows("pushed", *guided, "sampling.guidance_audio=9.0")
    assert one["audio_states"].shape[1] == len(trajectory_sigmas(config, config.model)) == 4
    start, *_, end = torch.from_numpy(one["audio_states"]).unbind(1)
    assert start.numpy() == pytest.approx(rows("few")["audio_states"][:, 0])
    assert not torch.allclose(end, torch.from_numpy(rows("few")["audio_states"][:, -1]), atol=1e-3)
    assert not torch.allclose(end, torch.from_numpy(other["audio_states"][:, -1]), atol=1e-3)


def test_as_an_actor_it_answers_with_the_records_of_its_shards(sampler):
    answer = sampler()({"id": np.array([1, 0])})
    records = [ShardRecord.model_validate_json(record) for record in answer["record"]]
    assert list(answer["id"]) == [1, 0]
    assert [record.rows for record in records] == [2, 4]


@pytest.mark.parametrize("guided", ["true", "false"])
def test_whatever_the_sampler_reads_of_its_configuration_the_recipe_answers_for(tmp_path, guided):
    config = small_run(f"stages.trajectories.guided={guided}", "sampling.teacher_steps=12")
    model = write_model(config, tmp_path / "model")
    clips = write_clips(config, tmp_path / "clips")
    with reads_of(config) as read:
        TeacherSampler(TrajectoryWork(config, model, clips, str(tmp_path / "out"))).write(0)
    assert {"data.seconds", "sampling.student_sigmas", "stages.trajectories.seed"} <= read
    assert unanswered(read, "trajectories", stage_recipe(config, "trajectories", ())) == set()


def test_a_trajectory_has_the_size_of_its_prompts_row_and_a_file_has_one(tmp_path):
    several = ("stages.trajectories.count=9", "stages.trajectories.batch=2")
    config = small_run(TWO_SIZES, *several)
    clips = write_sized_clips(config, tmp_path / "clips", {SQUARE: 4, WIDE: 5})
    work = TrajectoryWork(
        config, write_model(config, tmp_path / "model"), clips, str(tmp_path / "o")
    )
    sampler = TeacherSampler(work)
    count = len(trajectory_shards(config, prompt_table(config, clips)))
    rows = rows_of(tmp_path / "o", [sampler.write(number) for number in range(count)])
    assert len(rows["row_id"]) == 9
    table = LatentTable.open(clips)
    widths = table.read(table.find(rows["prompt_row"]), ["width"])["width"]
    assert rows["width"].tolist() == widths.tolist()
    assert set(widths) == {SQUARE.width, WIDE.width}
    for width, states in zip(widths, rows["video_states"], strict=True):
        assert states.shape[3:] == (1, width // 32)
