"""LTX-2's VAEs and vocoders behind our protocols: diffusers' numbers, and the same in a stream."""

import random

import numpy as np
import pytest
import torch

from omniforcing_model.codecs.ltx2.audio_codec import Ltx2AudioCodec
from omniforcing_model.codecs.ltx2.video_codec import Ltx2VideoCodec, VideoDecoding
from omniforcing_model.codecs.ltx2.video_decoder import VideoChunkDecoder
from omniforcing_model.codecs.ltx2.vocoder_reach import samples_per_frame, vocoder_reach
from omniforcing_model.codecs.mel import LogMel
from omniforcing_model.errors import LayoutError, ShapeError, WeightsError
from pipelines.benchmarks.stream.decode_context import decode_context_errors
from tests.parity.ltx2_codec_models import BANDS, VIDEO_CONFIGS, audio_vae, video_vae, vocoder
from tests.worlds.host_waits import NoHostWaits

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

CAUSAL = VideoDecoding("causal")
VOCODERS = ("2.0", "2.3")


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import LTX2Pipeline

    return LTX2Pipeline


@pytest.fixture(scope="module", params=VOCODERS)
def audio_codec(request):
    return Ltx2AudioCodec(audio_vae(), vocoder(request.param))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_cuts(count, seed):
    """Sizes of 1 to 5 that add up to `count`."""
    chance = random.Random(seed)
    cuts = []
    while sum(cuts) < count:
        cuts.append(min(chance.randint(1, 5), count - sum(cuts)))
    return cuts


def stream(codec, latents, cuts):
    """The pieces that a new decoder gives for `latents` in blocks of `cuts`."""
    decoder = codec.decoder()
    blocks = latents.split(cuts, 1)
    return [decoder.decode(block, n == len(blocks) - 1) for n, block in enumerate(blocks)]


def farthest(one, other):
    assert one.shape == other.shape
    return (one - other).abs().max().item()


# Video: what diffusers computes.


@pytest.mark.parametrize("kind", VIDEO_CONFIGS)
def test_a_clip_encodes_as_in_diffusers(kind, pipeline):
    vae = video_vae(kind, scaling_factor=0.8)
    frames = drawn(2, 17, 3, 64, 96).clamp(-1, 1)
    with torch.no_grad():
        mean = vae.encode(frames.transpose(1, 2)).latent_dist.mode()
    theirs = pipeline._normalize_latents(mean, vae.latents_mean, vae.latents_std, 0.8)
    ours = Ltx2VideoCodec(vae).encode(frames)
    assert ours.shape == (2, 3, 8, 2, 3)
    assert farthest(ours, theirs.transpose(1, 2)) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["2.0", "2.3"])
def test_a_clip_decodes_as_in_diffusers(kind, causal, pipeline):
    vae = video_vae(kind, scaling_factor=0.8)
    latents = drawn(2, 4, 8, 2, 3)
    raw = pipeline._denormalize_latents(
        latents.transpose(1, 2), vae.latents_mean, vae.latents_std, 0.8
    )
    with torch.no_grad():
        theirs = vae.decode(raw, causal=causal).sample.transpose(1, 2).clamp(-1, 1)
    ours = Ltx2VideoCodec(vae, CAUSAL if causal else VideoDecoding()).decode(latents)
    assert ours.shape == (2, 25, 3, 64, 96)
    assert farthest(ours, theirs) < 1e-6


def test_a_decoder_with_a_timestep_gets_it_and_the_same_little_noise_each_time(pipeline):
    vae = video_vae("2.0 with a timestep")
    codec = Ltx2VideoCodec(vae)
    latents = drawn(1, 4, 8, 2, 2)
    raw = pipeline._denormalize_latents(
        latents.transpose(1, 2), vae.latents_mean, vae.latents_std, 1.0
    )
    noise = (codec.prepare(latents, 0) - raw) / vae.latents_std[:, None, None, None]
    expected = -0.025 * latents.transpose(1, 2)
    assert (noise - expected).std().item() == pytest.approx(0.025, rel=0.2)
    with torch.no_grad():
        theirs = vae.decode(codec.prepare(latents, 0), torch.tensor([0.05])).sample
    assert farthest(codec.decode(latents), theirs.transpose(1, 2).clamp(-1, 1)) < 1e-6
    assert torch.equal(codec.decode(latents), codec.decode(latents))
    tail = codec.prepare(latents[:, 2:], 2)
    assert torch.equal(codec.prepare(latents, 0)[:, :, 2:], tail)


