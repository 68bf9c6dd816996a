import pytest

from infra.errors import DatasetError
from infra.object_store import ObjectStore
from pipelines.clip_listing import list_clips
from tests.beacon_clips import write_captions


def listed(folder):
    return list_clips(ObjectStore(folder))


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_clips_are_found_at_any_depth_with_captions_from_either_place(tmp_path):
    touch(tmp_path, "b.MP4", "below/a.webm", "notes.pdf", "c.mov")
    write_captions(tmp_path, {"./below/a.webm": "waves"})
    (tmp_path / "b.txt").write_text("  a bird\n sings ")
    (tmp_path / "c.txt").write_text("")
    found = [(clip.file.name, clip.caption, clip.problem) for clip in listed(tmp_path)]
    assert found == [
        ("b.MP4", "a bird sings", ""),
        ("below/a.webm", "waves", ""),
        ("c.mov", "", "no_caption"),
    ]


def test_captions_jsonl_wins_over_a_text_file(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_text("beside")
    write_captions(tmp_path, {"a.mp4": "listed"})
    assert listed(tmp_path)[0].caption == "listed"


def test_a_clip_without_a_caption_says_where_one_may_be(tmp_path):
    touch(tmp_path, "a.mp4")
    assert listed(tmp_path)[0].error == (
        "expected a caption for a.mp4, found none; add a line to captions.jsonl, or a.txt"
    )


def test_a_caption_for_a_clip_that_is_not_there_is_a_row_too(tmp_path):
    touch(tmp_path, "a.mp4")
    write_captions(tmp_path, {"a.mp4": "here", "z.mp4": "gone"})
    assert [clip.problem for clip in listed(tmp_path)] == ["", "missing_file"]


def test_a_caption_that_is_not_text_is_a_problem_of_its_clip_alone(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    assert listed(tmp_path)[0].problem == "unreadable_caption"


@pytest.mark.parametrize("line", ['{"clip": "a.mp4"}', '{"clip": "a.mp4", "capt', "[]", "3"])
def test_a_malformed_line_is_named(tmp_path, line):
    touch(tmp_path, "a.mp4")
    (tmp_path / "captions.jsonl").write_text('{"clip": "a.mp4", "caption": "x"}\n' + line)
    with pytest.raises(DatasetError, match=r"in line 2 of captions\.jsonl"):
        listed(tmp_path)


def test_two_different_captions_for_a_clip_are_refused(tmp_path):
    touch(tmp_path, "a.mp4")
    rows = ['{"clip": "a.mp4", "caption": "one"}', '{"clip": "./a.mp4", "caption": "two"}']
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    with pytest.raises(DatasetError, match=r"got another for a\.mp4 in line 2"):
        listed(tmp_path)


def test_an_empty_folder_and_a_missing_one_are_told_apart(tmp_path):
    with pytest.raises(DatasetError, match=r"expected clips \(\.mp4 .*, found none; give"):
        listed(tmp_path)
    with pytest.raises(DatasetError, match="there is no such folder"):
        listed(tmp_path / "nowhere")
