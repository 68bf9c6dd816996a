"""What a stopped job of trajectories has finished is kept, and committed without another job."""

import pytest

from actors.training.teacher_sampler import TeacherSampler
from infra.dataset.latent_table import LatentTable
from infra.dataset.manifest import read_manifest
from infra.runs.provenance import digest_of
from infra.storage.object_store import ObjectStore
from pipelines.training.stage_plan import make_plan
from pipelines.training.trajectories import LEDGER, ledger_folder, make_teacher_trajectories
from tests.worlds.training import SIGMAS, small_run, write_clips, write_model


class NotedProgress:
    """Takes note of how far its one stage comes."""

    def __init__(self):
        self.total = self.done = 0

    def stage(self, name, total):
        self.total = total
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def advance(self, n=1, **figures):
        self.done += n


@pytest.fixture
def stage(tmp_path):
    """The job of a run of 8 trajectories in 2 shards, with a model from outside."""
    config = small_run()
    clips = write_clips(config, tmp_path / "clips")
    model = write_model(config, tmp_path / "model")
    run = str(tmp_path / "run")
    plan = make_plan(config, clips, run, ("trajectories",), {"generator": model})
    return plan.resolve("trajectories")


@pytest.fixture
def ledger(stage):
    """Both shards written by a job that was stopped before it could commit them."""
    ledger = ledger_folder(stage)
    ledger.mkdir(parents=True)
    sampler = TeacherSampler(stage.work)
    for number in range(2):
        record = sampler.write(number)
        (ledger / f"{number:07d}.json").write_text(record.model_dump_json())
    return ledger


def test_finished_shards_are_committed_as_they_are(stage, ledger):
    progress = NotedProgress()
    manifest = make_teacher_trajectories(stage, progress)
    assert (progress.done, progress.total) == (8, 8)
    assert read_manifest(ObjectStore(stage.folder)) == manifest
    assert (manifest.kind, manifest.rows, len(manifest.shards)) == ("trajectories", 8, 2)
    provenance = manifest.provenance
    assert provenance["sigmas"] == [*SIGMAS, 0.0]
    assert provenance["recipe_digest"] == digest_of(stage.recipe)
    assert [ref["role"] for ref in provenance["inputs"]] == ["generator", "clips"]
    assert not (stage.folder / LEDGER).exists()


@pytest.mark.ray
def test_shards_that_are_cut_short_or_gone_are_made_again(ray_local, stage, ledger):
    cut, gone = sorted(stage.folder.rglob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    progress = NotedProgress()
    manifest = make_teacher_trajectories(stage, progress)
    assert (manifest.rows, progress.done) == (8, 8)
    table = LatentTable.open(stage.folder)
    assert len(set(table.read(range(table.rows), ["row_id"])["row_id"])) == 8


def test_the_committed_trajectories_are_the_result_of_their_stage(stage, ledger):
    manifest = make_teacher_trajectories(stage, NotedProgress())
    plan = make_plan(
        stage.work.config,
        stage.work.dataset,
        str(stage.folder.parent),
        ("trajectories",),
        {"generator": stage.work.model},
    )
    resolved = plan.resolve("trajectories")
    assert resolved.result == manifest
    assert plan.with_result(resolved).pending == ()
