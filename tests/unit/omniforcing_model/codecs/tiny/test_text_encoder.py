import torch

from omniforcing_model.codecs.tiny.text_encoder import TinyTextEncoder

PROMPT = "a red disc flashes twice a second with a high beep"


def test_both_streams_get_a_context_of_fixed_size() -> None:
    context = TinyTextEncoder(tokens=32, width=64).encode([PROMPT, "", "word " * 100])
    assert context.video.shape == context.audio.shape == (3, 32, 64)
    assert 0.9 < context.video.std() < 1.15


def test_case_and_punctuation_do_not_matter() -> None:
    context = TinyTextEncoder().encode([PROMPT, PROMPT.upper().replace(" ", ", ") + "!"])
    assert torch.equal(context.video[0], context.video[1])


def test_another_word_changes_its_own_place_alone() -> None:
    context = TinyTextEncoder().encode([PROMPT, PROMPT.replace("red", "blue")]).video
    changed = (context[0] != context[1]).any(-1).nonzero().flatten()
    assert changed.tolist() == [1]


def test_the_empty_prompt_is_the_registers_which_fill_every_unused_place() -> None:
    context = TinyTextEncoder().encode(["", "   ", PROMPT]).video
    assert torch.equal(context[0], context[1])
    assert torch.equal(context[2, 11:], context[0, 11:])


def test_words_beyond_the_last_place_are_cut_off() -> None:
    context = TinyTextEncoder(tokens=4).encode(["a b c d", "a b c d e f"]).video
    assert torch.equal(context[0], context[1])


def test_the_vectors_are_the_same_on_every_machine() -> None:
    context = TinyTextEncoder().encode(["red", ""]).video
    assert [round(float(value), 4) for value in context[0, 0, :4]] == [
        -0.1292,
        1.0308,
        -0.643,
        0.1048,
    ]
    assert [round(float(value), 4) for value in context[1, 0, :4]] == [
        1.253,
        0.7976,
        -0.3265,
        0.8767,
    ]


def test_no_prompts_give_an_empty_batch() -> None:
    assert TinyTextEncoder().encode([]).video.shape == (0, 32, 64)
