"""The graph adds processes and order, nothing else: a loop over the same classes gives its rows."""

import numpy as np
import pytest

from infra.dataset.latent_table import LatentTable
from infra.presets import load_preset
from infra.terminal.progress import SilentProgress
from pipelines.benchmarks.preprocessing.plain_preprocessing import PlainPreprocessing
from pipelines.preprocessing.preprocess import preprocess
from tests.worlds.beacon_clips import caption, truncated, write_beacon_clips, write_captions

TENSORS = ("video_text", "audio_text", "video", "audio")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = write_beacon_clips(tmp_path_factory.mktemp("clips"), count=4)
    truncated(folder / "clip_1.mp4", folder / "broken.mp4")
    names = {f"clip_{number}.mp4": caption(number) for number in range(4)}
    write_captions(folder, names | {"broken.mp4": "broken"})
    return folder


@pytest.mark.ray
def test_rows_of_the_graph_are_those_of_a_loop_bit_for_bit(clips, tmp_path, ray_local):
    config = load_preset("tiny", ["data.seconds=1", "data.split.kind=fixed"])
    summary = preprocess(config, str(clips), str(tmp_path / "graph"), SilentProgress())
    looped = list(PlainPreprocessing(config, str(clips)).rows())
    table = LatentTable.open(tmp_path / "graph")
    rows = table.read(range(table.rows))
    place = {
        key: index for index, key in enumerate(zip(rows["clip_uri"], rows["start_s"], strict=True))
    }
    assert summary.ok == len(looped) == len(place)
    assert sum(summary.quarantined.values()) == 1
    for row in looped:
        index = place[row["clip_uri"], row["start_s"]]
        for name in ("caption", "clip_digest", *TENSORS):
            np.testing.assert_array_equal(rows[name][index], row[name], err_msg=name)
