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
        '{"clip": "a.mp4", "capt',
        "[]",
        "3",
        "null",
        '{"clip": 3, "caption": "x"}',
        '{"clip": "", "caption": "x"}',
        '{"clip": " ", "caption": "x"}',
        '{"clip": null, "caption": "x"}',
        '{"clip": "\\ud800.mp4", "caption": "x"}',
        '{"path": "a.mp4", "cap": "x"}',
        "[" * 100_000,
        "9" * 5_000,
    ],
)
def test_a_malformed_line_is_named_and_the_others_are_read(tmp_path, line):
    lines = ['{"clip": "b.mp4", "caption": "x"}', line, '{"clip": "c.mp4", "caption": "y"}']
    table = read(tmp_path, "captions.jsonl", "\n".join(lines))
    assert table.captions == {"b.mp4": "x", "c.mp4": "y"}
    (fault,) = table.faults
    assert (fault.place, fault.problem) == ("line 2", "malformed_line")
    assert fault.error == (
        'expected {"clip": name, "caption": text} in line 2 of captions.jsonl, got'
        f" {line[:80]!r}; correct the line"
    )


@pytest.mark.parametrize(
    ("fields", "got"),
    [
        ("", "null"),
        (', "caption": null', "null"),
        (', "caption": NaN', "null"),
        (', "caption": ""', "''"),
        (', "caption": "  "', "'  '"),
        (', "caption": "NaN"', "'NaN'"),
        (', "caption": 3', "'3'"),
        (', "caption": ["x"]', "\"['x']\""),
        (', "caption": "\\ud800"', "text that is not UTF-8"),
        (', "caption": "a\\u0000b"', "a control character (U+0000) at place 1"),
    ],
)
def test_what_is_no_caption_is_noted_of_its_clip(tmp_path, fields, got):
    first = '{"clip": "b.mp4", "caption": "x"}\n{"clip": "a.mp4"' + fields + "}"
    table = read(tmp_path, "captions.jsonl", first)
    assert table.captions == {"b.mp4": "x", "a.mp4": ""}
    assert table.notes == {"a.mp4": f"{got} in line 2 of captions.jsonl"}
    assert table.faults == []
    again = read(tmp_path, "captions.jsonl", first + '\n{"clip": "a.mp4", "caption": "y"}')
    assert (again.captions["a.mp4"], again.notes, again.faults) == ("y", {}, [])


def test_the_first_line_may_be_malformed_and_still_the_layout_is_known(tmp_path):
    table = read(tmp_path, "a.jsonl", '{"clip": "a.mp4"}\nnull\n{"clip": "b.mp4", "caption": "x"}')
    assert table.captions == {"a.mp4": "", "b.mp4": "x"}
    assert [fault.place for fault in table.faults] == ["line 2"]


def test_a_first_line_of_no_layout_is_shown_with_all_layouts(tmp_path):
    with pytest.raises(
        DatasetError, match=r"or \{\"path\": .* or audiocap_id,.* in line 1 of a\.json"
    ):
        read(tmp_path, "a.json", '{"video": "a.mp4", "text": "x"}')


@pytest.mark.parametrize(
    ("content", "line", "clips"),
    [
        ('[\n{"path": "a", "cap": "x"},\n{"cap": "b"}\n]', 3, {"a": "x"}),
        (
            '[\n\nnull, {"path": "a",\n"cap": "x"},\n{"path": "b", "cap": [3]}]',
            3,
            {"a": "x", "b": ""},
        ),
    ],
)
def test_a_malformed_object_of_a_json_list_is_named(tmp_path, content, line, clips):
    table = read(tmp_path, "anno.json", content)
    assert [fault.place for fault in table.faults] == [f"line {line}"]
    assert table.captions == clips


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('[\n{"path": "a", "cap": "x"}\n{"path": "b", "cap": "y"}]', 3),
        ('[\n{"path": "a", "cap": "x"},\n\n', 4),
        ("[\xff]", 1),
    ],
)
def test_a_json_list_that_breaks_off_is_refused_with_the_line(tmp_path, content, line):
    expected = rf"expected anno\.json in .* as JSON in UTF-8, got: .* in line {line}; save it again"
    with pytest.raises(DatasetError, match=expected):
        read(tmp_path, "anno.json", content.encode("latin-1"))


@pytest.mark.parametrize("content", ["name,text\na,b\n", "\n\n,\na,b\n"])
def test_a_csv_of_no_layout_is_refused(tmp_path, content):
    with pytest.raises(DatasetError, match=r"in its columns of captions\.csv in .*write the table"):
        read(tmp_path, "captions.csv", content)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("c.mp4,a bird, singing", None),
        (",", None),
        (",,", None),
        (" ,of no clip", None),
        ('c.mp4,"a quote" and more', None),
        ('c.mp4,"a quote that nobody closes', None),
        ("c.mp4", ""),
        ("c.mp4,", ""),
        ("c.mp4,nan", ""),
        ('c.mp4,"two\nlines, of text"', "two\nlines, of text"),
    ],
)
def test_a_line_of_a_csv_that_is_wrong_spoils_no_other(tmp_path, line, text):
    content = f'clip,caption\na.mp4,x\n\n{line}\nb.mp4,y\nd.mp4,"of ""z"""\n'
    table = read(tmp_path, "captions.csv", content)
    assert {name: table.captions[name] for name in ("a.mp4", "b.mp4", "d.mp4")} == {
        "a.mp4": "x",
        "b.mp4": "y",
        "d.mp4": 'of "z"',
    }
    assert table.captions.get("c.mp4") == text
    faults = [(fault.place, fault.problem) for fault in table.faults]
    assert faults == ([("line 4", "malformed_line")] if text is None else [])
    assert len(table.notes) == (text == "")