# Video: the stream.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", VIDEO_CONFIGS)
def test_causal_blocks_join_to_the_whole_clip(kind, seed):
    codec = Ltx2VideoCodec(video_vae(kind, seed), CAUSAL)
    latents = drawn(2, 12, 8, 2, 2, seed=seed)
    pieces = stream(codec, latents, random_cuts(12, seed))
    assert farthest(torch.cat(pieces, 1), codec.decode(latents)) < 1e-5


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", VIDEO_CONFIGS)
def test_in_double_precision_blocks_are_exact(kind, causal):
    vae = video_vae(kind).double().requires_grad_(False)
    raw = drawn(1, 8, 10, 2, 2).double()
    timestep = None if vae.decoder.timestep_scale_multiplier is None else 0.05
    time = None if timestep is None else torch.tensor([timestep]).double()
    whole = vae.decode(raw, time, causal=causal).sample
    chunks = VideoChunkDecoder(vae.decoder, causal, timestep)
    # Seen to the end, the shipped decoder's blocks are the whole clip's too.
    chunk_ends = (1, 4, 6, 10)
    pieces = [
        chunks.decode(raw[:, :, start : (end if causal else 10)], end - start)
        for start, end in zip((0, *chunk_ends), chunk_ends, strict=False)
    ]
    assert farthest(torch.cat(pieces, 2), whole) < 1e-9


def test_causal_frames_do_not_depend_on_what_comes():
    codec = Ltx2VideoCodec(video_vae(), CAUSAL)
    latents = drawn(1, 7, 8, 2, 2)
    changed = latents.clone()
    changed[:, 4:] = drawn(1, 3, 8, 2, 2, seed=1)
    before, after = codec.decode(latents), codec.decode(changed)
    assert torch.equal(before[:, :25], after[:, :25])
    assert farthest(before[:, 25:], after[:, 25:]) > 0.01


@pytest.mark.parametrize("left", [None, 0, 2, 9])
@pytest.mark.parametrize("right", [0, 1, 2, 9])
def test_a_shipped_stream_gives_every_frame_once(left, right):
    codec = Ltx2VideoCodec(video_vae(), VideoDecoding("shipped", left, right))
    pieces = stream(codec, drawn(1, 10, 8, 2, 2), [1, 3, 3, 3])
    known = np.array([1, 4, 7, 10]) - np.array([right, right, right, 0])
    frames = np.maximum(0, 8 * known - 7)
    assert [piece.shape[1] for piece in pieces] == np.diff(frames, prepend=0).tolist()


@pytest.mark.parametrize("left", [None, 9])
def test_a_shipped_stream_with_all_its_future_is_the_whole_clip(left):
    latents = drawn(1, 10, 8, 2, 2)
    codec = Ltx2VideoCodec(video_vae(), VideoDecoding("shipped", left, 9))
    pieces = stream(codec, latents, [1, 3, 3, 3])
    assert farthest(torch.cat(pieces, 1), codec.decode(latents)) < 1e-5


@pytest.mark.parametrize("kind", ["2.0", "2.3"])
def test_more_look_ahead_brings_a_shipped_stream_closer(kind):
    codec = Ltx2VideoCodec(video_vae(kind), CAUSAL)
    errors = decode_context_errors(codec, drawn(1, 16, 8, 2, 2), (4, None), (0, 1, 2, 4))
    for left in (4, None):
        relative = [error.relative_error for error in errors if error.left == left]
        assert relative == sorted(relative, reverse=True)
        assert relative[-1] < 0.1 < relative[0]
        psnr = [error.psnr_db for error in errors if error.left == left]
        assert psnr == sorted(psnr)


@pytest.mark.parametrize(
    "decoding", [CAUSAL, VideoDecoding("shipped", None, 1), VideoDecoding("shipped", 2, 1)]
)
def test_two_streams_of_one_codec_do_not_mix(decoding):
    codec = Ltx2VideoCodec(video_vae(), decoding)
    clips = [drawn(1, 10, 8, 2, 2, seed=seed) for seed in (0, 1)]
    alone = [torch.cat(stream(codec, clip, [1, 3, 3, 3]), 1) for clip in clips]
    decoders = [codec.decoder() for _ in clips]
    together = [[], []]
    for start, end in ((0, 1), (1, 4), (4, 7), (7, 10)):
        for decoder, clip, pieces in zip(decoders, clips, together, strict=True):
            pieces.append(decoder.decode(clip[:, start:end], end == 10))
    for pieces, expected in zip(together, alone, strict=True):
        assert torch.equal(torch.cat(pieces, 1), expected)


