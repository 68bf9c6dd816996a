"""Weights in oneDNN's layout multiply as before, and only where that is allowed."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from infra.presets import load_preset
from omniforcing_model.errors import PrecisionError
from omniforcing_model.kernels.packed_weights import can_pack, linear, linear_gelu, pack_weight
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout, roll_out
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.projections import ColumnLinear, pack_for_streaming

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN"
)

SIGMAS = (1.0, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_product_is_the_plain_one(dtype: torch.dtype, bias: bool) -> None:
    x, weight = torch.randn(2, 7, 48).to(dtype), torch.randn(80, 48).to(dtype)
    if not can_pack(weight):
        pytest.skip("this CPU has no bfloat16 products")
    offset = torch.randn(80).to(dtype) if bias else None
    packed = pack_weight(weight)
    exact = functional.linear(
        x.double(), weight.double(), None if offset is None else offset.double()
    )
    rounding = 1e-5 if dtype == torch.float32 else 1e-2
    assert torch.allclose(linear(x, packed, offset).double(), exact, rtol=rounding, atol=rounding)
    active = functional.gelu(exact, approximate="tanh")
    for layout in (packed, weight):
        output = linear_gelu(x, layout, offset).double()
        assert torch.allclose(output, active, rtol=rounding, atol=5 * rounding)


class Calls(TorchDispatchMode):
    """What is called, views apart."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.seen.append((func.name(), kwargs or {}))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_on_a_gpu_a_product_ends_with_gelu_in_one_call() -> None:
    x, weight, bias = (torch.empty(*s, device="meta") for s in ((2, 7, 48), (80, 48), (80,)))
    with Calls() as calls:
        product = linear_gelu(x, weight, bias)
    assert calls.seen == [("aten::_addmm_activation", {"use_gelu": True})]
    assert product.shape == (2, 7, 80)
    assert product.is_contiguous()
    with Calls() as calls:
        linear_gelu(x, weight, None)
    assert "aten::_addmm_activation" not in dict(calls.seen)


def test_gelu_in_a_product_has_no_gradient_so_training_takes_two() -> None:
    x, weight, bias = (torch.empty(*s, device="meta") for s in ((7, 48), (80, 48), (80,)))
    with Calls() as calls:
        linear_gelu(x.requires_grad_(), weight, bias)
    assert [name for name, _ in calls.seen] == ["aten::addmm", "aten::gelu"]


def test_only_plain_weights_that_are_not_trained_are_packed() -> None:
    weight = torch.randn(8, 4)
    assert can_pack(weight)
    assert not can_pack(weight.double())
    assert not can_pack(weight.to("meta"))
    assert not can_pack(pack_weight(weight))
    with pytest.raises(PrecisionError, match="requires_grad_"):
        pack_weight(nn.Parameter(weight))


@torch.no_grad()
def test_a_model_laid_out_for_streaming_streams_the_same_and_keeps_no_second_copy() -> None:
    torch.manual_seed(0)
    config = load_preset("tiny", ["model.layers=2"]).model
    model = DualStreamTransformer(config).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    features = PerStream(*(torch.randn(1, 5, config.text_width) for _ in "va"))

    def streamed() -> PerStream[torch.Tensor]:
        text = model.read_text(features)
        return roll_out(Rollout(model, text, (2, 2), SIGMAS, seeded_noise(0)), 4)

    before = streamed()
    pack_for_streaming(model)
    packed = [m for m in model.modules() if isinstance(m, ColumnLinear)]
    assert packed
    assert all(layer.weight.is_mkldnn for layer in packed)
    for one, other in zip(before, streamed(), strict=True):
        assert one.std() > 0.1
        assert (one - other).abs().max() < 1e-4
