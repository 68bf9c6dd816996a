"""A stream's MP4: right lengths, no seam between blocks, and bytes that leave at once."""

import io
import re

import av
import numpy as np
import pytest

from actors.streaming.media_muxer import MediaMuxer
from infra.errors import MediaError
from infra.media.files import read_frames, read_waveform

SIZE = 64
SAMPLE_RATE = 16_000
TONE_HZ = 440.0


def blocks_of(seconds):
    """Frames and waveforms as a stream of `paper` blocks delivers them: 1 frame, then 24 a second.

    The brightness of a frame is its number; the sound is one tone without a seam.
    """
    phase = 2 * np.pi * TONE_HZ * np.arange(seconds * SAMPLE_RATE + 160) / SAMPLE_RATE
    tone = np.stack([0.5 * np.sin(phase)] * 2).astype(np.float32)
    numbers = np.arange(1 + 24 * seconds)
    shade = (16 + 2 * (numbers % 100)).astype(np.uint8)
    frames = np.broadcast_to(shade[:, None, None, None], (len(shade), SIZE, SIZE, 3)).copy()
    # The sound of a block arrives one hop of 10 ms late, the last one with it.
    cuts = [0, 0, *range(SAMPLE_RATE, seconds * SAMPLE_RATE, SAMPLE_RATE), tone.shape[1]]
    for block in range(seconds + 1):
        picked = frames[:1] if block == 0 else frames[1 + 24 * (block - 1) : 1 + 24 * block]
        yield picked, tone[:, cuts[block] : cuts[block + 1]]


def mux(seconds):
    muxer = MediaMuxer(SIZE, SIZE, SAMPLE_RATE, comment="sha256:abc")
    fragments = [muxer.write_block(*block) for block in blocks_of(seconds)]
    return muxer, [muxer.init_segment, *fragments, muxer.finish()]


def decode(data):
    with av.open(io.BytesIO(data)) as container:
        video = list(container.decode(video=0))
    with av.open(io.BytesIO(data)) as container:
        audio = list(container.decode(audio=0))
    return video, audio


def boxes(data):
    names, start = [], 0
    while start < len(data):
        names.append(data[start + 4 : start + 8].decode())
        start += int.from_bytes(data[start : start + 4], "big")
    return names


def test_five_seconds_are_121_frames_and_tracks_of_equal_length():
    _, parts = mux(5)
    video, audio = decode(b"".join(parts))
    assert len(video) == 121
    samples = sum(frame.samples for frame in audio)
    assert abs(121 / 24 - samples / SAMPLE_RATE) < 0.040
    assert samples >= 5 * SAMPLE_RATE + 160


@pytest.mark.parametrize("rate", [24_000, 48_000])
def test_a_stream_is_read_back_to_the_sample(tmp_path, rate):
    samples = round(2.01 * rate)
    tone = np.repeat(0.5 * np.sin(np.arange(samples) / 30)[None], 2, 0).astype(np.float32)
    frames = np.zeros((49, SIZE, SIZE, 3), np.uint8)
    muxer = MediaMuxer(SIZE, SIZE, rate)
    blocks = [
        (frames[:1], tone[:, :0]),
        (frames[1:25], tone[:, :rate]),
        (frames[25:], tone[:, rate:]),
    ]
    parts = [muxer.init_segment, *(muxer.write_block(*block) for block in blocks), muxer.finish()]
    (tmp_path / "stream.mp4").write_bytes(b"".join(parts))
    sound = read_waveform(tmp_path / "stream.mp4", rate, 2, 3.0)
    assert sound.shape == (2, samples)
    assert np.sqrt(np.mean((sound - tone) ** 2)) < 0.02
    assert len(read_frames(tmp_path / "stream.mp4")) == 49


