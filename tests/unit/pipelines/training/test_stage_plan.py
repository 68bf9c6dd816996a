"""What each stage starts from, and what a plan refuses before anything is started."""

from pathlib import Path

import pytest

from infra.dataset.manifest import read_manifest
from infra.errors import CheckpointError, ConfigError
from infra.presets import load_preset
from infra.runs.provenance import read_model_manifest
from infra.storage.object_store import ObjectStore
from omniforcing_model.weights.checkpoint_files import folder_digest
from pipelines.training.stage_plan import make_plan, trained_stages
from pipelines.training.worker_group import training_groups
from tests.worlds.training import publish, small_run, write_clips, write_model, write_trajectories

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


def walk(plan, until=None):
    """The stages of a plan by name, each made before the next: resolved with random results."""
    stages = {}
    for name in plan.stages:
        stage = stages[name] = plan.resolve(name)
        if name == until:
            break
        if stage.result is None:
            finish(stage)
            stage = plan.resolve(name)
        plan = plan.with_result(stage)
    return stages


def finish(stage):
    """Leave a random result where the stage's own is expected."""
    if stage.name == "trajectories":
        rows = write_trajectories(stage.work.config, stage.folder)
        manifest = read_manifest(ObjectStore(rows))
        provenance = manifest.provenance | {"recipe": stage.recipe}
        whole = manifest.model_copy(update={"provenance": provenance})
        (stage.folder / "manifest.json").write_text(whole.model_dump_json())
        return
    publish(stage, stage.recipe, seed=len(stage.name))


def test_each_stage_starts_from_the_model_before_it(plan, tmp_path):
    run = tmp_path / "run" / "stages"
    whole = plan()
    assert whole.stages == whole.pending == ALL
    stages = walk(whole)
    teacher = str(run / "teacher" / "model")
    assert stages["teacher"].work.starts == {}
    every_role = dict.fromkeys(("generator", "critic", "teacher"), teacher)
    assert stages["stage_1"].work.starts == every_role
    assert stages["trajectories"].work.model == str(run / "stage_1" / "model")
    assert stages["stage_2"].work.starts == {"generator": str(run / "stage_1" / "model")}
    assert stages["stage_3"].work.starts == every_role | {
        "generator": str(run / "stage_2" / "model")
    }


def test_stages_read_the_clips_and_only_stage_2_the_trajectories(plan, clips, tmp_path):
    stages = walk(plan())
    rows = str(tmp_path / "run" / "trajectories")
    data = {name: stage.work.data for name, stage in stages.items() if name != "trajectories"}
    assert data == dict.fromkeys(("teacher", "stage_1", "stage_3"), clips) | {"stage_2": rows}
    assert (stages["trajectories"].work.dataset, stages["trajectories"].work.out) == (clips, rows)
    prompts = {n: stage.work.prompts for n, stage in stages.items() if n != "trajectories"}
    assert prompts == dict.fromkeys(data) | {"stage_2": clips}


def test_the_inputs_of_a_stage_are_the_results_before_it_by_role_and_digest(plan, tmp_path):
    stages = walk(plan())
    digests = {
        name: read_model_manifest(tmp_path / "run" / "stages" / name / "model").digest
        for name in ("teacher", "stage_1", "stage_2")
    }
    refs = stages["stage_3"].inputs
    assert [(ref.role, ref.kind, ref.name) for ref in refs] == [
        ("generator", "model", "tiny-stage_2"),
        ("critic", "model", "tiny-teacher"),
        ("teacher", "model", "tiny-teacher"),
        ("clips", "dataset", "clips"),
    ]
    assert [ref.digest for ref in refs[:3]] == [
        digests["stage_2"],
        digests["teacher"],
        digests["teacher"],
    ]
    assert refs[0].uri == "../../../stages/stage_2/model"
    of_stage_2 = {ref.role: ref for ref in stages["stage_2"].inputs}
    assert of_stage_2["generator"].digest == digests["stage_1"]
    assert of_stage_2["trajectories"].kind == of_stage_2["trajectories"].name == "trajectories"
    assert of_stage_2["trajectories"].uri == "../../../trajectories"


def test_stages_are_put_in_their_order_and_stage_2_brings_its_trajectories(plan, tmp_path):
    start = {"teacher": model(tmp_path, "teacher")}
    assert plan("stage_2", "stage_1", **start).stages == ("stage_1", "trajectories", "stage_2")


