"""Files of bearer keys: one key a line, for a server and for its clients alike.

Spaces around a key do not count, spaces inside do; empty lines are left out. No message holds
anything of what is in a file.
"""

from pathlib import Path

from infra.errors import ConfigError


def read_keys(file: str | Path | None, setting: str) -> tuple[str, ...]:
    """All keys in `file`, at least one; none without a file.

    setting: the path in the configuration that names the file, for messages. ConfigError if the
    file cannot be read, holds no key, or one that does not fit into an HTTP header.
    """
    if file is None:
        return ()
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        # Without its cause: that of a decoding error shows bytes of the file.
        raise ConfigError(
            f"expected a readable file with a key per line at {file}, got: {reason};"
            f" correct {setting}"
        ) from None
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise ConfigError(
            f"expected a key per line in {file}, got none; add one, or set {setting} to null"
        )
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise ConfigError(
            f"expected keys of printable ASCII characters in {file}, got one with others; replace"
            f" it, or correct {setting}"
        )
    return keys


def read_key(file: str | Path | None, setting: str) -> str | None:
    """The key that a client shows, the first of `read_keys`; None without a file."""
    return next(iter(read_keys(file, setting)), None)
