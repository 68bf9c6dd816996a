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
        ("1.TXT", b"a dog", "a dog"),
        ("1.Json", b'{"text": "a dog"}', "a dog"),
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


@pytest.mark.parametrize("name", [".1.mp4", ".a/1.mp4", "a/.b/1.mp4", "._1.mp4"])
def test_hidden_names_are_left_out(tmp_path, name):
    assert clips_of(tmp_path, (name, b"x")) == []


def clips_of_members(folder, *members):
    """Of a tar of (name, type, link) without content, after a clip `real/1.mp4` and its text."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, content in (("real/1.mp4", b"12345"), ("real/1.txt", b"a dog"), ("blob", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
    return {clip.name: clip for clip in tar_clips(ObjectStore(folder), "a.tar", (".mp4", ".mov"))}


@pytest.mark.parametrize(
    ("name", "kind", "got"),
    [
        ("/1.mp4", tarfile.REGTYPE, "a name that leads out of the archive"),
        ("../1.mp4", tarfile.REGTYPE, "a name that leads out of the archive"),
        ("a/../../1.mp4", tarfile.REGTYPE, "a name that leads out of the archive"),
        ("pipe.mp4", tarfile.FIFOTYPE, "no file (a member of type b'6')"),
        ("new.mov", b"Z", "no file (a member of type b'Z')"),
        ("gone.mp4", tarfile.LNKTYPE, "a link to x.mp4, which is not there"),
        ("a/out.mp4", tarfile.SYMTYPE, "a link to ../x.mp4, which is not there"),
    ],
)
def test_a_member_that_is_called_as_a_clip_and_is_none_has_a_reason(tmp_path, name, kind, got):
    link = "x.mp4" if kind == tarfile.LNKTYPE else "../../x.mp4"
    clips = clips_of_members(tmp_path, (name, kind, link))
    (refused,) = (clip for clip in clips.values() if clip.name != "real/1.mp4")
    assert (refused.problem, refused.size) == ("unreadable_member", 0)
    assert got in refused.error


def test_a_link_in_a_tar_is_the_clip_that_it_leads_to(tmp_path):
    clips = clips_of_members(
        tmp_path,
        ("hard.mp4", tarfile.LNKTYPE, "real/1.mp4"),
        ("hard.txt", tarfile.LNKTYPE, "./real/1.txt"),
        ("x/soft.mp4", tarfile.SYMTYPE, "../real/1.mp4"),
        ("x/far.mp4", tarfile.SYMTYPE, "soft.mp4"),
        ("blob.mov", tarfile.SYMTYPE, "blob"),
        ("round.mp4", tarfile.SYMTYPE, "about.mp4"),
        ("about.mp4", tarfile.SYMTYPE, "round.mp4"),
    )
    real = clips["real/1.mp4"]
    for name in ("hard.mp4", "x/soft.mp4", "x/far.mp4"):
        assert (clips[name].offset, clips[name].size) == (real.offset, real.size)
        assert clips[name].problem == ""
    assert (clips["hard.mp4"].caption, clips["x/soft.mp4"].caption) == ("a dog", "")
    assert clips["blob.mov"].size == 1
    assert {clips[name].problem for name in ("round.mp4", "about.mp4")} == {"unreadable_member"}


def test_a_sparse_member_is_refused(tmp_path):
    clips_of(tmp_path, ("1.mp4", bytes(512)))
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("1.mp4")
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "10"}
        tar.addfile(member)
    (clip,) = tar_clips(ObjectStore(tmp_path), "a.tar", (".mp4",))
    assert "got a sparse file" in clip.error


def test_a_name_that_is_not_utf8_is_a_row_with_the_name_spelled_out(tmp_path):
    (clip,) = clips_of(tmp_path, ("d\udce9j.mp4", b"x"))
    assert (clip.name, clip.problem) == ("d\\xe9j.mp4", "unreadable_name")


def test_archives_and_other_formats_in_a_tar_are_told(tmp_path):
    clips = clips_of(tmp_path, ("1.mp4", b"x"), ("more.zip", b"x"), ("old.wmv", b"x"))
    assert {clip.name: clip.problem for clip in clips} == {
        "1.mp4": "",
        "more.zip": "unsupported_archive",
        "old.wmv": "unsupported_format",
    }


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
