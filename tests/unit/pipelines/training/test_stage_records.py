"""A run whose MLflow is away goes on, and tells it later what it has missed."""

import shutil

import mlflow
import pytest

from infra.errors import CheckpointError
from infra.leases.output_lease import hold_output
from infra.runs.loss_curve import LossCurve
from infra.runs.tracking import RunIndex, Tracker, registered_model_folder
from infra.terminal.progress import SilentProgress
from omniforcing_model.errors import DivergenceError
from pipelines.training.distill import distill
from pipelines.training.stage_plan import make_plan
from pipelines.training.stage_records import StageRecords
from pipelines.training.stage_watch import watch_training
from tests.worlds.training import Workers, publish, small_run, write_clips, write_curve

CANDIDATE = "models:/tiny-teacher@candidate"


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory):
    """MLflow's file before anything is in it, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    Tracker(f"sqlite:///{folder}/mlflow.db", "omniforcing", folder)
    return folder / "mlflow.db"


@pytest.fixture
def run(tmp_path, empty_file):
    """A run of one stage whose workers do what a test says."""
    run = Run(tmp_path)
    shutil.copy(empty_file, run.file)
    return run


class Run:
    def __init__(self, folder):
        self.clips = write_clips(small_run(), folder / "clips")
        self.folder = folder / "run"
        self.folder.mkdir()
        self.file = self.folder / "mlflow.db"
        self.uri = f"sqlite:///{self.file}"
        self.plan = make_plan(small_run(), self.clips, str(self.folder), ("teacher",), {})
        self.stage = self.plan.resolve("teacher")
        self.curve = self.stage.work.folder / "curve.jsonl"

    def watch(self, *actions, error=None):
        tracker = StageRecords(self.plan, self.uri).tracker()
        workers = Workers(*actions, error=error)
        with hold_output(self.folder, "distill", 60.0) as lease:
            return watch_training(self.stage, tracker, SilentProgress(), workers, lease)

    def again(self):
        return distill(
            small_run(), self.clips, str(self.folder), ("teacher",), {}, SilentProgress()
        )

    def take_mlflow_away(self):
        self.file.rename(self.file.with_suffix(".away"))

    def bring_it_back(self):
        self.file.unlink(missing_ok=True)
        self.file.with_suffix(".away").rename(self.file)

    def runs(self):
        client = mlflow.MlflowClient(tracking_uri=self.uri)
        experiments = [e.experiment_id for e in client.search_experiments()]
        return [r for r in client.search_runs(experiments) if r.info.run_name == "tiny-teacher"]


def test_training_goes_on_while_mlflow_is_away_and_the_next_run_tells_it_all(run, caplog):
    manifest = run.watch(
        lambda: write_curve(run.curve, 3),
        run.take_mlflow_away,
        lambda: publish(run.stage, run.stage.recipe),
    )
    assert manifest.recipe == run.stage.recipe
    assert "MLflow has not taken figures" in caplog.text
    run.bring_it_back()
    with pytest.raises(CheckpointError):
        registered_model_folder(CANDIDATE, run.uri)
    summary = run.again()
    assert not summary.stages[0].made_now
    assert registered_model_folder(CANDIDATE, run.uri) == run.stage.folder
    made = RunIndex(run.uri).producer(manifest.digest)
    history = mlflow.MlflowClient(run.uri).get_metric_history(made.run_id, "generator_loss")
    assert [point.value for point in history] == [1.0, 0.5, 1 / 3]
    assert sorted(r.info.status for r in run.runs()) == ["FINISHED", "KILLED"]


def test_what_ended_the_workers_is_not_hidden_by_what_mlflow_says(run):
    error = DivergenceError("NaN in the loss")
    with pytest.raises(DivergenceError, match="NaN in the loss"):
        run.watch(lambda: write_curve(run.curve, 1), run.take_mlflow_away, error=error)


def test_finished_stages_are_registered_in_a_new_file_and_only_once(run):
    run.watch(lambda: write_curve(run.curve, 2), lambda: publish(run.stage, run.stage.recipe))
    run.again()
    assert len(run.runs()) == 1
    run.file.unlink()
    run.again()
    assert registered_model_folder(CANDIDATE, run.uri) == run.stage.folder
    run.again()
    assert len(run.runs()) == 1


def test_a_finished_run_that_has_told_all_asks_mlflow_nothing(run):
    run.watch(lambda: write_curve(run.curve, 2), lambda: publish(run.stage, run.stage.recipe))
    run.again()
    before = run.file.read_bytes()
    run.file.write_bytes(b"not asked")
    run.again()
    run.file.write_bytes(before)
    assert (run.folder / "told.json").is_file()


def test_a_finished_run_ends_as_such_where_mlflow_does_not_answer(run, caplog):
    run.watch(lambda: write_curve(run.curve, 2), lambda: publish(run.stage, run.stage.recipe))
    run.file.write_bytes(b"no database" * 100)
    assert not run.again().stages[0].made_now
    assert "nothing is told of finished stages" in caplog.text


def test_a_run_that_got_worse_than_it_began_makes_no_candidate(run, caplog):
    def diverge():
        curve = LossCurve(run.curve, 0)
        for step in range(1, 41):
            curve.append(step, {"generator_loss": 4.0 * 1.27**step, "generator_grad_norm": 1.0})
        curve.close()

    run.watch(diverge, lambda: publish(run.stage, run.stage.recipe))
    with pytest.raises(CheckpointError):
        registered_model_folder(CANDIDATE, run.uri)
    assert "tiny-teacher got worse than it began: mean generator_loss " in caplog.text
    [kept] = run.runs()
    assert kept.info.status == "FINISHED"
    assert kept.data.tags["omniforcing.got_worse"] in caplog.text
    run.again()  # and the next run does not make up for it
    with pytest.raises(CheckpointError):
        registered_model_folder(CANDIDATE, run.uri)
    assert len(run.runs()) == 1


def test_a_run_that_was_killed_is_ended_by_the_next_one(run):
    tracker = StageRecords(run.plan, run.uri).tracker()
    client = mlflow.MlflowClient(tracking_uri=run.uri)
    tags = {"omniforcing.folder": str(run.stage.folder)}
    killed = client.create_run(tracker._experiment, run_name="tiny-teacher", tags=tags)
    other = client.create_run(
        tracker._experiment, run_name="other", tags={"omniforcing.folder": "/another"}
    )
    run.watch(lambda: write_curve(run.curve, 2), lambda: publish(run.stage, run.stage.recipe))
    assert client.get_run(killed.info.run_id).info.status == "KILLED"
    assert client.get_run(other.info.run_id).info.status == "RUNNING"
