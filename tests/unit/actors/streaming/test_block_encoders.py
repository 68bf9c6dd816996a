"""A block's packets are a function of the block and of the sound right before it."""

import av
import numpy as np
import pytest

from actors.streaming.block_encoders import (
    AAC_FRAME,
    BlockEncoders,
    EncodedBlock,
    context_samples,
)
from infra.errors import MediaError

SIZE = (64, 96)
SECONDS = 8


def pictures(seconds, seed=0):
    """Blocks of a moving square on a gradient: one frame, then 24 a second."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((1 + 24 * seconds, *SIZE, 3), np.uint8)
    frames += np.linspace(0, 200, SIZE[1], dtype=np.uint8)[None, None, :, None]
    for number, frame in enumerate(frames):
        frame[8 + number % 40 :, 20:40] = rng.integers(0, 255, 3)
    return [frames[:1], *np.split(frames[1:], seconds)]


def sounds(rate, seconds):
    """Blocks of a gliding tone with a click a second, of which a hop of 10 ms comes late."""
    t = np.arange(seconds * rate + rate // 100) / rate
    tone = 0.3 * np.sin(2 * np.pi * (300 + 100 * np.sin(t)) * t) + 0.5 * (t % 1 < 0.002)
    wave = np.stack([tone, np.roll(tone, 31)]).astype(np.float32)
    cuts = [rate * second for second in range(1, seconds)]
    return [wave[:, :0], *np.split(wave, cuts, axis=1)]


def encoded(encoders, frames, waves):
    last = len(waves) - 1
    return [
        encoders.encode(picture, wave, block == last)
        for block, (picture, wave) in enumerate(zip(frames, waves, strict=True))
    ]


def sound_of(blocks, rate):
    """What is heard, without the frame of silence before it."""
    decoder = av.CodecContext.create("aac", "r")
    template = av.CodecContext.create("aac", "w")
    template.sample_rate, template.layout, template.format = rate, "stereo", "fltp"
    template.flags |= 1 << 22
    template.open()
    decoder.extradata = template.extradata
    packets = [packet for block in blocks for packet in block.audio]
    frames = [f.to_ndarray() for p in packets for f in decoder.decode(av.Packet(p.data))]
    return np.concatenate(frames, axis=1)[:, AAC_FRAME:]


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_sound_is_whole_and_as_good_at_borders_as_elsewhere(rate):
    waves = sounds(rate, SECONDS)
    blocks = encoded(BlockEncoders(None, rate), [None] * len(waves), waves)
    times = [packet.pts for block in blocks for packet in block.audio]
    assert times == list(range(-AAC_FRAME, AAC_FRAME * (len(times) - 1), AAC_FRAME))
    given = np.concatenate(waves, axis=1)
    heard = sound_of(blocks, rate)[:, : given.shape[1]]
    assert heard.shape == given.shape
    error = ((heard - given) ** 2).mean(axis=0)
    borders = np.concatenate(
        [np.arange(rate * s - 4 * AAC_FRAME, rate * s) for s in range(2, SECONDS)]
    )
    assert error.mean() < 0.01 * (given**2).mean()
    assert error[borders].mean() < 2 * np.delete(error, borders).mean()


@pytest.mark.parametrize("block", [1, 2, 5, SECONDS])
@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_a_stream_goes_on_elsewhere_with_the_same_packets(rate, block):
    frames, waves = pictures(SECONDS), sounds(rate, SECONDS)
    straight = encoded(BlockEncoders(SIZE, rate), frames, waves)
    assert context_samples() <= rate
    first = max(0, block - 1)
    skipped = sum(wave.shape[1] for wave in waves[:first])
    elsewhere = BlockEncoders(SIZE, rate, first_block=first, first_sample=skipped)
    resumed = encoded(elsewhere, frames[first:], waves[first:])
    assert resumed[block - first :] == straight[block:]


def test_without_the_context_packets_are_others():
    waves = sounds(16_000, SECONDS)
    straight = encoded(BlockEncoders(None, 16_000), [None] * len(waves), waves)
    resumed = encoded(
        BlockEncoders(None, 16_000, 4, 3 * 16_000), [None] * len(waves[4:]), waves[4:]
    )
    assert [p.data for p in resumed[0].audio] != [p.data for p in straight[4].audio]


def test_every_block_begins_with_a_keyframe_that_is_not_taken_for_the_one_before():
    frames = pictures(2)
    blocks = encoded(BlockEncoders(SIZE, None), frames, [None] * 3)
    assert [[p.is_keyframe for p in block.video].count(True) for block in blocks] == [1, 1, 1]
    assert all(block.video[0].is_keyframe for block in blocks)
    assert [[p.pts for p in block.video] for block in blocks] == [[0], *[list(range(24))] * 2]
    # idr_pic_id follows first_mb_in_slice, slice_type, pic_parameter_set_id and frame_num.
    assert len({blocks[0].video[0].data[4:12], blocks[1].video[0].data[4:12]}) == 2


def test_a_stream_that_ends_early_gives_its_last_sound_once():
    waves = sounds(16_000, SECONDS)
    encoders = BlockEncoders(None, 16_000)
    blocks = [encoders.encode(None, wave) for wave in waves[:4]]
    blocks.append(encoders.encode(None, None, final=True))
    given = np.concatenate(waves[:4], axis=1)
    assert sound_of(blocks, 16_000).shape[1] >= given.shape[1]
    assert encoders.encode(None, None, final=True) == EncodedBlock()


@pytest.mark.parametrize(
    ("frames", "waveform", "reason"),
    [
        (np.zeros((1, 32, 96, 3), np.uint8), None, "a stream keeps its size"),
        (np.zeros((64, 96, 3), np.uint8), None, "a stream keeps its size"),
        (None, np.zeros((1, 10), np.float32), "repeat a mono channel"),
    ],
)
def test_blocks_of_another_shape_are_refused(frames, waveform, reason):
    with pytest.raises(MediaError, match=reason):
        BlockEncoders(SIZE, 16_000).encode(frames, waveform)
