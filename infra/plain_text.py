"""What counts as text: anything that can be written down, sent as UTF-8 and shown.

JSON can hold half of a character (a lone surrogate), and so can an argument of a command that is no
UTF-8; a NUL ends a text for whoever reads it in C. Tokenizers and encoders raise on some of them.
"""

import unicodedata

WHITESPACE = "\t\n\r"


def text_problem(text: str) -> str | None:
    """What of `text` is no text, as the end of "expected text, got ..."; None if all of it is."""
    for place, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind == "Cs":
            return f"half of a character (U+{ord(character):04X}) at place {place}"
        if kind == "Cc" and character not in WHITESPACE:
            return f"a control character (U+{ord(character):04X}) at place {place}"
    return None
