import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.caption_tables import (
    TABLES,
    find_caption_table,
    read_caption_table,
)

ROWS = [
    {"clip": "a.mp4", "caption": "a bird, singing"},
    {"clip": "below/b.mp4", "caption": 'waves, "loud"'},
]
CAPTIONS = {"a.mp4": "a bird, singing", "below/b.mp4": 'waves, "loud"'}
AUDIOCAPS = "audiocap_id,youtube_id,start_time,caption\n"


def read(folder, name, content, clips=()):
    """What a table with this content says."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_caption_table(ObjectStore(folder), name, clips)


def as_lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.jsonl", as_lines(ROWS)),
        ("captions.jsonl", "\ufeff\n" + as_lines(ROWS) + "\n\n"),
        ("captions.json", json.dumps(ROWS, indent=1)),
        ("captions.json", "[" + ",".join(map(json.dumps, ROWS)) + "]"),
        ("captions.csv", 'clip,caption\na.mp4,"a bird, singing"\nbelow/b.mp4,"waves, ""loud"""\n'),
        (
            "captions.csv",
            'caption,clip,more\r\n"a bird, singing",./a.mp4,1\r\n'
            '"waves, ""loud""",below/b.mp4,2\r\n',
        ),
    ],
)
def test_a_table_of_ours_is_read_from_any_format(tmp_path, name, content):
    assert read(tmp_path, name, content).captions == CAPTIONS


def test_a_table_of_ours_is_read_from_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "captions.parquet", row_group_size=1)
    table = read_caption_table(ObjectStore(tmp_path), "captions.parquet", ())
    assert table.captions == CAPTIONS


def test_a_line_separator_within_a_caption_ends_no_line(tmp_path):
    line = json.dumps({"clip": "a.mp4", "caption": "one\u2028two"}, ensure_ascii=False)
    assert read(tmp_path, "captions.jsonl", line).captions == {"a.mp4": "one\u2028two"}


@pytest.mark.parametrize("layout", [json.dumps, as_lines])
def test_open_sora_plan_gives_the_first_of_its_captions(tmp_path, layout):
    rows = [
        {"path": "part_1/x/a.mp4", "cap": ["first", "second"], "fps": 24, "num_frames": 100},
        {"path": "b.mp4", "cap": "text", "resolution": {"height": 720, "width": 1280}},
        {"path": "c.mp4", "cap": [], "duration": 4.2},
        {"path": "b.mp4", "cap": ["of another cut"], "cut": [0, 50]},
    ]
    table = read(tmp_path, "anno.json", layout(rows))
    assert table.captions == {"part_1/x/a.mp4": "first", "b.mp4": "text", "c.mp4": ""}


def test_audiocaps_names_clips_by_video_and_second(tmp_path):
    rows = [
        "1,vid_A-1,30,first of A",
        '2,vid_A-1,30,"second, of A"',
        "3,videoB,0,of B",
        "4,gone,10,of a clip that is gone",
        "5,both,20,of both",
    ]
    clips = ["train/vid_A-1_30.mkv", "videoB.mp4", "both.mp4", "x/both_20.mp4", "y/both_20.webm"]
    table = read(tmp_path, "train.csv", AUDIOCAPS + "\n".join(rows), clips)
    assert table.captions == {
        "train/vid_A-1_30.mkv": "first of A",
        "videoB.mp4": "of B",
        "gone_10.mp4": "of a clip that is gone",
        "x/both_20.mp4": "of both",
        "y/both_20.webm": "of both",
    }


def test_names_that_lead_out_of_the_folder_are_kept_apart(tmp_path):
    names = ["/data/a.mp4", "../a.mp4", "x/../../a.mp4", "https://host/a.mp4", "x/../b.mp4"]
    table = read(tmp_path, "anno.json", json.dumps([{"path": n, "cap": "c"} for n in names]))
    assert set(table.outside) == set(names[:4])
    assert set(table.captions) == {"b.mp4"}


@pytest.mark.parametrize(
    "line",
    [
        '{"clip": "a.mp4"}',
        '{"clip": "a.mp4", "capt',
        "[]",
        "3",
        '{"clip": 3, "caption": "x"}',
        '{"clip": "", "caption": "x"}',
        '{"clip": "a.mp4", "caption": null}',
        '{"clip": "a.mp4", "caption": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_a_malformed_line_is_named(tmp_path, line):
    expected = r'expected \{"clip": name, "caption": text\} in line 2 of captions\.jsonl in '
    with pytest.raises(DatasetError, match=expected):
        read(tmp_path, "captions.jsonl", '{"clip": "b.mp4", "caption": "x"}\n' + line)


def test_a_first_line_of_no_layout_is_shown_with_all_layouts(tmp_path):
    with pytest.raises(
        DatasetError, match=r"or \{\"path\": .* or audiocap_id,.* in line 1 of a\.json"
    ):
        read(tmp_path, "a.json", '{"video": "a.mp4", "text": "x"}')


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('[\n{"path": "a", "cap": "x"},\n{"path": "b"}\n]', 3),
        ('[\n{"path": "a", "cap": "x"}\n{"path": "b", "cap": "y"}]', 3),
        ('[\n{"path": "a", "cap": "x"},\n\n', 4),
        ('[\n{"path": "a",\n"cap": "x"},\n{"path": "b", "cap": [3]}]', 4),
    ],
)
def test_a_malformed_object_of_a_json_list_is_named(tmp_path, content, line):
    with pytest.raises(DatasetError, match=rf"in line {line} of anno\.json in .*correct the line"):
        read(tmp_path, "anno.json", content)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("name,text\na,b\n", 1),
        ("", 1),
        ("clip,caption\na.mp4,a bird, singing\n", 2),
        ('clip,caption\nb.mp4,"two\nlines"\na.mp4\n', 4),
        (AUDIOCAPS + "1,A,30\n", 2),
        (AUDIOCAPS + "1,,30,text\n", 2),
    ],
)
def test_a_malformed_line_of_a_csv_is_named(tmp_path, content, line):
    with pytest.raises(DatasetError, match=rf"in line {line} of captions\.csv in "):
        read(tmp_path, "captions.csv", content)


