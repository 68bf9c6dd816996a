"""What a stream may be under a configuration: one rule for the endpoint and for one made here."""

from infra.config import ServeConfig


def exceeded_limit(prompt: str, seconds: int, limits: ServeConfig) -> str | None:
    """The sentence about the first limit that a stream of `prompt` exceeds; None within all."""
    if len(prompt) > limits.max_prompt_chars:
        return (
            f"prompt: expected at most {limits.max_prompt_chars:,} characters,"
            f" got {len(prompt):,}; shorten it"
        )
    if not 1 <= seconds <= limits.max_seconds:
        return (
            f"seconds: expected 1 to {limits.max_seconds}, got {seconds};"
            " ask for a length in between"
        )
    return None
