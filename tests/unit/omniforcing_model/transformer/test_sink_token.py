import torch

from omniforcing_model.transformer.sink_token import INITIAL_STD, SinkTokens


def test_sinks_stand_before_the_audio_in_every_row():
    sinks = SinkTokens(2, 3)
    audio = torch.ones(4, 5, 3, dtype=torch.bfloat16)
    joined = sinks.prepend(audio)
    assert joined.shape == (4, 7, 3)
    assert joined.dtype == torch.bfloat16
    assert torch.equal(joined[:, 2:], audio)
    assert torch.equal(joined[3, :2], sinks.tokens.to(torch.bfloat16))


def test_new_sinks_are_small():
    torch.manual_seed(0)
    assert INITIAL_STD == 0.02
    assert 0.015 < SinkTokens(16, 64).tokens.std() < 0.025
