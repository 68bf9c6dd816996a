import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omniforcing_model.beacons.world import render_frames, sample_beacon
from omniforcing_model.codecs.tiny.video_codec import TinyVideoCodec
from omniforcing_model.errors import LayoutError, ShapeError, WeightsError
from tests.worlds.host_waits import NoHostWaits


def beacon_pictures(count: int, seed: int, frames: int = 121) -> Tensor:
    rng = np.random.default_rng(seed)
    clips = np.stack([render_frames(sample_beacon(rng), frames) for _ in range(count)])
    return torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


@pytest.fixture(scope="module")
def fitted() -> Tensor:
    return beacon_pictures(32, seed=0)


@pytest.fixture(scope="module")
def codec(fitted: Tensor) -> TinyVideoCodec:
    return TinyVideoCodec.fit(fitted.split(8))


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return beacon_pictures(2, seed=1)


def test_clips_that_were_not_fitted_come_back_almost_the_same(
    codec: TinyVideoCodec, clips: Tensor
) -> None:
    latents = codec.encode(clips)
    assert latents.shape == (2, 16, codec.latent_channels, 2, 2)
    assert codec.latent_channels == 24
    decoded = codec.decode(latents)
    assert decoded.shape == clips.shape
    assert (decoded - clips).square().mean().sqrt() < 0.01
    assert codec.explained_variance(clips) > 0.999


def test_latents_have_unit_variance(codec: TinyVideoCodec, fitted: Tensor) -> None:
    latents = codec.encode(fitted)
    assert 0.8 < latents.std() < 1.2
    assert latents.mean().abs() < 0.1


def test_a_larger_picture_has_more_patches_of_the_same_code(codec: TinyVideoCodec) -> None:
    wide = torch.cat((beacon_pictures(1, 2, 9), beacon_pictures(1, 3, 9)), -1)
    latents = codec.encode(wide)
    assert latents.shape == (1, 2, 24, 2, 4)
    assert (codec.decode(latents) - wide).abs().mean() < 0.01


@pytest.mark.parametrize(
    "blocks", [(1, 3, 3, 3, 3, 3), (4, 3, 3, 3, 3), (1,) * 16, (16,), (2, 7, 7)]
)
def test_a_stream_in_blocks_is_the_whole_bit_for_bit(
    codec: TinyVideoCodec, clips: Tensor, blocks: tuple[int, ...]
) -> None:
    latents = codec.encode(clips)
    decoder = codec.decoder()
    parts = [
        decoder.decode(block, final=number == len(blocks) - 1)
        for number, block in enumerate(latents.split(blocks, 1))
    ]
    assert parts[0].shape[1] == 1 + 8 * (blocks[0] - 1)
    assert [part.shape[1] for part in parts[1:]] == [8 * count for count in blocks[1:]]
    assert torch.equal(torch.cat(parts, 1), codec.decode(latents))


def test_a_later_frame_changes_no_earlier_latent_and_a_later_latent_no_earlier_frame(
    codec: TinyVideoCodec, clips: Tensor
) -> None:
    changed = clips.clone()
    changed[:, 9:] = 0
    before, after = codec.encode(clips), codec.encode(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])
    mixed = torch.cat((before[:, :2], after[:, 2:]), 1)
    assert torch.equal(codec.decode(mixed)[:, :9], codec.decode(before)[:, :9])


def test_an_empty_block_gives_no_frames(codec: TinyVideoCodec, clips: Tensor) -> None:
    empty = codec.encode(clips)[:, :0]
    assert codec.decoder().decode(empty, final=True).shape == (2, 0, 3, 64, 64)


def test_the_codec_read_from_disk_is_the_one_that_was_fitted(
    codec: TinyVideoCodec, clips: Tensor, tmp_path: Path
) -> None:
    codec.save(tmp_path / "codec.safetensors")
    again = TinyVideoCodec.load(tmp_path / "codec.safetensors")
    assert torch.equal(again.encode(clips), codec.encode(clips))
    assert (tmp_path / "codec.safetensors").stat().st_size < 1_500_000


def test_a_file_of_another_codec_is_refused(codec: TinyVideoCodec, tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    codec.pca.save(path, "other_codec", {})
    with pytest.raises(WeightsError, match="other_codec"):
        TinyVideoCodec.load(path)


def test_a_clip_of_the_wrong_length_or_size_is_refused_with_what_to_do(
    codec: TinyVideoCodec,
) -> None:
    with pytest.raises(LayoutError, match="cut the clip to 121 frames"):
        codec.encode(torch.zeros(1, 120, 3, 64, 64))
    with pytest.raises(ShapeError, match="multiples of 32"):
        codec.encode(torch.zeros(1, 9, 3, 60, 64))


def test_a_fit_takes_24_patches_of_each_clip() -> None:
    frames = torch.rand(2, 9, 3, 128, 128)  # 2 x 16 patches a clip
    with pytest.raises(ShapeError, match=r"expected at least 49 samples .* got 48"):
        TinyVideoCodec.fit([frames], channels=41)


def test_decoding_is_queued_without_a_wait_for_the_device(codec: TinyVideoCodec) -> None:
    decoder = copy.deepcopy(codec).to("meta").decoder()
    with NoHostWaits():
        shapes = [
            decoder.decode(torch.empty(1, n, 24, 2, 2, device="meta"), n == 3).shape for n in (1, 3)
        ]
    assert shapes == [(1, 1, 3, 64, 64), (1, 24, 3, 64, 64)]
