"""The graph adds processes and order, nothing else: a loop over the same classes gives its rows."""

import numpy as np
import pytest

from infra.latent_shards import LatentTable
from infra.object_store import ObjectStore
from infra.presets import load_preset
from infra.progress import SilentProgress
from pipelines.clip_listing import list_clips
from pipelines.preprocess import preprocess, stages
from pipelines.preprocess_plan import identify
from pipelines.shard_writing import write_rows
from tests.beacon_clips import caption, truncated, write_beacon_clips, write_captions

INPUTS = ("row_id", "clip_uri", "clip_digest", "caption_raw")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = write_beacon_clips(tmp_path_factory.mktemp("clips"), count=4)
    truncated(folder / "clip_1.mp4", folder / "broken.mp4")
    names = {f"clip_{number}.mp4": caption(number) for number in range(4)}
    write_captions(folder, names | {"broken.mp4": "broken"})
    return folder


def by_loop(config, clips, out):
    """Every stage once, every clip by itself, in this process."""
    source = ObjectStore(clips)
    rows = identify(config, list_clips(source), source, ObjectStore(out)).rows
    actors = [stage.actor(**stage.arguments) for stage in stages(config, source.uri)]
    ended, tensors = [], []
    for row in rows:
        batch = {name: np.array([getattr(row, name)], dtype=object) for name in INPUTS}
        for actor in actors:
            batch = actor(batch)
        ended.append({name: values[0] for name, values in write_rows(batch, out).items()})
        tensors.append(batch)
    return ended, tensors


@pytest.mark.ray
def test_rows_of_the_graph_are_those_of_a_loop_bit_for_bit(clips, tmp_path, ray_local):
    config = load_preset("tiny", ["data.seconds=1"])
    summary = preprocess(config, str(clips), str(tmp_path / "graph"), SilentProgress())
    ended, tensors = by_loop(config, str(clips), str(tmp_path / "loop"))
    table = LatentTable.open(tmp_path / "graph")
    rows = table.read(range(table.rows))
    place = {row_id: index for index, row_id in enumerate(rows["row_id"])}
    ok = [batch for row, batch in zip(ended, tensors, strict=True) if row["outcome"] == "ok"]
    assert summary.ok == len(ok) == 4
    assert summary.quarantined == {"unreadable": 1}
    for batch in ok:
        index = place[batch["row_id"][0]]
        for name in ("caption", "video_text", "audio_text", "video", "audio"):
            np.testing.assert_array_equal(rows[name][index], batch[name][0], err_msg=name)
