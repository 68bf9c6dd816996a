"""What is text, and what is said of what is not."""

import pytest

from infra.plain_text import text_problem


@pytest.mark.parametrize(
    "text", ["", "rain", "\t\n\v\f\r", "雨 \U0001f327\ufe0f", "\ud7ff\ue000\x7f"]
)
def test_whatever_can_be_written_down_is_text(text):
    assert text_problem(text) is None
    text.encode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\ud800", "half of a character (U+D800) at place 1"),
        ("\udfff", "half of a character (U+DFFF) at place 0"),
        ("ab\0", "a control character (U+0000) at place 2"),
        ("\x1f", "a control character (U+001F) at place 0"),
        ("\x0e\ud800", "a control character (U+000E) at place 0"),
    ],
)
def test_halves_of_characters_and_controls_are_none(text, problem):
    assert text_problem(text) == problem