def test_a_quote_that_a_later_line_closes_by_chance_swallows_no_clip(tmp_path):
    content = 'clip,caption\na.mp4,"open\nb.mp4,of 5"\nc.mp4,x\n'
    table = read(tmp_path, "captions.csv", content)
    assert table.captions == {"c.mp4": "x", "b.mp4": 'of 5"'}
    assert [fault.place for fault in table.faults] == ["line 2"]


def test_many_quotes_that_nobody_closes_take_no_time(tmp_path):
    lines = [f'{number}.mp4,"open\n{number}.mov,x\n' for number in range(5000)]
    table = read(tmp_path, "captions.csv", "clip,caption\n" + "".join(lines))
    assert (len(table.faults), len(table.captions)) == (5000, 5000)


def test_the_lines_of_audiocaps_that_are_broken_are_rows(tmp_path):
    content = AUDIOCAPS + "1,A,30,of A\n,,,\n2,B,,of B\n3,C,40,\n,\n"
    table = read(tmp_path, "train.csv", content, ("A.mp4",))
    assert table.captions == {"A.mp4": "of A", "C_40.mp4": ""}
    assert [fault.place for fault in table.faults] == ["line 3", "line 4", "line 6"]


def test_seconds_that_pandas_made_fractions_are_whole_again(tmp_path):
    rows = [
        {"youtube_id": "A", "start_time": 30.0, "caption": "of A"},
        {"youtube_id": "B", "start_time": None, "caption": "of B"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    table = read_caption_table(ObjectStore(tmp_path), "c.parquet", ("A_30.mp4",))
    assert table.captions == {"A_30.mp4": "of A"}
    assert [fault.place for fault in table.faults] == ["row 2"]


def test_names_of_columns_may_have_space_around_them(tmp_path):
    assert read(tmp_path, "a.csv", "\ufeffclip , caption\na.mp4,x\n").captions == {"a.mp4": "x"}


def test_a_byte_of_another_encoding_spoils_its_line_alone(tmp_path):
    content = "clip,caption\na.mp4,caf\u00e9\n\u00e9.mp4,x\nb.mp4,y\n".encode("latin-1")
    table = read(tmp_path, "captions.csv", content)
    assert table.captions == {"a.mp4": "", "b.mp4": "y"}
    assert table.notes == {"a.mp4": "text that is not UTF-8 in line 2 of captions.csv"}
    (fault,) = table.faults
    assert fault.error.encode()
    lines = as_lines(ROWS).encode() + b'\n{"clip": "c.mp4", "caption": "\xe9"}'
    assert read(tmp_path, "captions.jsonl", lines).captions == CAPTIONS | {"c.mp4": ""}


def test_rows_of_a_parquet_file_that_are_wrong_spoil_no_other(tmp_path):
    strings = pa.array([b"x", None, b"\xe9", b"y"]).view(pa.string())
    table = pa.table({"clip": ["a.mp4", "b.mp4", "c.mp4", "d.mp4"], "caption": strings})
    pq.write_table(table, tmp_path / "c.parquet")
    read_table = read_caption_table(ObjectStore(tmp_path), "c.parquet", ())
    assert read_table.captions == {"a.mp4": "x", "b.mp4": "", "d.mp4": "y"}
    (fault,) = read_table.faults
    assert "in row 3 of c.parquet, got 'bytes that are not UTF-8'; correct the row" in fault.error


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("captions.jsonl", "clip".encode("utf-16"), "JSON in UTF-8, got: text in UTF-16"),
        ("captions.csv", "clip".encode("utf-16"), "CSV in UTF-8, got: text in UTF-16"),
        ("captions.csv", b'"clip,caption\na,x', "CSV in UTF-8, got: .* as names of columns"),
        ("captions.csv", b"", "CSV in UTF-8, got: an empty file"),
        ("captions.parquet", b"PAR1 and then nothing", "a Parquet file, got: "),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content, kind):
    with pytest.raises(DatasetError, match=rf"expected {name} in .* as {kind}.*; save it ag"):
        read(tmp_path, name, content)


def test_another_caption_for_a_clip_is_a_fault_once_for_each_clip(tmp_path):
    captions = [("a.mp4", "one"), ("./a.mp4", "two"), ("b.mp4", "x"), ("a.mp4", "three")]
    rows = [{"clip": name, "caption": caption} for name, caption in captions]
    table = read(tmp_path, "captions.jsonl", as_lines(rows))
    assert table.captions == {"a.mp4": "one", "b.mp4": "x"}
    (fault,) = table.faults
    assert (fault.place, fault.problem) == ("line 2", "second_caption")
    assert "for a.mp4, got another in line 2 of captions.jsonl and 1 more; the first" in fault.error
    assert read(tmp_path, "same.jsonl", as_lines([rows[0], rows[0]])).faults == []


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
    rows = [{"clip": "a", "caption": "x"}, {"none": "x" * 100}]
    content = as_lines(rows) if name == "a.jsonl" else json.dumps(rows)
    (fault,) = read(tmp_path, name, content).faults
    assert f", got {json.dumps(rows[1])[:80]!r}; correct the line" in fault.error


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
    content = '\n[\n{"clip": "a",\n "caption": "x"}\n,\n\n{"caption": "b"}]'
    assert [fault.place for fault in read(tmp_path, "a.json", content).faults] == ["line 7"]
