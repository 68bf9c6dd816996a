"""Work in the cluster, and what its errors are in the driver."""

import os

import pytest
from ray.exceptions import (
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from infra.errors import ClusterError, MachineError, StoreError
from pipelines.ray_jobs.tasks import TableProcess, run_in_task, translated_ray_errors


def raise_store_error(text):
    raise StoreError(text)


def power(base, exponent):
    return base**exponent


def process_id():
    return os.getpid()


def raised_in_task(cause):
    return RayTaskError("work", "Traceback\n  of a task", cause)


def test_an_error_of_ours_comes_out_of_a_task_as_it_was():
    ours = StoreError("expected keys, got none")
    with pytest.raises(StoreError) as caught, translated_ray_errors():
        raise raised_in_task(ours)
    assert caught.value is ours


def test_an_error_of_ours_may_be_the_cause_of_another_or_come_through_two_tasks():
    ours = StoreError("expected keys, got none")
    outer = ValueError("while reading")
    outer.__cause__ = ours
    for error in (raised_in_task(outer), raised_in_task(raised_in_task(ours))):
        with pytest.raises(StoreError) as caught, translated_ray_errors():
            raise error
        assert caught.value is ours


def test_any_other_error_of_ray_is_its_last_line_with_what_to_do():
    error = WorkerCrashedError()
    with pytest.raises(ClusterError) as caught, translated_ray_errors():
        raise error
    last = " ".join(str(error).strip().splitlines()[-1:])
    assert str(caught.value) == (
        f"expected Ray to finish its work, got: {last}; correct the cause and run the same command"
        " again: what is finished is kept"
    )
    assert caught.value.__cause__ is error
    with pytest.raises(ClusterError, match="got: KeyError: 'x'; correct the cause"):  # noqa: SIM117
        with translated_ray_errors():
            raise RayTaskError("work", "Traceback\n  of a task\nKeyError: 'x'\n", KeyError("x"))


AGAIN = "then run the same command again: what is done stays done"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            raised_in_task(OSError(28, "No space left on device", "/d")),
            "expected room to write at /d",
        ),
        (
            raised_in_task(raised_in_task(MemoryError())),
            "expected enough memory and processes, got",
        ),
        (
            RayTaskError("w", "\nOSError: [Errno 24] Too many open files: 'a'", None),
            "expected one mo",
        ),
        (OutOfDiskError("Local disk is full\nmore"), "expected room on the disk for Ray, got: "),
        (ObjectStoreFullError("no room"), "expected shared memory for Ray, got: "),
        (OutOfMemoryError("Task was killed"), "expected memory for Ray, got: "),
    ],
)
def test_what_is_the_machine_s_fault_is_said_so_in_one_line(error, line):
    with pytest.raises(MachineError) as caught, translated_ray_errors():
        raise error
    assert str(caught.value).startswith(line)
    assert str(caught.value).endswith(AGAIN)
    assert "\n" not in str(caught.value)


def test_what_ray_data_appends_to_an_error_of_ours_is_left_out():
    ours = StoreError("expected keys, got none\nFailed to apply UDF transform after 1/1 attempts.")
    with pytest.raises(StoreError, match=r"^expected keys, got none$"), translated_ray_errors():
        raise raised_in_task(ours)


def test_errors_that_are_not_of_ray_pass():
    with pytest.raises(ZeroDivisionError), translated_ray_errors():
        raise ZeroDivisionError


@pytest.mark.ray
def test_work_in_a_task_and_in_the_table_process_returns_its_result(ray_local):
    assert run_in_task(power, 2, 5) == 32
    process = TableProcess()
    assert process.run(power, 3, 2) == 9
    pids = {process.run(process_id), process.run(process_id)}
    assert len(pids) == 1
    assert os.getpid() not in pids


@pytest.mark.ray
def test_an_error_of_ours_in_the_cluster_is_the_same_error_here(ray_local):
    process = TableProcess()
    for run in (run_in_task, process.run):
        with pytest.raises(StoreError, match=r"^expected keys, got none$"):
            run(raise_store_error, "expected keys, got none")
