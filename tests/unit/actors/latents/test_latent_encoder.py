import numpy as np
import pytest

from actors.clips.clip_decoder import ClipDecoder
from actors.latents.latent_encoder import LatentEncoder
from infra.presets import load_preset
from omniforcing_model.codecs.mel import SAMPLE_RATE
from omniforcing_model.errors import LayoutError
from tests.worlds.beacon_clips import write_beacon_clips


@pytest.fixture(scope="module")
def config():
    return load_preset("tiny", ["data.seconds=1"])


@pytest.fixture(scope="module")
def encoder(config):
    return LatentEncoder(config)


@pytest.fixture(scope="module")
def decoded(config, tmp_path_factory):
    folder = write_beacon_clips(tmp_path_factory.mktemp("clips"), count=2)
    names = np.array(["clip_0.mp4", "clip_1.mp4", "gone.mp4"], dtype=object)
    return ClipDecoder(config.data, str(folder), SAMPLE_RATE)(
        {
            "clip_uri": names,
            "clip_bytes": np.zeros(3, np.int64),
            "clip_modified_ns": np.zeros(3, np.int64),
            "clip_digest": np.array([""] * 3, dtype=object),
            "archive_offset": np.full(3, -1),
            "start_s": np.zeros(3),
            "height": np.full(3, 64),
            "width": np.full(3, 64),
            "needs_latents": np.ones(3, bool),
            "outcome": np.array(["ok"] * 3, dtype=object),
            "reason": np.array([""] * 3, dtype=object),
            "error": np.array([""] * 3, dtype=object),
        }
    )


def test_a_second_is_four_video_and_twenty_six_audio_latents(encoder, decoded):
    rows = encoder(decoded)
    assert rows["video"].shape == (3, 4, 24, 2, 2)
    assert rows["audio"].shape == (3, 26, 16)
    assert rows["video"].dtype == rows["audio"].dtype == np.float32
    assert "frames" not in rows
    assert "waveform" not in rows


def test_a_clip_is_cut_to_whole_macro_blocks(decoded, encoder):
    first = "model.layout.first_block={video: 3, audio: 25}"
    rows = LatentEncoder(load_preset("tiny", ["data.seconds=1", first]))(decoded)
    assert rows["video"].shape == (3, 3, 24, 2, 2)
    assert rows["audio"].shape == (3, 25, 16)
    np.testing.assert_array_equal(rows["video"], encoder(decoded)["video"][:, :3])


def test_rows_of_other_sizes_have_latents_of_other_shapes(encoder, decoded, config):
    rows = {name: values[:2].copy() for name, values in decoded.items()}
    rows["width"][1] = 96
    wide = np.empty(2, object)
    wide[:] = [decoded["frames"][0], np.tile(decoded["frames"][1], (1, 1, 2, 1))[:, :, :96]]
    made = encoder(rows | {"frames": wide})
    assert [latents.shape for latents in made["video"]] == [(4, 24, 2, 2), (4, 24, 2, 3)]
    assert made["audio"].shape == (2, 26, 16)
    np.testing.assert_array_equal(made["video"][0], encoder(decoded)["video"][0])


def test_latents_do_not_depend_on_the_neighbours(encoder, decoded):
    together = encoder(decoded)
    alone = encoder({name: values[1:2] for name, values in decoded.items()})
    for stream in ("video", "audio"):
        assert (together[stream][1] == alone[stream][0]).all()


def test_a_clip_that_failed_before_stays_failed_and_costs_no_encoding(encoder, decoded):
    rows = encoder(decoded)
    assert list(rows["outcome"]) == ["ok", "ok", "quarantined"]
    assert list(rows["reason"]) == ["", "", "unreadable"]
    assert not rows["video"][2].any()


def test_a_clip_that_cannot_be_encoded_is_quarantined_with_the_reason(encoder, decoded):
    broken = decoded | {"waveform": decoded["waveform"].copy()}
    broken["waveform"][0] = np.nan
    rows = encoder(broken)
    assert list(rows["outcome"]) == ["quarantined", "ok", "quarantined"]
    assert rows["reason"][0] == "not_encodable"
    assert rows["error"][0].startswith("expected finite audio latents, got NaN")


def test_a_clip_of_another_length_is_an_error(encoder, decoded):
    with pytest.raises(LayoutError, match="8k \\+ 1 pixel frames"):
        encoder.encode(decoded["frames"][0][:20], decoded["waveform"][0])
