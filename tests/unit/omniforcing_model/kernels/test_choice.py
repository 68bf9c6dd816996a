"""One choice of kernels holds for a whole process, and the model streams the same under any."""

import pytest
import torch

from infra.presets import load_preset
from omniforcing_model.errors import KernelError
from omniforcing_model.kernels.attention import attend
from omniforcing_model.kernels.choice import (
    KernelChoice,
    MachineKernels,
    kernels_in_use,
    native_attention,
    native_regions,
    unmeasured,
    use_kernels,
    using_kernels,
)
from omniforcing_model.kernels.operands import Branch, HeadNorm
from omniforcing_model.kernels.regions import add_norm, head_norm
from omniforcing_model.noise import seeded_noise
from omniforcing_model.per_stream import PerStream
from omniforcing_model.streaming.rollout import Rollout, roll_out
from omniforcing_model.transformer.dual_stream_transformer import DualStreamTransformer
from omniforcing_model.transformer.projections import ColumnLinear, pack_for_streaming
from tests.worlds.native_library import compiled, native_kernels


def test_a_process_that_chose_nothing_needs_no_compiler() -> None:
    kernels = unmeasured()
    assert kernels.library is None
    assert not kernels.float32.is_native
    assert not kernels.bfloat16.is_native


def test_a_choice_holds_until_it_is_given_back() -> None:
    before = kernels_in_use()
    plain = KernelChoice("sdpa", "plain", "plain")
    with using_kernels(MachineKernels(plain, plain)):
        assert kernels_in_use().float32 == plain
    assert kernels_in_use() == before


def test_a_choice_is_named_part_by_part() -> None:
    assert KernelChoice("native", "packed", "plain").name == (
        "attention native, linear packed, regions plain"
    )


def test_a_library_that_does_not_load_leaves_the_choice_as_it_was(tmp_path) -> None:
    before = kernels_in_use()
    choice = KernelChoice("native", "packed", "native")
    with pytest.raises(KernelError):
        use_kernels(MachineKernels(choice, choice, tmp_path / "none.so"))
    assert kernels_in_use() == before


@torch.no_grad()
def test_each_part_is_chosen_by_dtype() -> None:
    native, plain = (
        KernelChoice("sdpa", "packed", "native"),
        KernelChoice("native", "plain", "plain"),
    )
    x = torch.zeros(1, 2, 8)
    with using_kernels(MachineKernels(native, plain, compiled())):
        assert native_regions(x) is not None
        assert native_attention(x[None]) is None
        assert native_regions(x.bfloat16()) is None
        assert native_attention(x[None].bfloat16()) is not None


@torch.no_grad()
@pytest.mark.parametrize("head_dim", [7, 258])
def test_heads_that_the_library_cannot_hold_are_left_to_others(head_dim: int) -> None:
    with using_kernels(native_kernels()):
        assert native_attention(torch.zeros(1, 1, 2, head_dim)) is None


@pytest.mark.parametrize("architecture", ["ltx-2.0", "ltx-2.3"])
@torch.inference_mode()
def test_a_stream_is_the_same_under_any_choice(architecture: str) -> None:
    torch.manual_seed(0)
    config = load_preset("tiny", ["model.layers=2", f"model.architecture={architecture}"]).model
    model = DualStreamTransformer(config).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    widths = (config.text_width,) * 2
    if config.modulated_text:
        widths = (config.video.width, config.audio.width)
    features = PerStream(*(torch.randn(1, 5, width) for width in widths))

    def streamed(kernels: MachineKernels) -> PerStream[torch.Tensor]:
        with using_kernels(kernels):
            rollout = Rollout(model, model.read_text(features), (2, 2), (1.0, 0.5), seeded_noise(0))
            return roll_out(rollout, 5)  # the window rolls

    plain = KernelChoice("sdpa", "plain", "plain")
    exact = streamed(MachineKernels(plain, plain))
    for one, other in zip(exact, streamed(native_kernels()), strict=True):
        assert one.std() > 0.1
        assert torch.allclose(one, other, atol=1e-5)


def test_weights_are_packed_where_that_is_chosen() -> None:
    plain = KernelChoice("sdpa", "plain", "plain")
    config = load_preset("tiny", ["model.layers=1"]).model
    model = DualStreamTransformer(config).requires_grad_(False)
    with using_kernels(MachineKernels(plain, plain)):
        pack_for_streaming(model)
    layers = [module for module in model.modules() if isinstance(module, ColumnLinear)]
    assert layers
    assert not any(layer.weight.is_mkldnn for layer in layers)


@torch.no_grad()
def test_a_graph_is_captured_from_plain_forms_whatever_is_chosen() -> None:
    norm = HeadNorm(torch.ones(24), 3)

    def layer(x: torch.Tensor) -> torch.Tensor:
        total, (normed,) = add_norm(x, Branch(x, None), (None,))
        queries = head_norm(normed, norm)
        return attend(queries, queries, queries) + total.mean()

    x = torch.randn(1, 5, 24)
    plain = KernelChoice("sdpa", "plain", "plain")
    with using_kernels(MachineKernels(plain, plain)):
        expected = layer(x)
    with using_kernels(native_kernels()):
        captured = torch.compile(layer, backend="eager", fullgraph=True)(x)
    torch._dynamo.reset()
    assert torch.allclose(captured, expected, atol=1e-6)
