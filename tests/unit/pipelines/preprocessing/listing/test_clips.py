import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.clips import list_clips
from tests.worlds.beacon_clips import write_captions
from tests.worlds.s3_server import credentials, make_bucket, s3_server


def listed(folder, captions=None):
    return list(list_clips(ObjectStore(folder), captions))


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def pack(path, members):
    """A tar of (name, content) pairs, written in this order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_clips_are_found_at_any_depth_with_captions_from_either_place(tmp_path):
    touch(tmp_path, "b.MP4", "below/a.webm", "notes.pdf", "c.mov")
    write_captions(tmp_path, {"./below/a.webm": "waves"})
    (tmp_path / "b.txt").write_text("  a bird\n sings ")
    (tmp_path / "c.txt").write_text("")
    clips_listed = [(clip.clip_uri, clip.caption_raw, clip.problem) for clip in listed(tmp_path)]
    assert clips_listed == [
        ("b.MP4", "a bird sings", ""),
        ("below/a.webm", "waves", ""),
        ("c.mov", "", "no_caption"),
    ]


def test_a_row_says_how_large_a_clip_is_and_when_it_changed(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"four")
    os.utime(tmp_path / "a.mp4", ns=(0, 1_234_567_890))
    (clip,) = listed(tmp_path)
    assert (clip.clip_bytes, clip.clip_modified_ns, clip.archive_offset) == (4, 1_234_567_890, -1)


def test_clips_of_one_name_in_different_folders_stay_apart(tmp_path):
    touch(tmp_path, "one/a.mp4", "two/a.mp4", "a.mp4")
    (tmp_path / "one" / "a.txt").write_text("first")
    (tmp_path / "two" / "a.txt").write_text("second")
    write_captions(tmp_path, {"a.mp4": "top"})
    clips_listed = {clip.clip_uri: clip.caption_raw for clip in listed(tmp_path)}
    assert clips_listed == {"a.mp4": "top", "one/a.mp4": "first", "two/a.mp4": "second"}


def test_captions_jsonl_wins_over_a_text_file(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_text("beside")
    write_captions(tmp_path, {"a.mp4": "listed"})
    assert listed(tmp_path)[0].caption_raw == "listed"


def test_the_table_that_is_named_wins_over_one_in_the_folder(tmp_path):
    clips = tmp_path / "clips"
    touch(tmp_path, "clips/a.mp4")
    write_captions(clips, {"a.mp4": "in the folder"})
    (tmp_path / "other.csv").write_text("clip,caption\na.mp4,elsewhere\n")
    assert listed(clips, str(tmp_path / "other.csv"))[0].caption_raw == "elsewhere"
    assert listed(clips, f"file://{tmp_path}/other.csv")[0].caption_raw == "elsewhere"


def test_a_clip_without_a_caption_says_where_one_may_be(tmp_path):
    touch(tmp_path, "a.mp4")
    assert listed(tmp_path)[0].error == (
        "expected a caption for a.mp4, got none; add a line to captions.jsonl, or a.txt"
    )


def test_a_caption_for_a_clip_that_is_not_there_is_a_row_too(tmp_path):
    touch(tmp_path, "a.mp4")
    write_captions(tmp_path, {"a.mp4": "here", "z.mp4": "gone", "0.mp4": "gone, too"})
    clips_listed = [(clip.clip_uri, clip.problem) for clip in listed(tmp_path)]
    assert clips_listed == [("0.mp4", "missing_file"), ("a.mp4", ""), ("z.mp4", "missing_file")]


def test_a_caption_for_a_file_that_is_no_clip_says_so_whether_it_is_there_or_not(tmp_path):
    touch(tmp_path, "a.mp4", "live.m3u8")
    write_captions(tmp_path, {"a.mp4": "here", "live.m3u8": "a playlist", "b.sdp": "a session"})
    clips_listed = {clip.clip_uri: clip for clip in listed(tmp_path)}
    assert [clips_listed[name].problem for name in ("live.m3u8", "b.sdp")] == ["not_a_clip"] * 2
    assert clips_listed["live.m3u8"].error == (
        "expected a clip (.mp4 .m4v .mov .mkv .webm .avi .ts) in captions.jsonl, got live.m3u8;"
        " correct the line"
    )


@pytest.mark.parametrize(
    "name", ["../secret.mp4", "/etc/secret.mp4", "s3://other/secret.mp4", "a/../../secret.mp4"]
)
def test_a_caption_for_a_clip_outside_the_folder_is_a_row_that_is_not_opened(tmp_path, name):
    clips = tmp_path / "clips"
    touch(tmp_path, "clips/a.mp4", "secret.mp4")
    write_captions(clips, {"a.mp4": "here", name: "not ours"})
    clips_listed = {clip.clip_uri: clip for clip in listed(clips)}
    assert clips_listed[name].problem == "outside_folder"
    assert (clips_listed[name].clip_bytes, clips_listed["a.mp4"].problem) == (0, "")
    assert clips_listed[name].error == (
        f"expected a name below the folder in captions.jsonl, got {name}; copy the clip there"
    )


def test_a_detour_that_stays_in_the_folder_is_no_way_out(tmp_path):
    touch(tmp_path, "a.mp4")
    write_captions(tmp_path, {"below/../a.mp4": "here"})
    assert [(clip.clip_uri, clip.problem) for clip in listed(tmp_path)] == [("a.mp4", "")]


def test_a_caption_that_is_not_text_is_a_problem_of_its_clip_alone(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.txt").write_text("a bird")
    assert [clip.problem for clip in listed(tmp_path)] == ["unreadable_caption", ""]


def test_a_text_beside_a_clip_that_is_no_caption_is_not_read(tmp_path):
    touch(tmp_path, "a.mp4")
    with (tmp_path / "a.txt").open("wb") as text:
        text.truncate(1 << 33)
    (clip,) = listed(tmp_path)
    assert (clip.problem, clip.caption_raw) == ("unreadable_caption", "")


def test_a_name_that_is_not_utf8_is_a_problem_of_its_clip_alone(tmp_path):
    touch(tmp_path, "b.mp4")
    (tmp_path / "b.txt").write_text("a bird")
    (tmp_path / os.fsdecode(b"a\xff.mp4")).touch()
    (tmp_path / os.fsdecode(b"z\xff.tar")).touch()
    clips_listed = [(clip.clip_uri, clip.problem) for clip in listed(tmp_path)]
    assert clips_listed == [
        ("a\\xff.mp4", "unreadable_name"),
        ("b.mp4", ""),
        ("z\\xff.tar", "unreadable_name"),
    ]


def test_members_of_a_tar_are_clips_with_their_bytes_and_captions(tmp_path):
    members = [
        ("./0001.json", json.dumps({"caption": "one", "fps": 24}).encode()),
        ("./0001.mp4", b"first clip"),
        ("0002.mp4", b"second"),
        ("0002.txt", b" two \n"),
        ("deep/0003.webm", b"third"),
        ("deep/0003.json", b'{"text": "three"}'),
        ("0004.part.mp4", b"fourth"),
        ("0004.txt", "vier Vögel".encode()),
        ("0005.mp4", b""),
        ("notes.txt", b"not a caption"),
    ]
    packed = pack(tmp_path / "pack.tar", members)
    os.utime(packed, ns=(0, 7_000))
    clips_listed = listed(tmp_path)
    assert [(clip.clip_uri, clip.caption_raw, clip.problem) for clip in clips_listed] == [
        ("pack.tar/0001.mp4", "one", ""),
        ("pack.tar/0002.mp4", "two", ""),
        ("pack.tar/0004.part.mp4", "vier Vögel", ""),
        ("pack.tar/0005.mp4", "", "no_caption"),
        ("pack.tar/deep/0003.webm", "three", ""),
    ]
    content = packed.read_bytes()
    cut = [content[c.archive_offset : c.archive_offset + c.clip_bytes] for c in clips_listed]
    assert cut == [b"first clip", b"second", b"fourth", b"", b"third"]
    assert {clip.clip_modified_ns for clip in clips_listed} == {7_000}


def test_a_table_of_captions_speaks_of_members_of_tars_too(tmp_path):
    pack(tmp_path / "pack.tar", [("a.mp4", b"x"), ("a.txt", b"\xff"), ("b.mp4", b"y")])
    write_captions(tmp_path, {"pack.tar/a.mp4": "listed", "pack.tar/z.mp4": "gone"})
    clips_listed = [(clip.clip_uri, clip.caption_raw, clip.problem) for clip in listed(tmp_path)]
    assert clips_listed == [
        ("pack.tar/a.mp4", "listed", ""),
        ("pack.tar/b.mp4", "", "no_caption"),
        ("pack.tar/z.mp4", "gone", "missing_file"),
    ]


@pytest.mark.parametrize("content", [b"\xff", b"{", b"x" * ((1 << 20) + 1)])
def test_an_unreadable_caption_in_a_tar_is_a_problem_of_its_clip_alone(tmp_path, content):
    members = [("a.mp4", b"x"), ("a.json", content), ("b.mp4", b"y"), ("b.txt", b"fine")]
    pack(tmp_path / "pack.tar", members)
    assert [clip.problem for clip in listed(tmp_path)] == ["unreadable_caption", ""]


def test_links_ways_out_and_hidden_members_are_not_clips(tmp_path):
    with tarfile.open(tmp_path / "pack.tar", "w") as tar:
        for name in ("../out.mp4", "/abs.mp4", "a/../../b.mp4", ".hidden.mp4", "._0001.mp4"):
            tar.addfile(tarfile.TarInfo(name))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"kind{kind.decode()}.mp4")
            member.type, member.linkname = kind, "ok.mp4"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("ok.mp4"))
    assert [clip.clip_uri for clip in listed(tmp_path)] == ["pack.tar/ok.mp4"]


def _garbage(content):
    return os.urandom(4096)


def _damaged_in_the_middle(content):
    return content[:1024] + b"\x55" * 512 + content[1536:]


@pytest.mark.parametrize(
    "damage",
    [
        _garbage,
        _damaged_in_the_middle,
        lambda content: b"",
        lambda content: content[:1200],
        lambda content: content[:1000],
    ],
    ids=["garbage", "a damaged header", "empty", "half a header", "half a clip"],
)
def test_a_broken_tar_is_one_row(tmp_path, damage):
    touch(tmp_path, "a.mp4")
    packed = pack(tmp_path / "pack.tar", [("0.mp4", b"x" * 512), ("1.mp4", b"y" * 512)])
    packed.write_bytes(damage(packed.read_bytes()))
    rows = listed(tmp_path)
    assert [(clip.clip_uri, clip.problem) for clip in rows] == [
        ("a.mp4", "no_caption"),
        ("pack.tar", "unreadable_archive"),
    ]
    assert rows[1].error.startswith("expected pack.tar as a whole uncompressed tar, got: ")


def test_a_header_that_claims_to_be_gigabytes_long_is_not_read(tmp_path):
    huge = tarfile.TarInfo("././@LongLink")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "pack.tar").write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    (row,) = listed(tmp_path)
    assert row.problem == "unreadable_archive"
    assert "a header of 8589934592 bytes" in row.error


def bytes_read():
    """By this process, from files, since it started."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_the_media_of_a_tar_are_not_read(tmp_path):
    pack(tmp_path / "pack.tar", [(f"{n}.mp4", bytes(1 << 20)) for n in range(8)])
    before = bytes_read()
    assert len(listed(tmp_path)) == 8
    assert 512 * 8 < bytes_read() - before < 200_000


