"""Attention in every form there is a choice of is PyTorch's."""

import pytest
import torch
from torch.nn import functional

from omniforcing_model.kernels.attention import CACHED_SCORE_BYTES, attend, by_products
from omniforcing_model.kernels.choice import (
    AttentionForm,
    KernelChoice,
    MachineKernels,
    using_kernels,
)
from tests.worlds.native_library import compiled


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "heads", "tokens", "keys"), [(2, 3, 5, 7), (1, 5, 300, 900)])
def test_products_give_what_pytorch_gives(
    batch: int, heads: int, tokens: int, keys: int, dtype: torch.dtype
) -> None:
    # As the model hands them over: queries token-major, keys and values part of a longer buffer.
    queries = torch.randn(batch, tokens, heads, 16).to(dtype).transpose(1, 2)
    all_keys, values = torch.randn(2, batch, heads, keys + 9, 16).to(dtype)[:, :, :, :keys]
    with torch.no_grad():
        ours = by_products(queries, all_keys, values)
    exact = functional.scaled_dot_product_attention(
        queries.double(), all_keys.double(), values.double()
    )
    rounding = 1e-5 if dtype == torch.float32 else 3e-2
    assert torch.allclose(ours.double(), exact, atol=rounding)


def test_the_larger_case_takes_several_rounds_of_heads() -> None:
    assert 5 * 300 * 900 * 4 > CACHED_SCORE_BYTES > 2 * 300 * 900 * 2


def test_a_mask_hides_keys() -> None:
    queries, keys, values = torch.randn(3, 1, 2, 4, 8)
    mask = torch.tensor([[True, False, False, False]]).expand(4, 4)
    with torch.no_grad():
        assert torch.allclose(
            attend(queries, keys, values, mask), values[:, :, :1].expand(-1, -1, 4, -1)
        )


def taken(form: AttentionForm, monkeypatch: pytest.MonkeyPatch, *, gradients: bool = False) -> str:
    """What computes an attention under the choice of `form`."""
    calls: list[str] = []
    theirs = functional.scaled_dot_product_attention
    names = "omniforcing_model.kernels"

    def recorded(name, function):
        return lambda *arguments: (calls.append(name), function(*arguments))[1]

    monkeypatch.setattr(f"{names}.attention.by_products", recorded("products", by_products))
    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded("sdpa", theirs))
    choice = KernelChoice(form, "plain", "plain")
    library = compiled() if form == "native" else None
    queries, keys, values = torch.randn(3, 1, 2, 9, 16)
    with using_kernels(MachineKernels(choice, choice, library)), torch.set_grad_enabled(gradients):
        ours = attend(queries, keys, values)
    assert torch.allclose(ours, theirs(queries, keys, values), atol=1e-5)
    return calls[0] if calls else "native"


@pytest.mark.parametrize("form", ["products", "sdpa", "native"])
def test_the_chosen_form_computes(form: AttentionForm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(form, monkeypatch) == form


@pytest.mark.parametrize("form", ["products", "sdpa", "native"])
def test_with_gradients_it_is_pytorchs(
    form: AttentionForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert taken(form, monkeypatch, gradients=True) == "sdpa"
