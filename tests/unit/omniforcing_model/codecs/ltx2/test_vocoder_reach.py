"""Spans worked out by hand, and a vocoder whose samples do depend on exactly these frames."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from omniforcing_model.codecs.ltx2.vocoder_reach import Reach, samples_per_frame, vocoder_reach


class Vocoder(nn.Module):
    """One upsampling by 4 between two convolutions, with one residual block of one layer."""

    num_upsample_layers = 1
    resnets_per_upsample = 1
    total_upsample_factor = 4

    def __init__(self, dilation=1, kernel=8, padding=2):
        super().__init__()
        self.conv_in = nn.Conv1d(1, 1, 3, padding=1)
        self.upsamplers = nn.ModuleList([nn.ConvTranspose1d(1, 1, kernel, 4, padding=padding)])
        self.resnets = [
            SimpleNamespace(
                acts1=[nn.Identity()],
                convs1=[nn.Conv1d(1, 1, 3, dilation=dilation, padding=dilation)],
                acts2=[nn.Identity()],
                convs2=[nn.Conv1d(1, 1, 3, padding=1)],
            )
        ]
        self.act_out = SimpleNamespace()  # acts in place
        self.conv_out = nn.Conv1d(1, 1, 5, padding=2)

    def forward(self, mel):
        hidden = self.upsamplers[0](self.conv_in(mel))
        (resnet,) = self.resnets
        hidden = hidden + resnet.convs2[0](resnet.convs1[0](hidden))
        return self.conv_out(hidden)


def measured(vocoder, frame=20, frames=41):
    """Frames that change a sample of `frame`."""
    mel = torch.zeros(1, 1, frames, requires_grad=True)
    samples = vocoder(mel)[0, 0, 4 * frame : 4 * frame + 4]
    (gradient,) = torch.autograd.grad(samples.sum(), mel)
    read = gradient.flatten().nonzero().flatten()
    return Reach(frame - int(read.min()), int(read.max()) - frame)


@pytest.mark.parametrize(
    ("dilation", "kernel", "padding"), [(1, 8, 2), (3, 8, 2), (5, 4, 0), (9, 6, 1)]
)
def test_the_reach_is_what_a_gradient_shows(dilation, kernel, padding):
    torch.manual_seed(0)
    vocoder = Vocoder(dilation, kernel, padding)
    assert samples_per_frame(vocoder) == 4
    assert vocoder_reach(vocoder) == measured(vocoder)


def test_an_activation_against_aliasing_reaches_further():
    """Up and down by 2 with filters of 12: -2..5 of what follows it become -7..10 before it."""
    vocoder = Vocoder()
    plain = vocoder_reach(vocoder)
    vocoder.act_out = SimpleNamespace(
        downsample=SimpleNamespace(ratio=2, pad_left=5, kernel_size=12),
        upsample=SimpleNamespace(ratio=2, pad=5, pad_left=15, kernel_size=12),
    )
    assert plain == Reach(3, 3)
    assert vocoder_reach(vocoder) == Reach(4, 4)
