import io
import json
import os
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.dataset.reasons import Reason
from infra.errors import DatasetError, StoreError
from infra.storage.object_store import ObjectStore, confined_store
from pipelines.preprocessing.listing.clips import list_clips
from tests.worlds.beacon_clips import write_captions
from tests.worlds.s3_server import credentials, make_bucket, s3_server

NOBODY = 65534


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
        "expected a caption for a.mp4, got none; add a line to captions.jsonl, or add a.txt"
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


def test_links_are_clips_and_ways_out_have_a_reason_and_hidden_members_no_row(tmp_path):
    with tarfile.open(tmp_path / "pack.tar", "w") as tar:
        for name in ("../out.mp4", "/abs.mp4", "a/../../b.mp4", ".hidden.mp4", "._0001.mp4"):
            tar.addfile(tarfile.TarInfo(name))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"kind{kind.decode()}.mp4")
            member.type, member.linkname = kind, "ok.mp4"
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("ok.mp4"))
    problems = {clip.clip_uri: clip.problem for clip in listed(tmp_path)}
    assert problems == {
        "pack.tar/../b.mp4": "unreadable_member",
        "pack.tar/../out.mp4": "unreadable_member",
        "pack.tar//abs.mp4": "unreadable_member",
        "pack.tar/kind1.mp4": "no_caption",
        "pack.tar/kind2.mp4": "no_caption",
        "pack.tar/kind6.mp4": "unreadable_member",
        "pack.tar/ok.mp4": "no_caption",
    }


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
        store.write("captions.jsonl", b'{"clip": "s3://clips/train/c.mp4", "caption": "a URI"}')
        named = {clip.clip_uri: clip.caption_raw for clip in list_clips(store)}
        assert (named["c.mp4"], len(named)) == ("a URI", 4)
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


def test_lines_that_are_wrong_are_rows_and_the_others_count(tmp_path):
    touch(tmp_path, *(f"{name}.mp4" for name in "abcdef"))
    (tmp_path / "c.txt").write_text("beside")
    lines = [
        '{"clip": "a.mp4", "caption": "a bird"}',
        '{"clip": "b.mp4", "caption": null}',
        '{"clip": "c.mp4", "caption": NaN}',
        "{",
        '{"clip": "d.mp4", "caption": 3}',
        '{"clip": "e.mp4", "caption": "first"}',
        '{"clip": "e.mp4", "caption": "second"}',
        '{"clip": "e.mp4", "caption": "third"}',
        '{"clip": "f.mp4", "caption": " "}',
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    rows = {clip.clip_uri: clip for clip in listed(tmp_path)}
    assert {name: clip.caption_raw or clip.problem for name, clip in rows.items()} == {
        "a.mp4": "a bird",
        "b.mp4": "no_caption",
        "c.mp4": "beside",
        "captions.jsonl line 4": "malformed_line",
        "captions.jsonl line 7": "second_caption",
        "d.mp4": "no_caption",
        "e.mp4": "first",
        "f.mp4": "no_caption",
    }
    for name, got in {"b": "null in line 2", "d": "'3' in line 5", "f": "' ' in line 9"}.items():
        assert rows[f"{name}.mp4"].error == (
            f"expected a caption for {name}.mp4, got {got} of captions.jsonl; correct it, or add"
            f" {name}.txt"
        )
    assert rows["captions.jsonl line 7"].error == (
        "expected one caption for e.mp4, got another in line 7 of captions.jsonl and 1 more; the"
        " first counts, remove the others"
    )
    assert rows["captions.jsonl line 7"].problem == Reason.SECOND_CAPTION


def test_a_clip_in_the_folder_may_be_named_by_where_it_is(tmp_path):
    folder = tmp_path / "my clips"
    touch(tmp_path, "my clips/a.mp4", "my clips/b.mp4", "my clips/c.mp4", "other.mp4")
    (tmp_path / "way").symlink_to(folder)
    captions = {
        f"{folder}/a.mp4": "absolute",
        f"file://{tmp_path}/my%20clips/b.mp4": "a URI",
        f"{tmp_path}/way/c.mp4": "by a link",
        f"{tmp_path}/other.mp4": "outside",
    }
    write_captions(folder, captions)
    found = [(clip.clip_uri, clip.caption_raw, clip.problem) for clip in listed(folder)]
    assert found == [
        (f"{tmp_path}/other.mp4", "outside", "outside_folder"),
        ("a.mp4", "absolute", ""),
        ("b.mp4", "a URI", ""),
        ("c.mp4", "by a link", ""),
    ]
    # The folder, too, may be given by a link.
    assert [clip.caption_raw for clip in listed(tmp_path / "way")[1:]] == [
        "absolute",
        "a URI",
        "by a link",
    ]


def test_other_slashes_spaces_and_accents_mean_the_same_clip(tmp_path):
    (tmp_path / "sub").mkdir()
    touch(tmp_path, "sub/a.mp4", "b.mp4", "caf\u00e9.mp4", "real\\c.mp4")
    names = {"sub\\a.mp4": "1", " b.mp4 ": "2", "cafe\u0301.mp4": "3", "real\\c.mp4": "4"}
    write_captions(tmp_path, names)
    found = {clip.clip_uri: (clip.caption_raw, clip.problem) for clip in listed(tmp_path)}
    assert found == {
        "sub/a.mp4": ("1", ""),
        "b.mp4": ("2", ""),
        "caf\u00e9.mp4": ("3", ""),
        "real\\c.mp4": ("4", ""),
    }


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("dance.mp4", "Dance.MP4"),
        ("C:\\clips\\dance.mp4", "Dance.MP4"),
        ("clips/Dance.mov", "Dance.MP4"),
        ("my%20CLIP", "sub/my clip.webm"),
    ],
)
def test_a_name_that_is_almost_right_is_told_the_clip_it_is_like(tmp_path, name, like):
    touch(tmp_path, "Dance.MP4", "sub/my clip.webm", "other.mp4")
    write_captions(tmp_path, {name: "a dance"})
    row = next(clip for clip in listed(tmp_path) if clip.clip_uri == name)
    assert row.problem == "missing_file"
    assert row.error == (
        f"expected {name} beside captions.jsonl, got no such clip (there is {like}); correct the"
        " line or copy it"
    )


