"""How numbers and lists of names are written on a page."""

import pytest

from pipelines.reports.parts import duration, first_few, percent


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, ("0", "s")),
        (59.4, ("59", "s")),
        (59.6, ("1:00", "min")),
        (245, ("4:05", "min")),
        (3600, ("60:00", "min")),
    ],
)
def test_a_time_is_seconds_below_a_minute_and_minutes_from_there(seconds, written):
    assert duration(seconds) == written


def test_a_share_is_in_percent_and_a_share_of_nothing_is_none():
    assert percent(1, 8) == "12.5%"
    assert percent(0.9, 1, digits=0) == "90%"
    assert percent(0, 0) == "0.0%"


def test_of_many_names_the_first_are_written_and_the_rest_counted():
    assert first_few([], 2) == ""
    assert first_few(["a", "b"], 2) == "a, b"
    assert first_few(["a", "b", "c", "d"], 2) == "a, b and 2 more"
