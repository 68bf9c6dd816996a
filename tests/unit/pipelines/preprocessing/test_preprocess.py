"""A run's dataset, what a second run does, and what a broken setting says."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from infra.config import FrameSize
from infra.dataset.latent_table import LatentTable
from infra.dataset.outcome_table import read_outcomes
from infra.errors import CheckpointError, ConfigError, DatasetError
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from infra.terminal.progress import SilentProgress
from omniforcing_model.beacons.world import parse_caption
from pipelines.datasets.overview import overview
from pipelines.preprocessing.preprocess import clips_per_part, preprocess, row_graph, row_stages
from pipelines.preprocessing.row_tables import RowPlan
from tests.worlds.beacon_clips import (
    BEACONS,
    caption,
    write_beacon_clip,
    write_beacon_clips,
    write_captions,
)
from tests.worlds.media_zoo import Making, write_flashes

ROOT = Path(__file__).resolve().parents[4]
SETTINGS = ("data.seconds=1", "data.rows_per_shard=2")


def run(clips, out, *overrides):
    config = load_preset("tiny", [*SETTINGS, *overrides])
    return preprocess(config, str(clips), str(out), SilentProgress())


FOREIGN = "waves roll onto a beach"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_local):
    """Three clips of the beacon world and one with a caption from elsewhere, and their dataset."""
    folder = tmp_path_factory.mktemp("run")
    clips = write_beacon_clips(folder / "clips", count=3)
    write_beacon_clip(clips / "waves.mp4", 1, seconds=2)
    (clips / "waves.txt").write_text(FOREIGN)
    return clips, folder / "dataset", run(clips, folder / "dataset")


@pytest.mark.ray
def test_a_run_leaves_a_dataset_of_sentences_and_latents(finished):
    clips, out, summary = finished
    assert (summary.rows, summary.ok, summary.filtered, summary.quarantined) == (4, 4, {}, {})
    assert summary.dataset == str(out)
    table = LatentTable.open(out)
    assert (table.rows, table.digest) == (4, summary.digest)
    rows = table.read(range(4))
    assert rows["video"].shape == (4, 4, 24, 2, 2)
    assert rows["audio"].shape == (4, 26, 16)
    assert rows["video_text"].shape == rows["audio_text"].shape
    assert table.manifest.provenance["clips"] == str(clips)


@pytest.mark.ray
def test_captions_that_are_understood_become_sentences_and_others_stay(finished):
    rows = {row["clip_uri"]: row for row in read_outcomes(ObjectStore(finished[1])).to_pylist()}
    for number in range(3):
        row = rows[f"clip_{number}.mp4"]
        assert row["rewritten"]
        assert row["caption_raw"] == caption(number) != row["caption"]
        assert parse_caption(row["caption"]) == BEACONS[number].traits
    assert rows["waves.mp4"]["caption"] == rows["waves.mp4"]["caption_raw"] == FOREIGN
    assert not rows["waves.mp4"]["rewritten"]


def times_of_files(out):
    """When each file was changed, but for the record of who is at work."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if ".owner" not in path.parts}


@pytest.mark.ray
def test_a_second_run_does_nothing_and_says_the_same(finished):
    clips, out, summary = finished
    before = times_of_files(out)
    again = run(clips, out)
    assert again.rows_worked == 0
    of_this_run = {"seconds", "stage_seconds", "rows_worked"}
    assert again.model_dump(exclude=of_this_run) == summary.model_dump(exclude=of_this_run)
    assert times_of_files(out) == before


@pytest.mark.ray
@pytest.mark.quiet
def test_a_second_run_takes_no_longer_than_it_takes_to_look(finished):
    clips, out, _ = finished
    assert run(clips, out).seconds < 2


# A GPU that Ray counts and PyTorch does not find: the actors share it, and compute on the CPU.
ON_A_SHARED_GPU = """
import sys

import ray

from infra.presets import load_preset
from infra.terminal.progress import SilentProgress
from pipelines.preprocessing.preprocess import preprocess

ray.init(address="local", num_cpus=6, num_gpus=1, include_dashboard=False, log_to_driver=False)
clips, out, *settings = sys.argv[1:]
print(preprocess(load_preset("tiny", settings), clips, out, SilentProgress()).digest)
"""


SHARES = [
    f"cluster.{name}={{replicas: 1, cpus: 0.5, gpus: {share}}}"
    for name, share in (("latent_encoder", 0.5), ("caption_rewriter", 0.25), ("text_encoder", 0.25))
]


def test_a_decoder_holds_as_many_windows_as_fit_and_make_whole_shards():
    # 25 pictures of 64 x 64 x 3 bytes are 0.29 MiB; 8 at most, a divisor of rows_per_shard.
    rows = {}
    for mib in (1, 2, 256):
        overrides = [f"preprocessing.decoded_mib={mib}", "data.seconds=1", "data.rows_per_shard=16"]
        rows[mib] = row_stages(load_preset("tiny", overrides), "clips")[0].rows_at_a_time
    assert rows == {1: 2, 2: 4, 256: 8}


