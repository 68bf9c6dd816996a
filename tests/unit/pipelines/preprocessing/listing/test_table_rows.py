"""Rows of a table, whatever some of them look like."""

import pytest

from infra.storage.object_store import ObjectStore
from pipelines.preprocessing.listing.table_rows import LONGEST_ROW_LINES, shown, table_rows


def rows_of(folder, name, content):
    (folder / name).write_text(content)
    return list(table_rows(ObjectStore(folder), name, ()).rows)


def test_rows_of_a_csv_have_the_line_they_begin_in(tmp_path):
    rows = rows_of(tmp_path, "a.csv", 'n,m\n"1\n2",x\n\n  \n,\n3\n4,y,z\n')
    assert [(row.place, row.fields) for row in rows] == [
        ("line 2", {"n": "1\n2", "m": "x"}),
        ("line 6", {"n": "", "m": ""}),
        ("line 7", {"n": "3", "m": None}),
        ("line 8", None),
    ]


@pytest.mark.parametrize(("lines", "whole"), [(LONGEST_ROW_LINES, True), (101, False)])
def test_a_row_of_a_csv_has_a_hundred_lines_at_most(tmp_path, lines, whole):
    rows = rows_of(tmp_path, "a.csv", 'n,m\n"' + "\n".join("x" * lines) + '",y\n')
    assert (len(rows) == 1) == whole
    assert (rows[0].fields is not None) == whole


def test_a_row_is_shown_on_one_line():
    assert shown("a\n" + "x" * 100) == "'a\\n" + "x" * 78 + "'"


def test_a_table_is_read_by_its_suffix_in_any_case(tmp_path):
    assert rows_of(tmp_path, "A.CSV", "n\n1\n")[0].fields == {"n": "1"}
