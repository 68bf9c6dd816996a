from types import SimpleNamespace

import torch

from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.modulation import StreamModulation
from omniforcing_model.transformer.text_context import StreamText, TextContext


class Layer:
    """A layer whose keys are the features it is given, and that counts its calls."""

    def __init__(self, text_table=None):
        self.text_table = text_table
        self.calls = 0

    def text_keys(self, features):
        self.calls += 1
        return features, -features


def level(columns):
    """Shift and scale of the prompt are 10 and 2 in column 0, 20 and 4 in column 1, ..."""
    prompt = torch.tensor([[10.0 * (n + 1), 2.0 * (n + 1)] for n in range(columns)])
    return StreamModulation(*[torch.zeros(1, columns, 1, 1)] * 4, prompt[None, :, :, None])


def test_plain_text_is_read_once_for_all_noise_levels():
    features = torch.ones(1, 3, 1)
    layers = [Layer(), Layer()]
    text = StreamText(features, layers)
    for index in (0, 1, 1):
        ((keys, values),) = text.layer(index, SimpleNamespace())
        assert keys is features
        assert torch.equal(values, -features)
    assert [layer.calls for layer in layers] == [1, 1]


def test_modulated_text_is_scaled_and_shifted_per_column():
    features = torch.tensor([[[3.0]]])
    layer = Layer(torch.tensor([[1.0], [0.5]]))
    pairs = StreamText(features, [layer]).layer(0, level(2))
    # The table adds 1 to each shift and 0.5 to each scale.
    assert [float(keys) for keys, _ in pairs] == [3.5 * 3 + 11, 5.5 * 3 + 21]


def test_modulated_text_is_kept_as_long_as_its_noise_level():
    layer = Layer(torch.zeros(2, 1))
    text, first, second = StreamText(torch.ones(1, 1, 1), [layer]), level(1), level(1)
    with torch.no_grad():
        assert text.layer(0, first) is text.layer(0, first)
        assert layer.calls == 1
        text.layer(0, second)
        assert layer.calls == 2
    text.layer(0, first)
    assert layer.calls == 3


def test_text_that_is_modulated_the_same_at_every_sigma_is_read_once():
    layer = Layer(torch.tensor([[1.0], [0.5]]))
    prompt = torch.tensor([[[[10.0], [2.0]]]])
    text = StreamText(torch.tensor([[[3.0]]]), [layer], prompt)
    for modulation in (level(1), level(2)):
        ((keys, _),) = text.layer(0, modulation)
        assert float(keys) == 3.5 * 3 + 11
    assert layer.calls == 1


def test_text_takes_what_its_features_keys_and_values_take():
    plain = StreamText(torch.ones(1, 3, 1), [Layer(), Layer()])
    assert plain.nbytes() == 4 * 3 * (1 + 2 * 2)
    modulated, columns = StreamText(torch.ones(1, 3, 1), [Layer(torch.zeros(2, 1))]), level(2)
    assert modulated.nbytes() == 4 * 3
    with torch.no_grad():
        modulated.layer(0, columns)
    assert modulated.nbytes() == 4 * 3 * (1 + 2 * 2)
    context = TextContext(PerStream(None, plain))
    assert context.nbytes() == plain.nbytes()
