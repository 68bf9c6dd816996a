"""What each stage starts from, and what a plan refuses before anything is started."""

from pathlib import Path

import pytest

from infra.errors import CheckpointError, ConfigError
from infra.runs.provenance import ModelManifest, digest_of
from omniforcing_model.weights.checkpoint_files import folder_digest
from pipelines.training.stage_plan import make_plan
from pipelines.training.worker_group import training_groups
from tests.worlds.training import small_run, write_clips, write_model

ALL = ("teacher", "stage_1", "trajectories", "stage_2", "stage_3")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(small_run(), tmp_path_factory.mktemp("plan") / "clips")


@pytest.fixture
def plan(clips, tmp_path):
    def of(*stages, config=None, run=None, **start):
        chosen = small_run() if config is None else config
        return make_plan(chosen, clips, str(run or tmp_path / "run"), stages or ALL, start)

    return of


def model(tmp_path, name, seed=0):
    return write_model(small_run(), tmp_path / name, seed=seed)


def test_each_stage_starts_from_the_model_before_it(plan, tmp_path):
    run = tmp_path / "run" / "stages"
    whole = plan()
    assert whole.stages == ALL
    assert whole.starts("teacher") == {}
    teacher = str(run / "teacher" / "model")
    assert whole.starts("stage_1") == dict.fromkeys(("generator", "critic", "teacher"), teacher)
    assert whole.starts("trajectories") == {"generator": str(run / "stage_1" / "model")}
    assert whole.starts("stage_2") == {"generator": str(run / "stage_1" / "model")}
    assert whole.starts("stage_3") == {
        "generator": str(run / "stage_2" / "model"),
        "critic": teacher,
        "teacher": teacher,
    }


def test_stages_are_put_in_their_order_and_stage_2_brings_its_trajectories(plan, tmp_path):
    start = {"teacher": model(tmp_path, "teacher")}
    assert plan("stage_2", "stage_1", **start).stages == ("stage_1", "trajectories", "stage_2")


def test_a_teacher_from_outside_teaches_and_is_where_stage_1_and_the_critics_start(plan, tmp_path):
    teacher = model(tmp_path, "teacher")
    given = plan("stage_1", "stage_2", "stage_3", teacher=teacher)
    assert given.starts("stage_1")["generator"] == teacher
    for stage in ("stage_1", "stage_3"):
        assert given.starts(stage)["critic"] == given.starts(stage)["teacher"] == teacher
    refs = {ref.role: ref for ref in given.work("stage_1").inputs}
    assert refs["teacher"].digest == folder_digest(Path(teacher))


def test_a_generator_from_outside_is_where_the_first_stage_starts_and_no_other(plan, tmp_path):
    teacher, student = model(tmp_path, "teacher"), model(tmp_path, "student", seed=1)
    given = plan("stage_2", "stage_3", teacher=teacher, generator=student)
    assert given.starts("trajectories")["generator"] == student
    assert given.starts("stage_2")["generator"] == student
    assert given.starts("stage_3")["generator"].endswith("run/stages/stage_2/model")


def test_a_later_stage_may_start_elsewhere_too(plan, tmp_path):
    teacher, student = model(tmp_path, "teacher"), model(tmp_path, "student", seed=1)
    start = {"teacher": teacher, "stage_3.generator": student}
    given = plan("stage_1", "stage_2", "stage_3", **start)
    assert given.starts("stage_1")["generator"] == teacher
    assert given.starts("stage_3")["generator"] == student


def test_a_critic_may_start_elsewhere(plan, tmp_path):
    teacher, critic = model(tmp_path, "teacher"), model(tmp_path, "critic", seed=1)
    assert plan("stage_1", teacher=teacher, critic=critic).starts("stage_1")["critic"] == critic


def test_a_model_that_nobody_makes_is_named_with_both_ways_out(plan):
    with pytest.raises(CheckpointError) as refusal:
        plan("stage_1")
    assert "run the stage teacher too, or give --start generator=MODEL" in str(refusal.value)


@pytest.mark.parametrize(
    ("stages", "start", "message"),
    [
        (("stage_4",), {}, r"teacher, stage_1, trajectories, stage_2, stage_3, got stage_4"),
        (("stage_1",), {"pupil": "x"}, r"generator, critic, teacher, .*got pupil"),
        (("teacher", "stage_1"), {"teacher": "."}, r"--start generator=MODEL"),
    ],
)
def test_unknown_names_and_contradictions_are_refused(plan, stages, start, message):
    with pytest.raises(ConfigError, match=message):
        plan(*stages, **start)


def test_a_run_folder_that_workers_cannot_write_to_is_refused(plan):
    with pytest.raises(ConfigError, match="a folder that all workers share"):
        plan(run="s3://bucket/run")


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        make_plan(small_run(), str(tmp_path / "nowhere"), str(tmp_path / "run"), ALL, {})


def finish(plan, stage, recipe):
    folder = plan.folder(stage)
    write_model(plan.config, folder)
    manifest = ModelManifest(
        name=stage,
        stage=stage,
        digest=folder_digest(folder),
        recipe_digest=digest_of(recipe),
        recipe=recipe,
        inputs=(),
        commit="unknown",
        seed=0,
        step=4,
        metrics={},
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())


def test_a_stage_is_done_when_its_model_is_of_this_configuration(plan):
    whole = plan()
    assert not whole.is_done("teacher")
    finish(whole, "teacher", whole.recipe("teacher"))
    assert whole.is_done("teacher")
    assert not whole.is_done("stage_1")
    assert not whole.is_done("stage_2")


def test_a_model_of_another_configuration_is_refused_by_key_not_replaced(plan):
    whole = plan()
    finish(whole, "teacher", whole.recipe("teacher"))
    changed = plan(config=small_run("stages.teacher.caption_dropout=0.5"))
    with pytest.raises(CheckpointError, match=r"settings\.caption_dropout: 0\.1 -> 0\.5"):
        changed.is_done("teacher")


def test_a_model_made_of_another_teacher_is_refused(plan, tmp_path):
    one = plan("stage_1", teacher=model(tmp_path, "one"))
    finish(one, "stage_1", one.recipe("stage_1"))
    other = plan("stage_1", teacher=model(tmp_path, "other", seed=1))
    with pytest.raises(CheckpointError, match=r"inputs\.teacher: sha256"):
        other.is_done("stage_1")


def test_stages_share_workers_unless_trajectories_need_their_place():
    assert training_groups(ALL, beside=True) == [("teacher", "stage_1", "stage_2", "stage_3")]
    assert training_groups(ALL, beside=False) == [("teacher", "stage_1"), ("stage_2", "stage_3")]
    assert training_groups(("stage_1",), beside=False) == [("stage_1",)]
    assert training_groups(("trajectories", "stage_2"), beside=False) == [("stage_2",)]
    assert training_groups(("trajectories",), beside=True) == []