def test_a_teacher_from_outside_teaches_and_is_where_stage_1_and_the_critics_start(plan, tmp_path):
    teacher = model(tmp_path, "teacher")
    stages = walk(plan("stage_1", "stage_2", "stage_3", teacher=teacher))
    assert stages["stage_1"].work.starts["generator"] == teacher
    for stage in ("stage_1", "stage_3"):
        starts = stages[stage].work.starts
        assert starts["critic"] == starts["teacher"] == teacher
    refs = {ref.role: ref for ref in stages["stage_1"].inputs}
    assert refs["teacher"].digest == folder_digest(Path(teacher))


def test_a_generator_from_outside_is_where_the_first_stage_starts_and_no_other(plan, tmp_path):
    teacher, student = model(tmp_path, "teacher"), model(tmp_path, "student", seed=1)
    stages = walk(plan("stage_2", "stage_3", teacher=teacher, generator=student))
    assert stages["trajectories"].work.model == student
    assert stages["stage_2"].work.starts["generator"] == student
    assert stages["stage_3"].work.starts["generator"].endswith("run/stages/stage_2/model")


def test_a_teacher_may_be_trained_further(plan, tmp_path):
    start = model(tmp_path, "start")
    stages = walk(plan("teacher", "stage_1", generator=start))
    assert stages["teacher"].work.starts == {"generator": start}
    assert stages["stage_1"].work.starts["generator"].endswith("run/stages/teacher/model")


def test_a_later_stage_may_start_elsewhere_too(plan, tmp_path):
    teacher, student = model(tmp_path, "teacher"), model(tmp_path, "student", seed=1)
    start = {"teacher": teacher, "stage_3.generator": student}
    stages = walk(plan("stage_1", "stage_2", "stage_3", **start))
    assert stages["stage_1"].work.starts["generator"] == teacher
    assert stages["stage_3"].work.starts["generator"] == student


def test_a_critic_may_start_elsewhere(plan, tmp_path):
    teacher, critic = model(tmp_path, "teacher"), model(tmp_path, "critic", seed=1)
    stage = plan("stage_1", teacher=teacher, critic=critic).resolve("stage_1")
    assert stage.work.starts == {"generator": teacher, "critic": critic, "teacher": teacher}


def test_a_stage_goes_on_from_what_an_earlier_run_has_left(plan, tmp_path):
    walk(plan("teacher", "stage_1"))
    stage = plan("stage_2").resolve("trajectories")
    assert stage.work.model == str(tmp_path / "run" / "stages" / "stage_1" / "model")
    assert stage.inputs[0].name == "tiny-stage_1"


def test_a_model_that_nobody_makes_is_named_with_both_ways_out(plan):
    with pytest.raises(CheckpointError) as refusal:
        plan("stage_1")
    assert "run the stage teacher too, or give --start teacher=MODEL" in str(refusal.value)


def test_a_stage_that_has_no_steps_nor_a_start_is_not_offered(plan):
    with pytest.raises(CheckpointError, match=r"got none at .*; give --start teacher=MODEL"):
        plan("stage_1", config=small_run("stages.teacher.optimiser.steps=0"))


def test_a_stage_without_steps_hands_on_what_its_generator_starts_from(plan, tmp_path):
    teacher = model(tmp_path, "teacher")
    config = small_run("stages.stage_1.optimiser.steps=0")
    stage = plan("stage_1", config=config, teacher=teacher).resolve("stage_1")
    assert stage.is_link
    assert stage.work.starts == {"generator": teacher}
    (ref,) = stage.inputs
    assert (ref.role, ref.digest) == ("generator", folder_digest(Path(teacher)))
    assert stage.recipe["settings"]["optimiser"]["steps"] == 0
    assert stage.recipe["inputs"] == {"generator": ref.digest}


def test_a_stage_2_without_steps_needs_no_trajectories(plan, tmp_path):
    config = small_run("stages.stage_2.optimiser.steps=0")
    assert plan("stage_2", config=config, generator=model(tmp_path, "start")).stages == ("stage_2",)


def test_a_stage_without_steps_is_refused_where_nothing_is_to_be_handed_on(plan):
    config = small_run("stages.teacher.optimiser.steps=0")
    with pytest.raises(CheckpointError, match=r"teacher, which has no steps.*--start generator="):
        plan("teacher", config=config)
    config = small_run("stages.stage_1.optimiser.steps=0")
    with pytest.raises(CheckpointError, match=r"start the generator of stage_1 from, got none"):
        plan("stage_1", config=config)


