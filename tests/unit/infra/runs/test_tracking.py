"""MLflow on a file of the test's own: what a person finds there, and what nobody wants there."""

import resource

import pytest

from infra.errors import CheckpointError, ConfigError, MachineError
from infra.runs.provenance import ArtifactRef
from infra.runs.tracking import (
    CHAMPION,
    COMMIT_TAG,
    RECIPE_TAG,
    RunIndex,
    Tracker,
    default_tracking_uri,
    registered_model_folder,
)

CLIPS = ArtifactRef(
    role="clips", kind="dataset", name="clips", digest="sha256:" + "1" * 64, uri="/clips"
)
TEACHER = ArtifactRef(
    role="teacher", kind="model", name="tiny-teacher", digest="sha256:2", uri="../teacher"
)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return Tracker(default_tracking_uri(None, folder), "omniforcing", folder / "artifacts")


@pytest.fixture(scope="module")
def trained(tracker, tmp_path_factory):
    """A teacher's run, and a stage I run that started from it."""
    folder = tmp_path_factory.mktemp("models")
    with tracker.run("tiny-teacher", "teacher", {"settings.batch": 4}, (CLIPS,), {}) as run:
        run.log(1, {"generator_loss": 2.0})
        run.log(2, {"generator_loss": 1.0})
        run.record_result(TEACHER.digest, str(folder / "teacher"))
    tags = {RECIPE_TAG: "sha256:r", COMMIT_TAG: "c0ffee"}
    with tracker.run("tiny-stage_1", "stage_1", {}, (TEACHER, CLIPS), tags) as second:
        second.record_result("sha256:3", str(folder / "stage_1"))
        second.register("tiny-stage_1", "sha256:3", folder / "stage_1")
    return run.run_id, second.run_id, folder


def client_of(tracker):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


def test_a_run_has_its_settings_its_curve_and_its_dataset(tracker, trained):
    run = client_of(tracker).get_run(trained[0])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"settings.batch": "4"}
    curve = client_of(tracker).get_metric_history(trained[0], "generator_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 2.0), (2, 1.0)]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "clips"
    assert CLIPS.digest in dataset.source
    assert CLIPS.digest.removeprefix("sha256:").startswith(dataset.digest)


def test_a_run_is_linked_to_the_run_its_input_came_from(tracker, trained):
    tags = client_of(tracker).get_run(trained[1]).data.tags
    assert tags["omniforcing.upstream_run.teacher"] == trained[0]


def test_what_made_a_digest_is_found_with_its_inputs(tracker, trained):
    run = RunIndex(tracker.uri).producer("sha256:3")
    assert run.run_id == trained[1]
    assert run.uri == str(trained[2] / "stage_1")
    assert (run.recipe_digest, run.commit) == ("sha256:r", "c0ffee")
    assert run.inputs == (TEACHER, CLIPS)
    assert RunIndex(tracker.uri).producer("sha256:nobody") is None


def test_a_new_model_is_a_candidate_and_becomes_champion_when_promoted(tracker, trained):
    folder = trained[2] / "stage_1"
    assert registered_model_folder("models:/tiny-stage_1@candidate", tracker.uri) == folder
    assert registered_model_folder("models:/tiny-stage_1/1", tracker.uri) == folder
    with pytest.raises(CheckpointError, match="models:/tiny-stage_1@champion"):
        registered_model_folder("models:/tiny-stage_1@champion", tracker.uri)
    tracker.promote("tiny-stage_1", "candidate", CHAMPION)
    assert registered_model_folder("models:/tiny-stage_1@champion", tracker.uri) == folder


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_that_breaks_off_keeps_its_figures_and_makes_nothing(tracker, error, status):
    with pytest.raises(type(error)), tracker.run("broken", "teacher", {}, (), {}) as run:
        run.log(1, {"generator_loss": 3.0})
        run.record_result(f"sha256:{status}", "/nowhere")
        raise error
    logged = client_of(tracker).get_run(run.run_id)
    assert logged.info.status == status
    assert logged.data.metrics == {"generator_loss": 3.0}
    assert not tracker.knows(f"sha256:{status}")


def test_long_curves_and_many_settings_arrive_whole(tracker):
    settings = {f"settings.number_{n}": n for n in range(150)}
    with tracker.run("long", "teacher", settings, (), {}) as run:
        for step in range(1, 1501):
            run.log(step, {"critic_loss": step / 2, "generator_loss": step / 4})
    logged = client_of(tracker).get_run(run.run_id)
    assert len(logged.data.params) == 150
    history = client_of(tracker).get_metric_history(run.run_id, "critic_loss")
    assert [point.step for point in history] == list(range(1, 1501))


def test_nothing_is_written_where_the_program_runs(tracker, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tracker.run("elsewhere", "teacher", {}, (CLIPS,), {}) as run:
        run.record_result("sha256:4", str(tmp_path / "model"))
        run.register("tiny-elsewhere", "sha256:4", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_looking_for_lineage_makes_no_file(tmp_path):
    uri = default_tracking_uri(None, tmp_path)
    with pytest.raises(ConfigError, match=r"mlflow\.db"):
        RunIndex(uri)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_of_at_once(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(MachineError, match=rf"^expected room to write at {tmp_path}/new, got"):
            Tracker(default_tracking_uri(None, tmp_path / "new"), "omniforcing")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "new").iterdir()) == []


def test_an_address_that_nobody_answers_is_refused():
    with pytest.raises(ConfigError, match="tracking"):
        Tracker("nonsense://somewhere", "omniforcing")
