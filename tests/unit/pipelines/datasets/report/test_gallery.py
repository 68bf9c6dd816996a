"""Which rows a report shows, and that their clips can be seen and heard."""

import numpy as np
import pytest

from infra.dataset.outcome_table import read_outcomes
from infra.media.files import read_frames, read_waveform
from infra.presets import load_preset
from pipelines.datasets.report.gallery import NO_ROOM, _Room, make_gallery
from pipelines.datasets.report.shown_clips import ShownClip
from tests.worlds.reports import write_dataset

RATE = 16_000


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("gallery"), rows=6)


@pytest.fixture(scope="module")
def gallery(world):
    return gallery_of(world)


def gallery_of(world, seed=0, config=None):
    outcomes = read_outcomes(world.out)
    return make_gallery(world.out, world.clips, config or world.config, outcomes, seed)


def names(gallery):
    return [row.values["clip_uri"] for row in gallery.kept]


def signal(clip, folder):
    path = folder / "shown.mp4"
    path.write_bytes(clip.mp4)
    return read_frames(path, 24, (64, 64), 24).astype(int), read_waveform(path, RATE, 1, 1)


@pytest.mark.thorough
def test_kept_rows_are_seen_and_heard_before_and_after_their_latents(gallery, tmp_path):
    assert len(gallery.kept) == 4
    for row in gallery.kept:
        before, sound_before = signal(row.source, tmp_path)
        after, sound_after = signal(row.decoded, tmp_path)
        assert np.abs(before - after).mean() < 8
        levels = [float(np.sqrt((sound**2).mean())) for sound in (sound_before, sound_after)]
        assert min(levels) > 0.01
        assert levels[1] == pytest.approx(levels[0], rel=0.6)


def test_a_kept_row_has_both_captions_and_its_scores(gallery):
    for row in gallery.kept:
        assert row.values["caption"] == f"a sentence about {row.values['caption_raw']}"
        number = int(row.values["clip_uri"][5])
        assert (row.values["av_lag_ms"], row.values["loudness_lufs"]) == (10 * number, -20 - number)


@pytest.mark.thorough
def test_a_seed_draws_the_same_rows_again_and_another_seed_others(world, gallery):
    assert names(gallery_of(world)) == names(gallery)
    assert names(gallery_of(world, seed=1)) != names(gallery)


def test_every_reason_is_shown_with_up_to_two_rows(gallery):
    assert {end: len(rows) for end, rows in gallery.refused.items()} == {
        ("filtered", "duplicate"): 1,
        ("filtered", "no_audio"): 1,
        ("filtered", "silence"): 1,
        ("quarantined", "missing_file"): 2,
        ("quarantined", "unreadable"): 2,
    }


def test_refused_clips_are_shown_as_far_as_they_decode(gallery):
    sources = {
        row.values["clip_uri"]: row.source for rows in gallery.refused.values() for row in rows
    }
    assert sources["silent.mp4"].mp4 is not None
    assert sources["mute.mp4"].mp4 is not None
    assert sources["mute.mp4"].note == "it has no sound"
    assert sources["cut.mp4"].mp4 is not None
    assert "without sound" in sources["cut.mp4"].note
    assert sources["bad.mp4"].mp4 is None
    assert "does not decode" in sources["bad.mp4"].note
    assert sources["pack.tar/one.mp4"] == (None, "in an archive: not shown")
    assert sources["gone.mp4"] == sources["../up.mp4"] == (None, "no clip was opened")


def test_clips_without_room_are_left_out_and_kept_rows_come_first(world, gallery, monkeypatch):
    room = sum(len(row.source.mp4) + len(row.decoded.mp4) for row in gallery.kept)
    monkeypatch.setattr("pipelines.datasets.report.gallery.CLIPS_BYTES", room)
    small = gallery_of(world)
    assert small.kept == gallery.kept
    refused = [row.source for rows in small.refused.values() for row in rows]
    assert all(clip.mp4 is None for clip in refused)
    assert NO_ROOM in refused


def test_codecs_that_are_not_there_leave_a_sentence_and_the_sources(world):
    config = load_preset("tiny", ["data.seconds=1", "codec.video=/no_codec.safetensors"])
    for row in gallery_of(world, config=config).kept:
        assert row.source.mp4 is not None
        assert row.decoded.mp4 is None
        assert "no_codec" in row.decoded.note


def test_a_dataset_without_rows_shows_what_was_refused(tmp_path):
    gallery = gallery_of(write_dataset(tmp_path, rows=0))
    assert gallery.kept == []
    assert len(gallery.refused) == 5


def test_a_clip_may_take_the_last_byte_of_the_room_and_not_one_more():
    room = _Room(10)
    assert room.take(ShownClip(b"1234567")).mp4 == b"1234567"
    assert room.take(ShownClip(b"1234")) == NO_ROOM
    assert room.take(ShownClip(b"123")).mp4 == b"123"
    assert room.take(ShownClip(None, "gone")).note == "gone"
