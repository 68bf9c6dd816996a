"""Prompts become the contexts that diffusers' LTX-2 pipeline gives its transformer."""

import pytest
import torch

from omniforcing_model.codecs.ltx2.text_encoder import Ltx2TextEncoder
from omniforcing_model.errors import ShapeError
from tests.parity.ltx2_codec_models import TEXT_TOKENS, connectors, gemma, tokenizer

pytest.importorskip("diffusers", reason="needs the extra ltx2")
pytestmark = pytest.mark.parity

PROMPTS = [
    " a red disc ",
    "a blue disc flashes twice a second with a high beep and a disc",
    "",
]
WIDTHS = {"2.0": (16, 16), "2.3": (24, 8)}


@pytest.fixture(scope="module", params=["2.0", "2.3"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(kind):
    return Ltx2TextEncoder(gemma(), tokenizer(), connectors(kind), TEXT_TOKENS)


@pytest.mark.parametrize("seed", range(2))
def test_contexts_are_those_of_the_pipeline(kind, seed):
    from diffusers import LTX2Pipeline

    parts = {"text_encoder": gemma(seed), "tokenizer": tokenizer()}
    others = ("scheduler", "vae", "audio_vae", "transformer", "vocoder")
    joined = connectors(kind, seed)
    pipeline = LTX2Pipeline(**parts, connectors=joined, **dict.fromkeys(others))
    embeds, mask, _, _ = pipeline.encode_prompt(
        PROMPTS, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
    )
    with torch.no_grad():
        video, audio, _ = joined(embeds, mask)
    ours = Ltx2TextEncoder(**_named(parts), connectors=joined, tokens=TEXT_TOKENS).encode(PROMPTS)
    assert (ours.video - video).abs().max() < 1e-5
    assert (ours.audio - audio).abs().max() < 1e-5
    assert (ours.video.shape, ours.audio.shape) == tuple((3, 8, w) for w in WIDTHS[kind])


def _named(parts):
    return {"gemma": parts["text_encoder"], "tokenizer": parts["tokenizer"]}


def test_a_prompt_does_not_depend_on_its_neighbours(encoder):
    together = encoder.encode(PROMPTS)
    for place, prompt in enumerate(PROMPTS):
        alone = encoder.encode([prompt])
        assert torch.equal(alone.video[0], together.video[place])
        assert torch.equal(alone.audio[0], together.audio[place])


def test_no_prompts_give_an_empty_batch(kind, encoder):
    none = encoder.encode([])
    assert (none.video.shape, none.audio.shape) == tuple((0, 8, w) for w in WIDTHS[kind])


def test_words_stand_at_the_end_and_long_prompts_are_cut(encoder):
    masks = [encoder.hidden_states(prompt)[1].tolist() for prompt in PROMPTS]
    assert masks == [[[0, 0, 0, 0, 1, 1, 1, 1]], [[1] * 8], [[0] * 7 + [1]]]
    cut = encoder.encode([PROMPTS[1].rsplit(" ", 3)[0]])
    assert torch.equal(cut.video, encoder.encode([PROMPTS[1]]).video)


def test_hidden_states_that_somebody_computed_are_as_good(encoder):
    states, mask = zip(*map(encoder.hidden_states, PROMPTS), strict=True)
    states, mask = torch.cat(states), torch.cat(mask)
    assert states.shape == (3, 8, 16, 3)
    expected = encoder.encode(PROMPTS)
    for hidden in (states, states.flatten(2)):
        ours = encoder.connect(hidden, mask)
        assert (ours.video - expected.video).abs().max() < 1e-5
        assert (ours.audio - expected.audio).abs().max() < 1e-5


def test_what_stands_in_the_padding_does_not_matter_what_stands_in_the_words_does(encoder):
    states, mask = encoder.hidden_states(PROMPTS[0])
    padded, changed = states.clone(), states.clone()
    padded[:, :4] += 1
    changed[:, 4] += 1
    context = encoder.connect(states, mask)
    assert torch.equal(encoder.connect(padded, mask).video, context.video)
    assert (encoder.connect(changed, mask).video - context.video).abs().max() > 1e-3


def test_registers_take_the_places_that_the_words_leave_free(kind, encoder):
    """Context of our own making: words first, then registers by place, through the same blocks."""
    states, mask = encoder.hidden_states(PROMPTS[0])
    parts = encoder.connectors
    words = states[:, 4:]
    if kind == "2.0":
        low, high = words.amin((1, 2), keepdim=True), words.amax((1, 2), keepdim=True)
        normed = 8 * (words - words.mean((1, 2), keepdim=True)) / (high - low + 1e-6)
        projected = parts.text_proj_in(normed.flatten(2))
    else:
        normed = words / words.square().mean(2, keepdim=True).add(1e-6).sqrt()
        projected = parts.video_text_proj_in(normed.flatten(2) * (24 / 16) ** 0.5)
    connector = parts.video_connector
    # 4 registers, tiled over 8 places: places 4 to 7 are registers 0 to 3 again.
    tokens = torch.cat((projected, connector.learnable_registers[None]), 1)
    with torch.no_grad():
        expected, _ = connector(tokens, torch.zeros(1, 1, 1, 8))
    assert (encoder.connect(states, mask).video - expected).abs().max() < 1e-5


def test_registers_that_do_not_divide_the_context_are_refused():
    with pytest.raises(ShapeError, match="4 registers, got 10"):
        Ltx2TextEncoder(gemma(), tokenizer(), connectors(), 10)