@pytest.mark.ray
def test_a_graph_may_have_actors_that_share_a_gpu(tmp_path, ray_local):
    config = load_preset("tiny", [*SETTINGS, *SHARES])
    graph = row_graph(RowPlan(("part",), 1), config, str(tmp_path), str(tmp_path / "dataset"))
    assert isinstance(graph, ray_local.data.Dataset)


@pytest.mark.corpus
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU rounds differently")
def test_actors_that_share_a_gpu_make_the_same_rows(finished, tmp_path):
    clips, _, summary = finished
    run = [sys.executable, "-c", ON_A_SHARED_GPU, str(clips), str(tmp_path / "dataset")]
    done = subprocess.run(
        [*run, *SETTINGS, *SHARES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[-1:] == [summary.digest], done.stderr


@pytest.mark.ray
def test_clips_of_other_shapes_get_sizes_of_their_own(tmp_path, ray_local):
    clips, out = write_beacon_clips(tmp_path / "clips", count=2), tmp_path / "dataset"
    write_flashes(clips / "wide.mp4", Making(width=96))
    (clips / "wide.txt").write_text(FOREIGN)
    square = run(clips, out)
    before = set((out / "latents").iterdir())
    summary = run(clips, out, "data.buckets=[{height: 64, width: 96}]")
    assert (square.ok, summary.ok, summary.rows_worked) == (3, 3, 1)
    assert len(set((out / "latents").iterdir()) - before) == 1
    table = LatentTable.open(out)
    rows = table.read(range(3), ["clip_uri", "width", "video"])
    shapes = dict(zip(rows["clip_uri"], (video.shape for video in rows["video"]), strict=True))
    assert shapes["wide.mp4"] == (4, 24, 2, 3)
    assert shapes["clip_0.mp4"] == shapes["clip_1.mp4"] == (4, 24, 2, 2)
    assert sorted(rows["width"].tolist()) == [64, 64, 96]
    assert LatentTable.open(out, sizes=[FrameSize(height=64, width=64)]).rows == 2
    assert overview(str(out)).finished.sizes == {"64 x 64": 2, "64 x 96": 1}
    assert run(clips, tmp_path / "anew", "data.buckets=[{height: 64, width: 96}]").digest == (
        summary.digest
    )


@pytest.mark.ray
def test_only_added_clips_are_worked_on_and_the_digest_is_that_of_one_run(finished, tmp_path):
    clips, out, summary = finished
    old = files(out)
    write_beacon_clip(clips / "clip_3.mp4", 3)
    write_captions(clips, {f"clip_{number}.mp4": caption(number) for number in range(4)})
    more = run(clips, out)
    assert (more.rows, more.ok) == (5, 5)
    assert more.digest != summary.digest
    assert files(out) > old
    assert len(files(out) - old) == 2
    assert run(clips, tmp_path / "at_once").digest == more.digest


@pytest.mark.ray
def test_a_changed_caption_makes_new_text_and_no_latents(finished):
    clips, out, _ = finished
    old = files(out)
    (clips / "waves.txt").write_text("waves roll onto a beach at night")
    run(clips, out)
    assert {name.split("/")[0] for name in files(out) - old} == {"text"}
    rows = LatentTable.open(out).read(range(5))
    captions = dict(zip(rows["clip_uri"], rows["caption"], strict=True))
    assert captions["waves.mp4"] == "waves roll onto a beach at night"


@pytest.mark.ray
def test_a_changed_loudness_makes_new_latents_and_no_text(finished):
    clips, out, _ = finished
    old = files(out)
    run(clips, out, "data.loudness_lufs=-20")
    assert {name.split("/")[0] for name in files(out) - old} == {"latents"}


def files(out):
    """The files with tensors."""
    return {
        f"{name}/{path.name}" for name in ("latents", "text") for path in (out / name).iterdir()
    }


@pytest.mark.ray
def test_a_cluster_without_room_says_so_instead_of_waiting(tmp_path, ray_local):
    clips = write_beacon_clips(tmp_path / "clips", count=1)
    with pytest.raises(ConfigError, match=r"expected a cluster with .* CPUs .*, got"):
        run(clips, tmp_path / "dataset", "cluster.clip_decoder.cpus=500")


@pytest.mark.ray
def test_a_folder_without_clips_is_refused_and_leaves_no_dataset(tmp_path, ray_local):
    with pytest.raises(DatasetError, match=r"expected clips .* got none"):
        run(tmp_path, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_a_size_that_the_model_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"multiples of 32 .*, got 64 x 70"):
        run(tmp_path, tmp_path / "dataset", "data.width=70")


def test_a_codec_that_is_not_there_is_refused(tmp_path):
    clips = write_beacon_clips(tmp_path / "clips", count=1)
    with pytest.raises(CheckpointError, match="no_codec"):
        run(clips, tmp_path / "dataset", "codec.video=/no_codec.safetensors")


def test_a_file_in_the_place_of_the_dataset_is_refused(tmp_path):
    (tmp_path / "dataset").touch()
    with pytest.raises(DatasetError, match="got a file; name another place"):
        run(write_beacon_clips(tmp_path / "clips", count=1), tmp_path / "dataset")


def test_a_part_of_the_log_tells_of_few_clips_of_a_small_run_and_of_many_of_a_large_one():
    assert [clips_per_part(clips) for clips in (1, 7, 80, 10**6)] == [1, 1, 10, 256]