def test_a_name_outside_is_told_the_clip_it_is_like(tmp_path):
    touch(tmp_path, "a.mp4")
    write_captions(tmp_path, {"/data/clips/a.mp4": "elsewhere"})
    row = listed(tmp_path)[0]
    assert row.problem == "outside_folder"
    assert "expected a name below the folder (there is a.mp4 in it) in captions.jsonl" in row.error


def test_two_names_of_one_clip_are_two_captions(tmp_path):
    touch(tmp_path, "a/b.mp4")
    write_captions(tmp_path, {"a/b.mp4": "one", "a\\b.mp4": "two"})
    found = [(clip.clip_uri, clip.caption_raw, clip.problem) for clip in listed(tmp_path)]
    assert found == [
        ("a/b.mp4", "one", ""),
        ("captions.jsonl a\\b.mp4", "two", "second_caption"),
    ]


def test_linked_folders_are_rows_and_loops_end(tmp_path):
    clips, far = tmp_path / "clips", tmp_path / "far"
    touch(tmp_path, "clips/a.mp4", "far/b.mp4", "clips/real/c.mp4")
    (clips / "far").symlink_to(far)
    (clips / "again").symlink_to("real")
    (clips / "real" / "round").symlink_to(clips)
    (clips / ".hidden").symlink_to(far)
    rows = {clip.clip_uri: clip for clip in listed(clips)}
    assert {name: clip.problem for name, clip in rows.items()} == {
        "a.mp4": "no_caption",
        "again": "linked_folder",
        "far": "linked_folder",
        "real/c.mp4": "no_caption",
        "real/round": "linked_folder",
    }
    assert rows["far"].error == (
        f"expected a folder at far, got a link out of {clips} to {far}; mount or copy that folder"
        " there, or read it by itself"
    )
    assert rows["again"].error.endswith("whose files are listed there; remove the link")


@contextmanager
def another_user():
    """A folder that a user without rights owns, who this process is meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.geteuid()
        if before == 0:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(before)
            for path in Path(folder).rglob("*"):
                path.chmod(0o700)


def test_a_folder_that_may_not_be_read_is_a_row():
    with another_user() as folder:
        touch(folder, "a.mp4", "closed/b.mp4", "names/c.mp4")
        (folder / "closed").chmod(0)
        (folder / "names").chmod(0o400)
        rows = {clip.clip_uri: clip for clip in listed(folder)}
        assert {name: clip.problem for name, clip in rows.items()} == {
            "a.mp4": "no_caption",
            "closed": "unreadable_folder",
            "names/c.mp4": "no_caption",
        }
        assert rows["closed"].error == (
            f"expected a folder that we may read at {folder}/closed, got: Permission denied; look"
            " at its permissions and its mount"
        )
        folder.chmod(0)
        with pytest.raises(StoreError, match="expected a folder that we may read"):
            listed(folder)
        folder.chmod(0o700)


def test_a_pipe_is_not_waited_for(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    for name in ("a.txt", "pack.tar"):
        os.mkfifo(tmp_path / name)
    rows = list(list_clips(confined_store(tmp_path)))
    assert {clip.clip_uri: clip.problem for clip in rows} == {
        "a.mp4": "unreadable_caption",
        "b.mp4": "no_caption",
        "pack.tar": "unreadable_archive",
    }


@pytest.mark.parametrize(
    ("name", "problem", "advice"),
    [
        ("pack.tar.gz", "unsupported_archive", "unpack it"),
        ("pack.TGZ", "unsupported_archive", "unpack it"),
        ("more/pack.zip", "unsupported_archive", "unpack it"),
        ("a.mp4.zst", "unsupported_archive", "unpack it"),
        ("a.MPG", "unsupported_format", "convert it"),
        ("a.wmv", "unsupported_format", "convert it"),
    ],
)
def test_archives_and_formats_that_are_not_read_are_rows(tmp_path, name, problem, advice):
    touch(tmp_path, "a.mp4", name, "picture.jpg", "notes.pdf")
    rows = {clip.clip_uri: clip for clip in listed(tmp_path)}
    assert set(rows) == {"a.mp4", name}
    assert rows[name].problem == problem
    assert rows[name].error.endswith(f"got {name}; {advice}")


def test_a_text_beside_a_clip_may_have_its_suffix_in_any_case(tmp_path):
    touch(tmp_path, "A.MP4", "b.mp4", "c.mp4")
    for name, text in {"A.TXT": "one", "b.Txt": "other", "b.txt": "two", "C.txt": "three"}.items():
        (tmp_path / name).write_text(text)
    assert [(clip.clip_uri, clip.caption_raw) for clip in listed(tmp_path)] == [
        ("A.MP4", "one"),
        ("b.mp4", "two"),
        ("c.mp4", ""),
    ]