def test_the_last_of_two_members_of_one_name_is_the_clip(tmp_path):
    pack(tmp_path / "pack.tar", [("a.mp4", b"old"), ("a.mp4", b"newer"), ("a.txt", b"a bird")])
    assert [(clip.clip_uri, clip.clip_bytes) for clip in listed(tmp_path)] == [
        ("pack.tar/a.mp4", 5)
    ]


def test_many_clips_come_in_order_whole_and_once(tmp_path):
    names = [f"{number:05}.mp4" for number in range(9_000)]
    touch(tmp_path, *names)
    write_captions(tmp_path, {name: f"clip {name}" for name in names})
    clips_listed = [(clip.clip_uri, clip.caption_raw) for clip in listed(tmp_path)]
    assert clips_listed == [(name, f"clip {name}") for name in names]


def test_an_empty_folder_and_a_missing_one_are_told_apart(tmp_path):
    with pytest.raises(DatasetError, match=r"expected clips \(\.mp4 .*, got none; give"):
        listed(tmp_path)
    with pytest.raises(DatasetError, match="got no such folder"):
        listed(tmp_path / "nowhere")


def test_a_folder_of_object_storage_is_listed_as_one_of_this_machine(tmp_path, monkeypatch):
    pack(tmp_path / "pack.tar", [("0001.mp4", b"x" * 100_000), ("0001.txt", b"one")])
    touch(tmp_path, "a.mp4", "below/b.mp4", "c.mp4")
    (tmp_path / "below" / "b.txt").write_text("beside")
    write_captions(tmp_path, {"c.mp4": "listed", "../d.mp4": "outside"})
    with s3_server() as endpoint:
        credentials(monkeypatch, endpoint)
        store = ObjectStore(f"{make_bucket(endpoint)}/train")
        for file in ObjectStore(tmp_path).walk():
            store.write(file.name, (tmp_path / file.name).read_bytes())
        stored = [clip._replace(clip_modified_ns=0) for clip in list_clips(store)]
        assert stored == [clip._replace(clip_modified_ns=0) for clip in listed(tmp_path)]
        member = next(clip for clip in stored if clip.clip_uri == "pack.tar/0001.mp4")
        with store.local_file(member.clip_uri, member.archive_offset, member.clip_bytes) as path:
            assert path.read_bytes() == b"x" * 100_000


