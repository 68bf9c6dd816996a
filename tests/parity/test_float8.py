"""Float8 projections: half the memory of bfloat16, at an error of a few percent."""

import pytest
import torch
from torch import Tensor

from omniforcing_model.errors import PrecisionError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.attention_view import BidirectionalView
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.float8 import use_float8
from tests.parity.ltx2_reference import drawn_config, features, twins

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytest.importorskip("torchao", reason="needs the extra float8")
pytestmark = pytest.mark.parity

LATENTS, GRID = PerStream(4, 26), (2, 2)


def velocity(model: DualStreamTransformer) -> PerStream[Tensor]:
    generator = torch.Generator().manual_seed(5)
    config, dtype = model.config, model.dtype
    latents = PerStream(
        torch.randn(1, LATENTS.video, config.video.latent_channels, *GRID, generator=generator),
        torch.randn(1, LATENTS.audio, config.audio.latent_channels, generator=generator),
    )
    text = model.read_text(features(config, 1, 6, generator).map(lambda x: x.to(dtype)))
    view = BidirectionalView(config, LATENTS, GRID)
    with torch.no_grad():
        answer: PerStream[Tensor] = model(
            latents.map(lambda x: x.to(dtype)), torch.tensor([[0.6]]), text, view
        )
    return answer.map(torch.Tensor.float)


def error(ours: PerStream[Tensor], exact: PerStream[Tensor]) -> float:
    return max(float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("profile", ["ltx-2.0", "ltx-2.3"])
def test_float8_costs_a_few_percent_where_bfloat16_costs_one(profile: str) -> None:
    generator = torch.Generator().manual_seed(0)
    model, _ = twins(drawn_config(profile, generator), generator)
    exact = velocity(model)
    half = error(velocity(model.bfloat16()), exact)
    eighth = error(velocity(use_float8(model)), exact)
    assert half < 0.03
    assert half < eighth < 0.15


def test_a_float32_model_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    model, _ = twins(drawn_config("ltx-2.0", generator), generator)
    with pytest.raises(PrecisionError, match="bfloat16 first"):
        use_float8(model)
