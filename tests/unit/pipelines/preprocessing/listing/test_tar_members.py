"""Clips and captions in a tar: by name, whole, and nothing but plain files below it."""

import io
import json
import tarfile

import pytest

from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.tar_members import (
    LONGEST_CAPTION_BYTES,
    parsed_caption,
    tar_clips,
    text_of_name,
)


def clips_of(folder, *members):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return tar_clips(ObjectStore(folder), "a.tar", (".mp4", ".mov"))


def caption_beside(folder, name, content):
    (clip,) = clips_of(folder, ("1.mp4", b"x"), (name, content))
    return clip.caption, clip.error


def test_a_clip_has_the_place_of_its_bytes(tmp_path):
    clips = clips_of(tmp_path, ("b.mov", b"12345"), ("a/1.MP4", b"123"), ("c.wav", b"1"))
    assert [clip.name for clip in clips] == ["a/1.MP4", "b.mov"]
    content = (tmp_path / "a.tar").read_bytes()
    cut = [content[clip.offset : clip.offset + clip.size] for clip in clips]
    assert cut == [b"123", b"12345"]


@pytest.mark.parametrize(
    ("name", "content", "caption"),
    [
        ("1.txt", b"\xef\xbb\xbfa  dog\nbarks ", "a dog barks"),
        ("1.TXT", b"a dog", ""),
        ("1.json", b'{"caption": " a  dog "}', "a dog"),
        ("1.json", b'{"text": "a dog"}', "a dog"),
        ("1.json", b'{"text": "other", "caption": "a dog"}', "a dog"),
        ("1.json", b'{"caption": 3, "text": "a dog"}', "a dog"),
        ("1.json", b'["a dog"]', ""),
        ("2.txt", b"a dog", ""),
    ],
)
def test_a_caption_is_the_text_or_one_of_two_fields_beside_the_clip(
    tmp_path, name, content, caption
):
    assert caption_beside(tmp_path, name, content) == (caption, "")


def test_a_name_with_dots_has_a_text_of_its_stem_or_of_its_beginning(tmp_path):
    texts = [("a.1.txt", b"whole"), ("b.txt", b"beginning"), ("c.1.txt", b""), ("c.txt", b"short")]
    clips = clips_of(tmp_path, *((f"{name}.1.mp4", b"x") for name in "abc"), *texts)
    assert [clip.caption for clip in clips] == ["whole", "beginning", "short"]


def test_a_text_wins_over_a_field_and_an_empty_one_does_not(tmp_path):
    field = ("1.json", json.dumps({"text": "field"}).encode())
    (clip,) = clips_of(tmp_path, ("1.mp4", b"x"), field, ("1.txt", b"text"))
    assert clip.caption == "text"
    (clip,) = clips_of(tmp_path, ("1.mp4", b"x"), field, ("1.txt", b" "))
    assert clip.caption == "field"


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("1.txt", b"\xff", "expected UTF-8 text in 1.txt: "),
        ("1.json", b"{", "expected JSON in 1.json: "),
    ],
)
def test_an_unreadable_caption_says_what_it_should_be(tmp_path, name, content, error):
    caption, message = caption_beside(tmp_path, name, content)
    assert caption == ""
    assert message.startswith(error)


def test_a_caption_has_a_mebibyte_at_most(tmp_path):
    assert LONGEST_CAPTION_BYTES == 1_048_576
    caption, error = caption_beside(tmp_path, "1.txt", b"x" * LONGEST_CAPTION_BYTES)
    assert (len(caption), error) == (LONGEST_CAPTION_BYTES, "")
    refused = caption_beside(tmp_path, "1.txt", b"x" * (LONGEST_CAPTION_BYTES + 1))
    assert refused == ("", "expected a caption in 1.txt, got 1048577 bytes")


@pytest.mark.parametrize("name", ["/1.mp4", "../1.mp4", "a/../../1.mp4", ".1.mp4", ".a/1.mp4"])
def test_names_that_lead_out_or_are_hidden_are_left_out(tmp_path, name):
    assert clips_of(tmp_path, (name, b"x")) == []


def test_a_name_with_detours_is_the_plain_one(tmp_path):
    (clip,) = clips_of(tmp_path, ("./a//b/../1.mp4", b"x"))
    assert clip.name == "a/1.mp4"


def test_a_cut_tar_is_named_with_a_reason(tmp_path):
    clips_of(tmp_path, ("1.mp4", b"x" * 2000), ("2.mp4", b"y"))
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[512 + 2048 : 512 + 2048 + 100] = b"z" * 100
    (tmp_path / "a.tar").write_bytes(content)
    expected = r"expected a\.tar as a whole uncompressed tar, got: a damaged header at byte 2560; c"
    with pytest.raises(DatasetError, match=expected):
        tar_clips(ObjectStore(tmp_path), "a.tar", (".mp4",))


def test_texts_are_one_line_and_names_have_what_is_not_utf8_spelled_out():
    assert parsed_caption(b" a\r\n\tb ") == "a b"
    assert text_of_name("d\udce9j\u00e0") == "d\\xe9j\u00e0"