@pytest.mark.parametrize(("longer", "problem"), [(0, ""), (1, "unreadable_caption")])
def test_a_text_beside_a_clip_has_a_mebibyte_at_most(tmp_path, longer, problem):
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_bytes(b"x" * ((1 << 20) + longer))
    (clip,) = listed(tmp_path)
    assert clip.problem == problem
    assert len(clip.caption_raw) == (0 if longer else 1 << 20)
    if longer:
        assert clip.error == "expected UTF-8 text in a.txt, got: 1048577 bytes"


def test_a_row_that_only_the_table_knows_has_no_size_and_no_place(tmp_path):
    touch(tmp_path, "a.mp4")
    write_captions(tmp_path, {"a.mp4": "here", "b": "gone", "../c.mp4": "outside"})
    rows = {clip.clip_uri: clip for clip in listed(tmp_path)}
    for name in ("b", "../c.mp4"):
        clip = rows[name]
        assert (clip.clip_bytes, clip.clip_modified_ns, clip.archive_offset) == (0, 0, -1)
    assert (rows["b"].problem, rows["b"].caption_raw) == ("missing_file", "gone")
    assert rows["b"].error == (
        "expected b beside captions.jsonl, got no such clip; correct the line or copy it"
    )
    assert rows["../c.mp4"].caption_raw == "outside"


def test_a_blank_caption_of_the_table_leaves_the_text_beside_the_clip(tmp_path):
    touch(tmp_path, "a.mp4", "b.MP4")
    write_captions(tmp_path, {"a.mp4": " ", "b.MP4": " from the table "})
    (tmp_path / "a.txt").write_text("beside")
    assert [(clip.clip_uri, clip.caption_raw) for clip in listed(tmp_path)] == [
        ("a.mp4", "beside"),
        ("b.MP4", "from the table"),
    ]
