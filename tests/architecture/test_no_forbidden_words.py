"""What is committed works on any machine, and is small."""

import re

LARGEST_FILE = 1_000_000
LARGE_ALLOWED = "omniforcing_model/tiny_weights/"
# Written with brackets so that this file does not match itself; Ray's images live in /home/ray.
FORBIDDEN = {
    "a path of one person's machine": r"(?<![\w.:/])/(?:home(?!/ray\b)|Users|root|wor[k])/\w",
    "where one machine installs from": r"(?:extra-)?index[-_]url|find[-_]links|trusted[-_]host",
    "a package registry": r"\b(?:artifactory|nexus|pythonhosted|pypi|npmjs)\.\w",
    "a private network": r"\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b",
}


def text_of(file):
    """The text of a file, or nothing if it is not text."""
    data = file.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8")


def test_nothing_names_one_machine(repository, repository_files):
    places = [
        f"{file.relative_to(repository)}:{number} {what}: {match.group()}"
        for file in repository_files
        for number, line in enumerate(text_of(file).splitlines(), start=1)
        for what, pattern in FORBIDDEN.items()
        if (match := re.search(pattern, line))
    ]
    assert not places, "\n".join(places)


def test_large_files_are_the_weights_only(repository, repository_files):
    large = [
        f"{name}: {size} bytes"
        for file in repository_files
        if (size := file.stat().st_size) > LARGEST_FILE
        and not (name := file.relative_to(repository).as_posix()).startswith(LARGE_ALLOWED)
    ]
    assert not large, f"over {LARGEST_FILE} bytes:\n" + "\n".join(large)


def test_the_weights_that_ship_are_not_ignored(repository):
    ignored = (repository / ".gitignore").read_text(encoding="utf-8")
    assert "safetensors" not in ignored


def test_text_files_end_with_one_newline(repository, repository_files):
    ragged = [
        str(file.relative_to(repository))
        for file in repository_files
        if (text := text_of(file)) and (not text.endswith("\n") or text.endswith("\n\n"))
    ]
    assert not ragged, "\n".join(ragged)
