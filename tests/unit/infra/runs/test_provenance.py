import shutil
import subprocess

import pytest

from infra.errors import CheckpointError
from infra.runs.provenance import (
    ArtifactRef,
    ModelManifest,
    code_commit,
    digest_of,
    read_model_manifest,
    relative_uri,
    resolved_uri,
)

RECIPE = {"stage": "teacher", "settings": {"steps": 4}}
CLIPS = ArtifactRef(role="clips", kind="dataset", name="clips", digest="sha256:1", uri="/clips")


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_places_inside_a_run_are_relative_so_that_it_can_move(tmp_path):
    run = tmp_path / "run"
    folder, other = run / "stages" / "stage_2" / "model", run / "trajectories"
    uri = relative_uri(str(other), folder, run)
    assert uri == "../../../trajectories"
    moved = tmp_path / "moved"
    shutil.copytree(_make_run(run), moved)
    assert resolved_uri(uri, moved / "stages" / "stage_2" / "model") == str(moved / "trajectories")


def _make_run(run):
    (run / "trajectories").mkdir(parents=True)
    (run / "stages" / "stage_2" / "model").mkdir(parents=True)
    return run


def test_places_outside_a_run_are_absolute(tmp_path):
    folder = tmp_path / "run" / "model"
    assert relative_uri("s3://bucket/clips", folder, tmp_path / "run") == "s3://bucket/clips"
    clips = str(tmp_path / "clips")
    assert relative_uri(clips, folder, tmp_path / "run") == clips
    assert resolved_uri(clips, folder) == clips
    assert resolved_uri("s3://bucket/clips", folder) == "s3://bucket/clips"


def test_a_manifest_comes_back_and_a_damaged_one_is_refused(tmp_path):
    assert read_model_manifest(tmp_path) is None
    manifest = ModelManifest(
        name="tiny-teacher",
        stage="teacher",
        digest="sha256:3",
        recipe_digest=digest_of(RECIPE),
        recipe=RECIPE,
        inputs=(CLIPS,),
        commit="unknown",
        seed=0,
        step=4,
        metrics={"generator_loss": 0.5},
    )
    path = tmp_path / "manifest.json"
    path.write_text(manifest.model_dump_json())
    assert read_model_manifest(tmp_path) == manifest
    path.write_text('{"kind": "model"}')
    with pytest.raises(CheckpointError, match="restore or delete it"):
        read_model_manifest(tmp_path)


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("one = 1\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    return tmp_path, git


def test_the_commit_of_the_code_says_whether_files_differ_from_it(checkout):
    folder, git = checkout
    assert code_commit(folder) == git("rev-parse", "HEAD")
    (folder / "code.py").write_text("two = 2\n")
    assert code_commit(folder) == git("rev-parse", "HEAD") + "-dirty"


def test_a_repository_without_a_commit_has_none(tmp_path):
    subprocess.run(["git", "-C", str(tmp_path), "init", "--quiet"], check=True)
    assert code_commit(tmp_path) == "unknown"


def test_code_inside_somebody_elses_repository_has_no_commit(checkout):
    folder, _ = checkout
    inner = folder / "site-packages"
    inner.mkdir()
    assert code_commit(inner) == "unknown"
