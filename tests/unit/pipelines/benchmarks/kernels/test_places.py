"""Where a kernel is launched, from the call stack."""

import torch
from torch import nn

from omniforcing_model.flow_matching import to_clean
from omniforcing_model.kernels.elementwise import gelu
from omniforcing_model.transformer.stream_layer import FeedForward
from omniforcing_model.transformer.stream_parallel import WHOLE
from pipelines.benchmarks.kernels.kernel_counter import KernelCounter


def places_of(work, model: nn.Module) -> dict[str, int]:
    with torch.no_grad(), KernelCounter(model) as counts:
        work()
    return counts.by_place


def test_a_part_of_a_layer_is_a_place_whatever_the_layers_number() -> None:
    with torch.device("meta"):
        layers = nn.ModuleList([nn.ModuleDict({"ff": FeedForward(8, WHOLE)}) for _ in range(2)])
        x = torch.empty(1, 3, 8)
    model = nn.ModuleDict({"video": nn.ModuleDict({"layers": layers})})

    def work() -> None:
        for layer in layers:
            layer["ff"](x)  # type: ignore[index]

    assert places_of(work, model) == {"video.layers.ff": 4}


def test_outside_of_modules_the_function_is_the_place() -> None:
    x, sigma = torch.empty(1, 3, device="meta"), torch.empty(1, device="meta")
    places = places_of(lambda: to_clean(x, x, sigma), nn.Module())
    assert set(places) == {"flow_matching.to_clean"}


def test_kernels_are_a_place_of_nobody() -> None:
    places = places_of(lambda: gelu(torch.empty(3, device="meta")), nn.Module())
    assert set(places) == {"elsewhere"}