def test_what_does_not_fit_the_video_codec_is_refused():
    codec = Ltx2VideoCodec(video_vae())
    with pytest.raises(LayoutError, match="8k"):
        codec.encode(torch.zeros(1, 16, 3, 64, 64))
    with pytest.raises(ShapeError, match="multiples of 32"):
        codec.encode(torch.zeros(1, 9, 3, 64, 60))
    with pytest.raises(WeightsError, match="noise"):
        Ltx2VideoCodec(video_vae(decoder_inject_noise=(True, False, False, False)))


# Audio.


def test_the_mel_front_end_is_that_of_transformers():
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    sound = 0.1 * drawn(16_000).numpy()
    filters = mel_filter_bank(513, 64, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    theirs = spectrogram(
        sound,
        window_function(1024, "hann"),
        frame_length=1024,
        hop_length=160,
        power=1.0,
        center=True,
        pad_mode="reflect",
        mel_filters=filters,
        mel_floor=1e-5,
        log_mel="log",
    )
    ours = LogMel()(torch.from_numpy(sound)[None])[0]
    assert farthest(ours, torch.from_numpy(theirs.T).float()) < 1e-4


def test_sound_encodes_as_in_diffusers(audio_codec, pipeline):
    vae = audio_codec.vae
    sound = 0.1 * drawn(2, 2, 20_000)
    mel = LogMel(bands=BANDS)(sound.flatten(0, 1)).unflatten(0, (2, 2))
    with torch.no_grad():
        packed = pipeline._pack_audio_latents(vae.encode(mel).latent_dist.mode())
    theirs = pipeline._normalize_audio_latents(packed, vae.latents_mean, vae.latents_std)
    # 1.25 s are 126 mel frames, which make 32 latents, the last of them not whole.
    assert theirs.shape == (2, 32, 8)
    assert farthest(audio_codec.encode(sound, 31), theirs[:, :31]) < 1e-5


def test_mono_is_stereo_and_what_is_missing_is_silence(audio_codec):
    sound = 0.1 * drawn(1, 1, 3000)
    stereo = torch.nn.functional.pad(sound.expand(1, 2, 3000), (0, 20_000))
    assert torch.equal(audio_codec.encode(sound, 26), audio_codec.encode(stereo[..., :16_160], 26))
    assert audio_codec.encode(sound, 1).shape == (1, 1, 8)
    with pytest.raises(ShapeError, match="1 or 2"):
        audio_codec.encode(torch.zeros(1, 3, 16_000), 26)


def test_latents_sound_as_in_diffusers(audio_codec, pipeline):
    vae = audio_codec.vae
    latents = drawn(2, 9, 8)
    raw = pipeline._denormalize_audio_latents(latents, vae.latents_mean, vae.latents_std)
    with torch.no_grad():
        mel = vae.decode(pipeline._unpack_audio_latents(raw, 9, num_mel_bins=BANDS // 4)).sample
        theirs = audio_codec.vocoder(mel)
    assert farthest(audio_codec.decode(latents), theirs.clamp(-1, 1)) < 1e-6
    assert theirs.shape[2] * 100 == 33 * audio_codec.sample_rate


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", VOCODERS)
def test_blocks_of_sound_join_to_the_whole(kind, seed):
    codec = Ltx2AudioCodec(audio_vae(seed), vocoder(kind, seed))
    latents = drawn(1, 28, 8, seed=seed)
    whole = codec.decode(latents)
    for cuts in (random_cuts(28, seed), [1, 15, 12]):
        pieces = stream(codec, latents, cuts)
        assert farthest(torch.cat(pieces, 2), whole) < 1e-5


def test_a_block_is_heard_but_for_what_the_vocoder_waits_for(audio_codec):
    pieces = stream(audio_codec, drawn(1, 51, 8), [26, 25])
    held = audio_codec.reach.right
    lengths = [101 - held, 100 + held]
    assert [p.shape[2] for p in pieces] == [n * audio_codec.samples_per_frame for n in lengths]


@pytest.mark.parametrize(("kind", "frames"), [("2.0", 41), ("2.3", 121)])
def test_the_reach_is_what_the_vocoder_looks_at_no_more_no_less(kind, frames):
    model = vocoder(kind).double()
    mel = drawn(1, 2, frames, BANDS).double().requires_grad_()
    middle, samples = frames // 2, samples_per_frame(model)
    model(mel)[..., middle * samples : (middle + 1) * samples].sum().backward()
    rows_with_gradient = mel.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    reach = vocoder_reach(model)
    assert (
        middle - rows_with_gradient.min().item(),
        rows_with_gradient.max().item() - middle,
    ) == reach


def test_two_streams_of_sound_do_not_mix(audio_codec):
    clips = [drawn(1, 24, 8, seed=seed) for seed in (0, 1)]
    alone = [torch.cat(stream(audio_codec, clip, [4, 20]), 2) for clip in clips]
    decoders = [audio_codec.decoder() for _ in clips]
    firsts = [d.decode(clip[:, :4], False) for d, clip in zip(decoders, clips, strict=True)]
    lasts = [d.decode(clip[:, 4:], True) for d, clip in zip(decoders, clips, strict=True)]
    for first, last, expected in zip(firsts, lasts, alone, strict=True):
        assert torch.equal(torch.cat((first, last), 2), expected)


def test_an_audio_vae_that_looks_ahead_or_has_other_bands_is_refused():
    with pytest.raises(WeightsError, match="causal in time"):
        Ltx2AudioCodec(audio_vae(causality_axis="width"), vocoder())
    with pytest.raises(WeightsError, match="mel bands"):
        Ltx2AudioCodec(audio_vae(mel_bins=32), vocoder())


# On a GPU.


@pytest.mark.parametrize("kind", VIDEO_CONFIGS)
@pytest.mark.parametrize("decoding", [CAUSAL, VideoDecoding("shipped", 2, 1)])
def test_pictures_are_queued_without_a_wait_for_the_device(kind, decoding):
    decoder = Ltx2VideoCodec(video_vae(kind), decoding).to("meta").decoder()
    with NoHostWaits():
        frames = [
            decoder.decode(torch.empty(1, n, 8, 2, 2, device="meta"), n == 4).shape[1]
            for n in (1, 3, 4)
        ]
    assert sum(frames) == 57


@pytest.mark.parametrize("kind", VOCODERS)
def test_sound_is_queued_without_a_wait_for_the_device(kind):
    codec = Ltx2AudioCodec(audio_vae(), vocoder(kind)).to("meta")
    decoder = codec.decoder()
    with NoHostWaits():
        samples = [
            decoder.decode(torch.empty(1, n, codec.latent_channels, device="meta"), n == 6).shape[2]
            for n in (1, 25, 6)
        ]
    assert sum(samples) == (4 * 32 - 3) * codec.samples_per_frame


# A stream that goes on elsewhere.


def goes_on(codec, latents, block, cut):
    """What a decoder gives for `latents` from `block` on, in blocks of `cut`, that has seen no
    more than the codec's context before it."""
    blocks = latents.split(cut, 1)
    first = max(0, block - -(-codec.context // cut))
    decoder = codec.decoder(first * cut)
    for before in blocks[first:block]:
        decoder.decode(before, False)
    last = len(blocks) - 1
    return [decoder.decode(own, block + k == last) for k, own in enumerate(blocks[block:])]


@pytest.mark.parametrize("decoding", [CAUSAL, VideoDecoding(), VideoDecoding("shipped", 2, 1)])
@pytest.mark.parametrize("kind", VIDEO_CONFIGS)
def test_pictures_go_on_after_the_context(kind, decoding):
    codec = Ltx2VideoCodec(video_vae(kind), decoding)
    block = -(-codec.context // 3) + 2
    latents = drawn(1, 3 * (block + 3), 8, 2, 2)
    straight = stream(codec, latents, [3] * (block + 3))[block:]
    resumed = goes_on(codec, latents, block, 3)
    assert len(resumed) == 3
    for ours, theirs in zip(resumed, straight, strict=True):
        assert torch.equal(ours, theirs)


def test_sound_goes_on_after_the_context(audio_codec):
    block = -(-audio_codec.context // 25) + 2
    latents = drawn(1, 25 * (block + 2), audio_codec.latent_channels)
    straight = stream(audio_codec, latents, [25] * (block + 2))[block:]
    resumed = goes_on(audio_codec, latents, block, 25)
    for ours, theirs in zip(resumed, straight, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("decoding", [CAUSAL, VideoDecoding()])
@pytest.mark.parametrize("kind", VIDEO_CONFIGS)
def test_the_context_of_pictures_is_what_frames_depend_on(kind, decoding):
    codec = Ltx2VideoCodec(video_vae(kind), decoding)
    reach = codec.context - (0 if codec.causal else decoding.right)
    latents = drawn(1, reach + 3, 8, 2, 2)
    changed = latents.clone()
    changed[:, 0] += 1.0
    whole, other = (
        torch.cat(stream(codec, values, [1] * values.shape[1]), 1) for values in (latents, changed)
    )
    differs = (whole != other).flatten(2).any(2)[0].nonzero().flatten()
    last = int(differs.max())  # the frame that latent 0 is seen in last
    assert 8 * reach - 16 <= last <= 8 * reach
