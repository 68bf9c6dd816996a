"""What the driver reports of a stage, while something else trains it, and how it ends."""

import mlflow
import pytest

from infra.errors import ClusterError, OwnershipError
from infra.leases.fence import read_holder
from infra.leases.output_lease import hold_output
from infra.runs.loss_curve import CURVE_FILE
from infra.runs.tracking import RunIndex, Tracker, default_tracking_uri, registered_model_folder
from infra.storage.object_store import ObjectStore
from omniforcing_model.errors import DivergenceError
from pipelines.training.stage_plan import make_plan
from pipelines.training.stage_watch import watch_training
from tests.worlds.training import Workers, publish, small_run, write_clips, write_curve


class Bar:
    """Notes the stage, its steps and the losses that a terminal would show."""

    def stage(self, name, total):
        self.name, self.total, self.done, self.losses = name, total, 0, []
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def advance(self, n=1, **figures):
        self.done += n
        self.losses.append(figures)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    return Tracker(default_tracking_uri(None, folder), "omniforcing", folder / "artifacts")


@pytest.fixture
def stage(tmp_path):
    clips = write_clips(small_run(), tmp_path / "clips")
    return make_plan(small_run(), clips, str(tmp_path / "run"), ("teacher",), {}).resolve("teacher")


@pytest.fixture
def lease(stage):
    with hold_output(stage.work.run_folder, "distill", 60.0) as lease:
        yield lease


def test_steps_are_shown_and_the_published_model_is_recorded(tracker, stage, lease):
    bar = Bar()
    workers = Workers(
        lambda: write_curve(stage.work.folder / CURVE_FILE, 2),
        lambda: publish(stage, {**stage.recipe, "stage": "another"}),
        lambda: publish(stage, stage.recipe),
    )
    manifest = watch_training(stage, tracker, bar, workers, lease)
    assert manifest.recipe == stage.recipe
    assert (bar.name, bar.total, bar.done) == ("teacher", 4, 2)
    assert bar.losses == [{"generator_loss": 1.0}, {"generator_loss": 0.5}]
    assert RunIndex(tracker.uri).producer(manifest.digest) is not None
    uri = "models:/tiny-teacher@candidate"
    assert registered_model_folder(uri, tracker.uri) == stage.folder


def test_what_the_workers_raised_is_raised(tracker, stage, lease):
    error = DivergenceError("NaN in the loss")
    with pytest.raises(DivergenceError, match="NaN in the loss"):
        watch_training(
            stage,
            tracker,
            Bar(),
            Workers(lambda: write_curve(stage.work.folder / CURVE_FILE, 1), error=error),
            lease,
        )


def test_workers_that_leave_without_a_model_are_named(tracker, stage, lease):
    with pytest.raises(ClusterError, match=rf"publish a model in {stage.folder}, but"):
        watch_training(stage, tracker, Bar(), Workers(), lease)


def test_a_run_that_was_replaced_reports_nothing_of_what_the_other_has_made(tracker, stage, lease):
    store = ObjectStore(stage.work.run_folder)
    holder = read_holder(store, 1).model_copy(update={"attempt": 2})
    client = mlflow.MlflowClient(tracking_uri=tracker.uri)
    registered = len(client.search_model_versions("name='tiny-teacher'"))

    def take_over_and_publish():
        store.write(".owner/000002.json", holder.model_dump_json().encode())
        publish(stage, stage.recipe)

    with pytest.raises(OwnershipError, match="attempt 2 has taken it over"):
        watch_training(stage, tracker, Bar(), Workers(take_over_and_publish), lease)
    assert len(client.search_model_versions("name='tiny-teacher'")) == registered