def test_every_frame_has_its_place_over_ten_blocks():
    _, parts = mux(9)
    video, audio = decode(b"".join(parts))
    times = [float(frame.pts * frame.time_base) for frame in video]
    np.testing.assert_allclose(times, np.arange(len(times)) / 24, atol=1e-6)
    starts = [float(frame.pts * frame.time_base) for frame in audio]
    lengths = [frame.samples / SAMPLE_RATE for frame in audio]
    np.testing.assert_allclose(starts, np.cumsum([0, *lengths[:-1]]), atol=1e-6)


def test_pictures_come_back_in_order():
    _, parts = mux(3)
    video, _ = decode(b"".join(parts))
    shades = [int(frame.to_ndarray(format="rgb24").mean()) for frame in video]
    expected = 16 + 2 * (np.arange(73) % 100)
    np.testing.assert_allclose(shades, expected, atol=4)


def test_colours_come_back_and_the_file_says_which_they_are():
    colour = (200, 40, 60)
    muxer = MediaMuxer(SIZE, SIZE, SAMPLE_RATE)
    fragment = muxer.write_block(np.full((2, SIZE, SIZE, 3), colour, np.uint8), None)
    video, _ = decode(muxer.init_segment + fragment + muxer.finish())
    pixels = video[1].to_ndarray(format="rgb24").reshape(-1, 3).mean(0)
    np.testing.assert_allclose(pixels, colour, atol=4)
    bt601, limited = 6, 1
    assert (video[1].colorspace, video[1].color_range) == (bt601, limited)


def test_sound_has_no_seam_and_no_shift_at_block_borders():
    _, parts = mux(4)
    _, audio = decode(b"".join(parts))
    decoded = np.concatenate([frame.to_ndarray()[0] for frame in audio])[: 4 * SAMPLE_RATE]
    time = np.arange(len(decoded)) / SAMPLE_RATE
    played = 0.5 * np.sin(2 * np.pi * TONE_HZ * time)
    inner = slice(2048, None)  # the very first frame is a fade-in of the codec
    assert np.abs(decoded - played)[inner].max() < 0.05


def test_header_leaves_before_anything_is_known_and_each_block_is_one_fragment():
    muxer, parts = mux(3)
    assert boxes(parts[0]) == ["ftyp", "moov"]
    assert all(boxes(part) == ["moof", "mdat"] for part in parts[1:])
    assert b"sha256:abc" in parts[0]
    assert re.fullmatch(
        r'video/mp4; codecs="avc1\.42c0[0-9a-f]{2}, mp4a\.40\.2"', muxer.content_type
    )


def test_a_prefix_of_the_fragments_plays_on_its_own():
    _, parts = mux(3)
    video, _ = decode(b"".join(parts[:3]))
    assert len(video) == 25


def test_every_block_begins_with_a_keyframe():
    _, parts = mux(3)
    with av.open(io.BytesIO(b"".join(parts))) as container:
        keys = [n for n, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert keys == [0, 1, 25, 49]


def test_no_frame_waits_for_a_later_one():
    _, parts = mux(2)
    with av.open(io.BytesIO(b"".join(parts))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert all(packet.pts == packet.dts for packet in packets)


def test_clock_follows_what_was_written():
    muxer = MediaMuxer(SIZE, SIZE, SAMPLE_RATE)
    for block in blocks_of(2):
        muxer.write_block(*block)
    assert muxer.video_seconds == pytest.approx(49 / 24)
    assert muxer.audio_seconds == pytest.approx(2.01)


def test_odd_sizes_are_refused_with_a_reason():
    with pytest.raises(MediaError, match="even height and width"):
        MediaMuxer(63, 64, SAMPLE_RATE)


@pytest.mark.parametrize(
    ("frames", "waveform", "reason"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), None, "a stream keeps its size"),
        (None, np.zeros((1, 160), np.float32), "stereo"),
    ],
)
def test_blocks_of_another_shape_are_refused(frames, waveform, reason):
    muxer = MediaMuxer(SIZE, SIZE, SAMPLE_RATE)
    with pytest.raises(MediaError, match=reason):
        muxer.write_block(frames, waveform)
