"""What is told of a dataset after it was made is told once, and made up for where it failed."""

import json
import shutil

import pytest

from infra.errors import ConfigError
from infra.presets import load_preset
from infra.runs.tracking import Tracker
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from pipelines.datasets.make_dataset import tell_of_dataset
from tests.worlds.datasets import summary_of
from tests.worlds.reports import write_dataset

SUMMARY = summary_of(4.0, {"ClipDecoder": 3.0}, 10)
LATER = summary_of(1.0, {}, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("made"), rows=1)


@pytest.fixture(scope="module")
def empty_database(made, tmp_path_factory):
    """MLflow's file before anything is told; it takes seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    Tracker(f"sqlite:///{folder}/mlflow.db", made.config.tracking.experiment, folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def world(made, empty_database, tmp_path):
    """A committed dataset that nobody has been told of."""
    shutil.copytree(made.out.uri, tmp_path / "dataset")
    shutil.copy(empty_database, tmp_path / "dataset")
    return made._replace(out=ObjectStore(tmp_path / "dataset"))


def tell(world, summary=SUMMARY, made_by=None, *settings):
    config = load_preset("tiny", ["data.seconds=1", *settings])
    tell_of_dataset(config, world.clips, world.out, summary, made_by, SilentProgress())


def told(world):
    return json.loads(world.out.read("told.json"))


def runs_at(path):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}")
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def changed(world):
    return {file.name: file.modified_ns for file in world.out.list(recursive=True)}


def test_a_dataset_is_reported_and_tracked_once(world):
    tell(world, SUMMARY, SUMMARY)
    (run,) = runs_at(f"{world.out.uri}/mlflow.db")
    assert run.data.metrics["rows_per_second"] == 2.5
    before = changed(world)
    tell(world, LATER)
    assert changed(world) == before


def test_a_page_that_failed_is_made_by_the_next_run_and_mlflow_told(world, tmp_path):
    (tmp_path / "dataset" / "report.html").mkdir()
    with pytest.raises(OSError, match="directory"):
        tell(world, SUMMARY, SUMMARY)
    assert not world.out.has("told.json")
    (tmp_path / "dataset" / "report.html").rmdir()
    tell(world, LATER)
    assert world.out.has("report.html")
    (run,) = runs_at(f"{world.out.uri}/mlflow.db")
    # Of the run that made it nobody knows any more how long it took.
    assert "rows_per_second" not in run.data.metrics
    assert run.data.metrics["ok"] == 1


def test_mlflow_that_was_away_is_told_by_the_next_run_and_the_page_stays(
    world, empty_database, tmp_path
):
    (tmp_path / "mlflow").write_text("a file where the folder would be")
    setting = f"tracking.uri=sqlite:///{tmp_path}/mlflow/mlflow.db"
    with pytest.raises((ConfigError, OSError)):
        tell(world, SUMMARY, SUMMARY, setting)
    assert told(world)["tracked"] == ""
    page = changed(world)["report.html"]
    (tmp_path / "mlflow").unlink()
    shutil.copytree(empty_database.parent, tmp_path / "mlflow")
    tell(world, LATER, None, setting)
    assert len(runs_at(tmp_path / "mlflow" / "mlflow.db")) == 1
    assert changed(world)["report.html"] == page


def test_another_dataset_in_the_same_place_gets_its_own_page(world):
    tell(world, SUMMARY, SUMMARY)
    page = changed(world)["report.html"]
    manifest = json.loads(world.out.read("manifest.json"))
    manifest["provenance"]["commit"] = "another"
    world.out.write("manifest.json", json.dumps(manifest).encode())
    tell(world, LATER)
    assert changed(world)["report.html"] > page


def test_a_broken_note_is_as_none(world):
    world.out.write("told.json", b'{"reported": 1')
    tell(world)
    assert told(world)["reported"].startswith("sha256:")
