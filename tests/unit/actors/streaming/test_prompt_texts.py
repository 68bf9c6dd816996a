"""A prompt's text is read once while somebody streams it, and what nobody reads is bounded."""

from types import SimpleNamespace

import pytest
import torch

from actors.streaming.prompt_texts import PromptTexts
from omniforcing_model.per_stream import PerStream


def features(value, tokens=2):
    return PerStream(torch.full((1, tokens, 4), float(value)), torch.full((1, tokens, 4), 1.0))


@pytest.fixture
def read():
    """Features that were read, in order."""
    return []


@pytest.fixture
def texts_of(read):
    """Texts whose contexts have as many bytes as their value says."""

    def make(prompts, size):
        def read_text(given):
            read.append(float(given.video[0, 0, 0]))
            nbytes = int(given.video[0, 0, 0])
            return SimpleNamespace(nbytes=lambda: nbytes)

        return PromptTexts(read_text, prompts, size)

    return make


def test_streams_of_one_prompt_share_its_text_and_another_has_its_own(texts_of, read):
    texts = texts_of(4, 100)
    one, same, other = (texts.open(features(value)) for value in (1, 1, 2))
    assert one is same is not other
    assert read == [1, 2]
    assert texts.nbytes() == 3


@pytest.mark.parametrize(
    "change", [PerStream(features(1).video, 2 * features(1).audio), features(1, tokens=3)]
)
def test_what_differs_in_one_stream_or_in_length_is_another_prompt(texts_of, read, change):
    texts = texts_of(4, 100)
    assert texts.open(features(1)) is not texts.open(change)
    assert len(read) == 2


def test_half_a_worker_compares_what_it_holds():
    texts = PromptTexts(lambda given: SimpleNamespace(nbytes=lambda: 1))
    halves = [PerStream(None, features(value).video) for value in (1, 1, 2)]
    one, same, other = map(texts.open, halves)
    assert one is same is not other
    assert len(texts) == 2


def test_a_prompt_stays_for_the_next_stream_until_others_are_later(texts_of, read):
    texts = texts_of(2, 100)
    for value in (1, 2, 1, 3):  # 1 again: 2 is the one that was opened least recently
        texts.close(texts.open(features(value)))
    assert read == [1, 2, 3]
    texts.close(texts.open(features(1)))
    assert read == [1, 2, 3]
    texts.open(features(2))
    assert read == [1, 2, 3, 2]


def test_what_is_too_large_to_keep_goes_with_its_last_stream(texts_of, read):
    texts = texts_of(4, 10)
    texts.close(texts.open(features(4)))
    large = texts.open(features(11))
    assert large is texts.open(features(11))
    texts.close(large)
    assert texts.nbytes() == 15
    texts.close(large)
    assert texts.nbytes() == 4
    texts.close(texts.open(features(7)))  # the older one goes: 11 are too many
    assert (len(texts), texts.nbytes()) == (1, 7)


def test_what_is_being_read_is_kept_however_much_it_is(texts_of, read):
    texts = texts_of(0, 0)
    contexts = [texts.open(features(value)) for value in (5, 6, 7)]
    assert texts.nbytes() == 18
    for context in contexts:
        texts.close(context)
    assert len(texts) == 0
