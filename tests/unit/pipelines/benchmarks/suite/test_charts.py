"""Charts: every value has its shape, in its place."""

import pytest

from pipelines.benchmarks.suite.charts import (
    block_chart,
    first_second_chart,
    in_time,
    nice_ticks,
    roofline_chart,
    si,
)


def test_a_blocks_bar_is_as_high_as_its_parts_and_stands_on_the_axis() -> None:
    chart = block_chart({"model": [0.1, 0.2], "codecs": [0.1, 0.0]}, {"p50": 0.15})
    first_model, first_codecs, second_model, second_codecs = chart.boxes
    assert first_model.height == pytest.approx(first_codecs.height)
    assert second_model.height == pytest.approx(2 * first_model.height)
    assert second_codecs.height == pytest.approx(0)
    assert first_codecs.y + first_codecs.height == pytest.approx(first_model.y)
    assert first_model.y + first_model.height == pytest.approx(second_model.y + second_model.height)
    (level,) = (line for line in chart.lines if line.kind == "level")
    assert level.y1 == pytest.approx((first_model.y + first_codecs.y) / 2)


def test_many_blocks_have_few_numbers_below_them() -> None:
    chart = block_chart({"model": [0.1] * 600}, {})
    numbers = [words for words in chart.words if words.anchor == "middle"]
    assert len(numbers) <= 16
    assert len(chart.boxes) == 600


def test_parts_of_a_first_second_follow_each_other_on_one_scale() -> None:
    chart = first_second_chart({"cold": {"a": 1.0, "b": 2.0}, "warm": {"a": 0.5, "b": 0.5}})
    cold_a, cold_b, warm_a, warm_b = chart.boxes
    assert cold_a.x == warm_a.x
    assert cold_b.x == pytest.approx(cold_a.x + cold_a.width)
    assert cold_b.width == pytest.approx(2 * cold_a.width)
    assert warm_b.width == pytest.approx(cold_a.width / 2)
    assert cold_a.kind == warm_a.kind != cold_b.kind
    assert cold_a.y != warm_a.y


def test_a_part_that_took_no_time_takes_no_place() -> None:
    chart = first_second_chart({"warm": {"a": 1.0, "other": -1e-6}})
    assert chart.boxes[1].width == 0


def test_a_block_at_a_quarter_of_the_limit_is_below_the_roof() -> None:
    chart = roofline_chart({"here": (100.0, 250.0)}, peak=1000.0, bandwidth=100.0, ridge=10.0)
    (dot,) = chart.dots
    slope, flat = (line for line in chart.lines if line.kind == "roof")
    assert (slope.x2, slope.y2) == (flat.x1, flat.y1)
    assert flat.y1 == pytest.approx(flat.y2)
    assert flat.x1 < dot.x < flat.x2
    assert dot.y > flat.y1


@pytest.mark.parametrize("top", [0.003, 0.9, 1.0, 7.2, 1234.0])
def test_ticks_are_round_few_and_within(top: float) -> None:
    ticks = nice_ticks(top)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 6
    assert ticks[-1] <= top < ticks[-1] + ticks[1]


def test_an_axis_has_one_unit() -> None:
    assert [in_time(t, longest_s=2.0) for t in (0.0, 500.0, 2000.0)] == ["0 s", "0.5 s", "2 s"]
    assert [in_time(t, longest_s=1.9) for t in (0.0, 1500.0)] == ["0 ms", "1,500 ms"]


@pytest.mark.parametrize(
    ("value", "text"), [(5.0, "5 "), (1e3, "1 k"), (2.5e9, "2.5 G"), (1.825e14, "182 T")]
)
def test_large_numbers_have_a_letter(value: float, text: str) -> None:
    assert si(value) == text