@pytest.mark.parametrize(
    ("stage", "settings", "said"),
    [
        ("stage_1", ["critic_ratio=9"], r"none of the generator in 4 steps; .*, or set it to 0"),
        ("stage_3", ["critic_ratio=5"], r"none of the generator in 4 steps; raise stages\.stage_3"),
    ],
)
def test_a_role_that_would_not_learn_is_refused(plan, tmp_path, stage, settings, said):
    config = small_run(*(f"stages.{stage}.{setting}" for setting in settings))
    with pytest.raises(ConfigError, match=said):
        plan(stage, config=config, generator=model(tmp_path, "start"))


def test_the_stages_of_a_configuration_are_from_the_first_with_steps_to_the_last():
    ends = [f"stages.{stage}.optimiser.steps=0" for stage in ("teacher", "stage_3")]
    assert trained_stages(small_run(*ends)) == ("stage_1", "stage_2")
    between = small_run("stages.stage_1.optimiser.steps=0", "stages.stage_3.optimiser.steps=0")
    assert trained_stages(between) == ("teacher", "stage_1", "stage_2")
    trained = {name: trained_stages(load_preset(name)) for name in ("tiny", "paper", "released")}
    assert trained == {
        "tiny": ("teacher", "stage_1", "stage_2", "stage_3"),
        "paper": ("stage_1", "stage_2", "stage_3"),
        "released": ("stage_2", "stage_3"),
    }


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


def test_a_stage_is_done_when_its_result_is_of_this_configuration(plan):
    whole = plan()
    finish(whole.resolve("teacher"))
    teacher = whole.resolve("teacher")
    assert teacher.result.digest == folder_digest(teacher.folder)
    onward = whole.with_result(teacher)
    assert onward.pending == ALL[1:]
    assert onward.resolve("stage_1").result is None


def test_a_result_of_another_configuration_is_refused_by_key_not_replaced(plan):
    walk(plan())
    changed = plan(config=small_run("stages.teacher.caption_dropout=0.5"))
    with pytest.raises(CheckpointError, match=r"settings\.caption_dropout: 0\.1 -> 0\.5"):
        changed.resolve("teacher")
    changed = plan(config=small_run("data.seconds=5"))
    with pytest.raises(CheckpointError, match=r"data\.seconds: 1 -> 5"):
        changed.resolve("teacher")
    changed = plan(config=small_run("stages.trajectories.seed=5"))
    with pytest.raises(CheckpointError, match=r"trajectories to be .*settings\.seed: \d+ -> 5"):
        walk(changed)


def test_a_model_made_of_another_teacher_is_refused(plan, tmp_path):
    walk(plan("stage_1", teacher=model(tmp_path, "one")))
    other = plan("stage_1", teacher=model(tmp_path, "other", seed=1))
    with pytest.raises(CheckpointError, match=r"inputs\.teacher: sha256"):
        other.resolve("stage_1")


def test_stages_share_workers_unless_trajectories_need_their_place(plan, tmp_path):
    start = {"teacher": model(tmp_path, "teacher")}
    assert training_groups(plan(), beside=True) == [ALL]
    assert training_groups(plan(), beside=False) == [("teacher", "stage_1"), ("stage_2", "stage_3")]
    assert training_groups(plan("stage_1", **start), beside=False) == [("stage_1",)]
    of_stage_2 = plan("stage_2", generator=start["teacher"])
    assert training_groups(of_stage_2, beside=False) == [("stage_2",)]


def test_workers_wait_for_trajectories_only_if_they_train_with_them(plan, tmp_path):
    start = model(tmp_path, "start")
    waiting = ("trajectories", "stage_2")
    assert training_groups(plan("stage_2", generator=start), beside=True) == [waiting]
    without = plan("stage_1", "trajectories", teacher=start)
    assert training_groups(without, beside=True) == [("stage_1",)]
    assert training_groups(plan("trajectories", generator=start), beside=True) == []


def test_workers_wait_for_a_stage_without_steps_as_they_do_for_trajectories(plan):
    config = small_run("stages.stage_1.optimiser.steps=0", "stages.stage_3.optimiser.steps=0")
    whole = plan(config=config)
    assert training_groups(whole, beside=True) == [ALL[:4]]
    assert training_groups(whole, beside=False) == [("teacher",), ("stage_2",)]
