"""What counts as text: anything that can be written down, sent as UTF-8 and shown.

JSON can hold half of a character (a lone surrogate), and so can an argument of a command that is no
UTF-8; a NUL ends a text for whoever reads it in C. Tokenizers and encoders raise on some of them.
"""

WHITESPACE = "\t\n\v\f\r"
FIRST_PRINTABLE = " "
FIRST_HALF, LAST_HALF = "\ud800", "\udfff"


def text_problem(text: str) -> str | None:
    """What of `text` is no text, as the end of "expected text, got ..."; None if all of it is."""
    for place, character in enumerate(text):
        if FIRST_HALF <= character <= LAST_HALF:
            return f"half of a character (U+{ord(character):04X}) at place {place}"
        if character < FIRST_PRINTABLE and character not in WHITESPACE:
            return f"a control character (U+{ord(character):04X}) at place {place}"
    return None