def test_a_row_of_a_parquet_file_without_a_caption_is_named(tmp_path):
    rows = [*ROWS, {"clip": "c.mp4", "caption": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    with pytest.raises(DatasetError, match=r"in row 3 of c\.parquet in .*; correct the row"):
        read_caption_table(ObjectStore(tmp_path), "c.parquet", ())


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("captions.jsonl", b"\xff\xfe", "UTF-8 text"),
        ("captions.csv", b"\xff\xfe", "UTF-8 text"),
        ("captions.csv", b'clip,caption\na,"open', "UTF-8 text"),
        ("captions.json", b"[\xff\xfe]", "UTF-8 text"),
        ("captions.parquet", b"PAR1 and then nothing", "a Parquet file"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content, kind):
    with pytest.raises(
        DatasetError, match=rf"expected {name} in .* as {kind}, got: .*; save it ag"
    ):
        read(tmp_path, name, content)


def test_two_different_captions_for_a_clip_are_refused(tmp_path):
    rows = [{"clip": "a.mp4", "caption": "one"}, {"clip": "./a.mp4", "caption": "two"}]
    with pytest.raises(DatasetError, match=r"got another for a\.mp4 in line 2"):
        read(tmp_path, "captions.jsonl", as_lines(rows))
    assert read(tmp_path, "same.jsonl", as_lines([rows[0], rows[0]])).captions == {"a.mp4": "one"}


def test_the_first_table_of_the_folder_is_found(tmp_path):
    store = ObjectStore(tmp_path)
    assert find_caption_table(store, None) is None
    for name in reversed(TABLES):
        (tmp_path / name).touch()
        table = find_caption_table(store, None)
        assert table is not None
        assert table[1] == name


def test_a_table_may_be_named_from_the_folder_or_from_where_we_are(tmp_path, monkeypatch):
    clips, here = tmp_path / "clips", tmp_path / "here"
    for folder in (clips / "meta", here):
        folder.mkdir(parents=True)
    (clips / "meta" / "a.json").touch()
    (here / "b.json").touch()
    monkeypatch.chdir(here)
    store = ObjectStore(clips)

    def place(captions):
        folder, name = find_caption_table(store, captions)
        return str((Path(folder.uri) / name).resolve())

    assert place("meta/a.json") == f"{clips}/meta/a.json"
    assert place("b.json") == place("../here/b.json") == f"{here}/b.json"
    assert place(f"{here}/b.json") == place(f"file://{here}/b.json") == f"{here}/b.json"
    with pytest.raises(DatasetError, match=rf"captions at {clips}/c\.json or {here}/c\.json, got"):
        place("c.json")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_malformed_line_is_shown_up_to_80_characters(tmp_path, name):
    line = json.dumps({"clip": "x" * 100})
    content = line if name == "a.jsonl" else f"[{line}]"
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, name, content)
    assert f", got {line[:80]!r}; correct the line" in str(caught.value)


def test_a_bracket_after_some_space_begins_a_list(tmp_path):
    assert read(tmp_path, "a.json", " " * 60 + json.dumps(ROWS)).captions == CAPTIONS
    with pytest.raises(DatasetError, match=r"in line 1 of a\.json"):
        read(tmp_path, "a.json", " " * 64 + json.dumps(ROWS))


@pytest.mark.parametrize(
    ("name", "outside"),
    [("..", True), ("../a.mp4", True), ("/a.mp4", True), ("s3://a.mp4", True), ("..a.mp4", False)],
)
def test_a_name_is_outside_if_it_leads_there(tmp_path, name, outside):
    table = read(tmp_path, "a.jsonl", as_lines([{"clip": name, "caption": "x"}]))
    assert (table.outside, table.captions) == (({name: "x"}, {}) if outside else ({}, {name: "x"}))


def test_clips_of_audiocaps_that_are_not_there_get_a_name_with_their_second(tmp_path):
    content = AUDIOCAPS + "1,A,30,a bird\n2,B,5,a dog\n3,B,5,another dog\n"
    table = read(tmp_path, "a.csv", content, ("x/B.mov", "y/B.mp4", "C.mp4"))
    assert table.captions == {"A_30.mp4": "a bird", "x/B.mov": "a dog", "y/B.mp4": "a dog"}


def test_lines_of_objects_over_several_lines_are_counted(tmp_path):
    content = '\n[\n{"clip": "a",\n "caption": "x"}\n,\n\n{"clip": "b"}]'
    with pytest.raises(DatasetError, match=r"in line 7 of a\.json"):
        read(tmp_path, "a.json", content)
