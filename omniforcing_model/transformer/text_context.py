"""A prompt as the streams read it: keys and values per layer, computed once per prompt.

In LTX-2.3 sigma modulates the text before its keys and values are made, so there they are computed
once per prompt and sigma, or once per prompt where the layout's `prompt_sigma` is one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from omniforcing_model.errors import ShapeError
from omniforcing_model.per_stream import PerStream
from omniforcing_model.transformer.level_table import PickedModulation
from omniforcing_model.transformer.modulation import Modulation, StreamModulation

LayerText = tuple[Tensor, Tensor]  # keys, values: (batch, heads, text tokens, head_dim)


class TextLayer(Protocol):
    """A layer's key side of the text attention."""

    @property
    def text_table(self) -> Tensor | None:
        """Rows that modulate the text, (2, width), from LTX-2.3 on."""
        ...

    @property
    def text_keys(self) -> Callable[[Tensor], LayerText]:
        """Keys and values of text features."""
        ...


class Text(Protocol):
    """One stream's text in a pass."""

    def layer(self, index: int, modulation: Modulation) -> list[LayerText]:
        """Keys and values of layer `index`: one pair for all columns, or one per column."""
        ...

    def nbytes(self) -> int:
        """Bytes of what is made."""
        ...


class StreamText:
    """One stream's text: the features it reads, and their keys and values."""

    def __init__(
        self,
        features: Tensor,
        layers: Sequence[TextLayer],
        prompt: Tensor | None = None,
        at_once: bool = True,
    ) -> None:
        """Read a prompt.

        Args:
            features: (batch, text tokens, width), projected to the stream's width.
            layers: of the stream.
            prompt: the prompt's modulation where no noise level has another, (1, 1, 2, width).
            at_once: make all keys and values now; else a layer's when it is first read.
        """
        self._features = features
        self._layers = layers
        self._prompt = prompt
        self._is_plain = prompt is not None or layers[0].text_table is None
        # By layer: of all noise levels.
        self._plain: dict[int, LayerText] = {}
        # Kept as long as the noise level is: many steps do not pile up.
        self._modulated: WeakKeyDictionary[StreamModulation, dict[int, list[LayerText]]] = (
            WeakKeyDictionary()
        )
        if at_once and self._is_plain:
            self._plain = {index: self._plain_text(index) for index in range(len(layers))}

    def layer(self, index: int, modulation: Modulation) -> list[LayerText]:
        """Keys and values of layer `index`: one pair for all columns, or one per column."""
        if self._is_plain:
            if index in self._plain:
                return [self._plain[index]]
            made = self._plain_text(index)
            if not torch.is_grad_enabled():  # a pass with gradients makes its own
                self._plain[index] = made
            return [made]
        assert isinstance(modulation, StreamModulation), "rows of a table read TextRows"
        if torch.is_grad_enabled():
            return self._layer_texts(self._layers[index], modulation.prompt)
        made_at = self._modulated.setdefault(modulation, {})
        if index not in made_at:
            made_at[index] = self._layer_texts(self._layers[index], modulation.prompt)
        return made_at[index]

    def nbytes(self) -> int:
        """Bytes of the keys and values that are made, and of the features."""
        modulated = (texts for made_at in self._modulated.values() for texts in made_at.values())
        pairs = [*self._plain.values(), *(pair for texts in modulated for pair in texts)]
        tensors = [self._features, *(t for pair in pairs for t in pair)]
        return sum(t.numel() * t.element_size() for t in tensors)

    def _plain_text(self, index: int) -> LayerText:
        layer = self._layers[index]
        if layer.text_table is None:
            return layer.text_keys(self._features)
        return self._layer_texts(layer, self._prompt)[0]

    def _layer_texts(self, layer: TextLayer, prompt: Tensor | None) -> list[LayerText]:
        assert prompt is not None
        assert layer.text_table is not None
        rows = prompt + layer.text_table.to(prompt.dtype)
        shifts, scales = rows.unbind(dim=2)
        return [
            layer.text_keys(torch.addcmul(shift, self._features, 1 + scale))
            for shift, scale in zip(shifts.split(1, dim=1), scales.split(1, dim=1), strict=True)
        ]


class TextContext(NamedTuple):
    """The text of both streams, of `DualStreamTransformer.read_text`."""

    streams: PerStream[Text]

    def nbytes(self) -> int:
        """Bytes of both streams' text, as far as it is made."""
        return sum(text.nbytes() for _, text in self.streams.present())


class TextRows:
    """One stream's text of every row of a batch, in buffers that passes read.

    Per layer: keys and values (rows, heads, text tokens, head_dim); from LTX-2.3 on, where sigma
    modulates them, (levels, rows, ...), of which a pass picks each row's level.
    """

    def __init__(self, buffers: list[LayerText], is_modulated: bool) -> None:
        self._buffers = buffers
        self._is_modulated = is_modulated

    @classmethod
    def like(
        cls, text: Text, layers: int, rows: int, levels: Sequence[StreamModulation]
    ) -> "TextRows":
        """Empty rows for prompts of the shape of `text`, which is read at all `levels`."""
        first = [text.layer(0, level) for level in levels]
        is_modulated = first[0][0][0] is not first[-1][0][0]
        ((keys, values),) = first[0]
        shape = (rows, *keys.shape[1:])
        if is_modulated:
            shape = (len(levels), *shape)
        buffers = [(keys.new_zeros(shape), values.new_zeros(shape)) for _ in range(layers)]
        return cls(buffers, is_modulated)

    def put(self, row: int, text: Text, levels: Sequence[StreamModulation]) -> None:
        """Let `row` read `text`, a batch of one prompt."""
        for index, buffers in enumerate(self._buffers):
            for at, level in enumerate(levels if self._is_modulated else levels[:1]):
                (pair,) = text.layer(index, level)
                for buffer, new in zip(buffers, pair, strict=True):
                    place = buffer[at, row] if self._is_modulated else buffer[row]
                    if place.shape != new.shape[1:]:
                        raise ShapeError(
                            "expected prompts of one shape in the streams of a batch, text keys"
                            f" {tuple(place.shape)}, got {tuple(new.shape[1:])}; encode all with"
                            " the same number of text tokens"
                        )
                    place.copy_(new[0])

    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(t.numel() * t.element_size() for pair in self._buffers for t in pair)

    def part(self, rows: slice) -> "TextRows":
        """The text of some of the rows."""
        at = (slice(None), rows) if self._is_modulated else rows
        return TextRows([(k[at], v[at]) for k, v in self._buffers], self._is_modulated)

    def layer(self, index: int, modulation: Modulation) -> list[LayerText]:
        """Keys and values of layer `index`, of every row's level."""
        keys, values = self._buffers[index]
        if self._is_modulated:
            assert isinstance(modulation, PickedModulation), "a level per row"
            rows = torch.arange(keys.shape[1], device=keys.device)
            keys, values = keys[modulation.level, rows], values[modulation.level, rows]
        return [(keys, values)]
