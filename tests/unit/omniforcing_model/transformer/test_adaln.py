import math

import pytest
import torch

from omniforcing_model.transformer.adaln import AdaLayerNormSingle, sinusoid


def test_a_timestep_becomes_128_cosines_and_128_sines():
    embedded = sinusoid(torch.tensor([[0.0, 2.0]]))
    assert embedded.shape == (1, 2, 256)
    assert embedded[0, 0].tolist() == [1.0] * 128 + [0.0] * 128
    cosines, sines = embedded[0, 1].split(128)
    for place, frequency in ((0, 1.0), (64, 0.01), (127, 10_000 ** (-127 / 128))):
        assert float(cosines[place]) == pytest.approx(math.cos(2 * frequency), abs=1e-6)
        assert float(sines[place]) == pytest.approx(math.sin(2 * frequency), abs=1e-6)


def test_a_fresh_model_does_not_depend_on_the_timestep():
    rows, embedded = AdaLayerNormSingle(4, 6)(torch.tensor([[0.0, 500.0, 1000.0]]))
    assert rows.shape == (1, 3, 6, 4)
    assert embedded.shape == (1, 3, 4)
    assert not rows.any()
    assert embedded.std() > 0


def test_rows_are_linear_silu_linear_silu_linear_of_the_sinusoid():
    adaln = AdaLayerNormSingle(2, 3)
    for parameter in adaln.parameters():
        torch.nn.init.normal_(parameter)
    time = torch.tensor([[0.7]])
    silu = torch.nn.functional.silu
    expected = adaln.linear_2(silu(adaln.linear_1(sinusoid(time))))
    rows, embedded = adaln(time)
    assert torch.equal(embedded, expected)
    assert torch.equal(rows, adaln.linear(silu(expected)).reshape(1, 1, 3, 2))
