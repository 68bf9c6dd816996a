"""Bearer keys: a server and its clients read the same file the same way."""

from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.storage.key_files import read_key, read_keys

SETTING = "serve.api_key_file"


def test_each_line_is_a_key_and_a_client_shows_the_first(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n  first key with spaces \n\nsecond\n")
    assert read_keys(file, SETTING) == ("first key with spaces", "second")
    assert read_key(file, SETTING) == "first key with spaces"


def test_without_a_file_there_is_no_key() -> None:
    assert read_keys(None, SETTING) == ()
    assert read_key(None, SETTING) is None


def test_a_file_may_lie_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "keys").write_text("one")
    assert read_keys("~/keys", SETTING) == ("one",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"a key per line in .*, got none; add one, or set serve\.api_key_file to null"),
        (b" \n\t\n", "got none"),
        ("fine\nsk-schlüssel".encode(), r"printable ASCII .*, got one with others"),
        (b"sk-\x07secret", r"printable ASCII .*, got one with others"),
        (b"\xff\xfe-secret", "got: no UTF-8 text; correct serve.api_key_file"),
    ],
)
def test_an_unusable_file_is_refused_without_its_content(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    for read in (read_keys, read_key):
        with pytest.raises(ConfigError, match=expected) as refused:
            read(file, SETTING)
        message = f"{refused.value}{refused.value.__cause__}"
        assert "secret" not in message and "schl" not in message


def test_a_file_that_is_not_there_is_named_with_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"at /nowhere, got: No such file .*; correct serve\."):
        read_keys("/nowhere", SETTING)
