"""Sound is computed in full float32, and nothing else notices."""

import pytest
import torch

from omniforcing_model.codecs.ltx2.exact_float32 import exact_float32


def settings():
    backends = torch.backends
    return backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision


@pytest.fixture
def fast_products():
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def test_settings_are_exact_inside_and_as_before_outside(fast_products):
    before = settings()
    assert before != ("ieee", "ieee")
    with exact_float32():
        assert settings() == ("ieee", "ieee")
        with exact_float32():
            pass
        assert settings() == ("ieee", "ieee")
    assert settings() == before
    with pytest.raises(ZeroDivisionError), exact_float32():
        1 / 0  # noqa: B018  # any error
    assert settings() == before


@pytest.mark.parity
def test_the_audio_vae_and_the_vocoder_run_so():
    pytest.importorskip("diffusers", reason="needs the extra ltx2")
    from omniforcing_model.codecs.ltx2.audio_codec import Ltx2AudioCodec
    from tests.parity.ltx2_codec_models import audio_vae, vocoder

    codec = Ltx2AudioCodec(audio_vae(), vocoder())
    precisions = []
    for module in codec.modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d):
            module.register_forward_hook(lambda *_: precisions.append(settings()))
    before = settings()
    for compute in (
        lambda: codec.encode(torch.zeros(1, 2, 16_160), 26),
        lambda: codec.decode(torch.zeros(1, 8, 8)),
        lambda: codec.decoder().decode(torch.zeros(1, 8, 8), final=True),
    ):
        precisions.clear()
        compute()
        assert set(precisions) == {("ieee", "ieee")}
        assert settings() == before
