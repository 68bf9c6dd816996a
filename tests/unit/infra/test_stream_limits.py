"""The limits of a stream, at each limit and one beyond it."""

import pytest

from infra.presets import load_preset
from infra.stream_limits import exceeded_limit

LIMITS = load_preset("tiny", ["serve.max_prompt_chars=2000", "serve.max_seconds=600"]).serve


@pytest.mark.parametrize(("characters", "seconds"), [(0, 1), (2000, 600)])
def test_what_is_at_a_limit_is_within(characters: int, seconds: int) -> None:
    assert exceeded_limit("x" * characters, seconds, LIMITS) is None


@pytest.mark.parametrize(
    ("characters", "seconds", "problem"),
    [
        (2001, 1, "prompt: expected at most 2,000 characters, got 2,001; shorten it"),
        (1, 0, "seconds: expected 1 to 600, got 0; ask for a length in between"),
        (1, 601, "seconds: expected 1 to 600, got 601; ask for a length in between"),
    ],
)
def test_one_beyond_a_limit_is_a_sentence(characters: int, seconds: int, problem: str) -> None:
    assert exceeded_limit("x" * characters, seconds, LIMITS) == problem
