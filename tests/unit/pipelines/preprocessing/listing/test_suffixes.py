"""What a file is, by its name."""

import pytest

from pipelines.preprocessing.listing.suffixes import MEDIA_SUFFIXES, suffix_of, unread, with_suffix


@pytest.mark.parametrize("name", [f"a{suffix}" for suffix in MEDIA_SUFFIXES])
def test_a_clip_is_no_file_that_is_left_unread(name):
    assert unread(name) is None
    assert unread(name.upper()) is None


@pytest.mark.parametrize("name", ["a.tar", "a.txt", "a.jpg", "zip", "a.zip/b", "noted.md"])
def test_what_is_no_matter_is_left_in_silence(name):
    assert unread(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.tar.gz", "unsupported_archive"),
        ("x/a.TAR.ZST", "unsupported_archive"),
        ("a.7z", "unsupported_archive"),
        ("a.mpeg", "unsupported_format"),
        ("a.3GP", "unsupported_format"),
    ],
)
def test_what_may_hold_clips_and_is_not_read_says_why(name, reason):
    problem = unread(name)
    assert problem is not None
    assert problem[0] == reason
    assert f"got {name}; " in problem[1]


def test_suffixes_are_the_last_ones():
    assert suffix_of("a.b/c.TAR.Gz") == ".gz"
    assert suffix_of("a.b/c") == ""
    assert with_suffix("a.b/c.d.MP4", ".txt") == "a.b/c.d.txt"
