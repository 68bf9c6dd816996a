from types import SimpleNamespace

import pytest
import torch

from omniforcing_model.codecs.ltx2.video_decoder import VideoStrides, strides_of
from omniforcing_model.errors import WeightsError


def decoder(strides=((2, 2, 2), (2, 2, 2), (2, 2, 2)), patch_size=4, patch_size_t=1, noise=()):
    blocks = [SimpleNamespace(upsamplers=[SimpleNamespace(stride=stride)]) for stride in strides]
    return SimpleNamespace(
        up_blocks=[SimpleNamespace(upsamplers=None), *blocks],
        patch_size=patch_size,
        patch_size_t=patch_size_t,
        named_parameters=lambda: [(name, torch.zeros(1)) for name in noise],
    )


def test_strides_are_products_over_the_upsamplers_and_the_patch():
    assert strides_of(decoder()) == VideoStrides(8, 32)
    mixed = decoder(((2, 2, 2), (2, 2, 2), (2, 1, 1), (1, 2, 2)), noise=("up.per_channel_scale2",))
    assert strides_of(mixed) == VideoStrides(8, 32)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"strides": ((2, 2, 2), (2, 2, 2))}, "got 4 frames, noise False, patches of 1"),
        ({"patch_size_t": 2}, "got 8 frames, noise False, patches of 2"),
        ({"noise": ("up.0.per_channel_scale1",)}, "got 8 frames, noise True, patches of 1"),
    ],
)
def test_a_decoder_that_cannot_be_streamed_is_refused(other, message):
    with pytest.raises(WeightsError, match=message):
        strides_of(decoder(**other))
