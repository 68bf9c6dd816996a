"""When a measurement ends early."""

import time

from pipelines.benchmarks.machine.time_limit import TimeLimit


def test_without_a_limit_there_is_always_time() -> None:
    assert not TimeLimit(None).is_over(share=0.0)


def test_a_limit_is_over_once_its_seconds_or_a_share_of_them_are_gone() -> None:
    assert TimeLimit(0.0).is_over()
    limit = TimeLimit(3600.0)
    assert not limit.is_over()
    time.sleep(0.001)
    assert limit.is_over(share=1e-8)
