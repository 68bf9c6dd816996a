"""One of two runs owns an output; the other is told, or comes after it; who was replaced stops."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.errors import OwnershipError
from infra.leases.fence import Fence, newest_attempt, owner_files, read_holder
from infra.leases.output_lease import hold_output
from infra.storage.object_store import ObjectStore
from tests.worlds.s3_server import credentials, make_bucket, s3_server

LEASE_S = 60.0
# S3 knows times to the second.
SHORT_S = 3.0
RACERS = 20
PROCESSES = 5
ROOT = Path(__file__).resolve().parents[4]
HOLD = (
    "import sys, time; from infra.leases.output_lease import hold_output\n"
    "with hold_output(sys.argv[1], 'distill', float(sys.argv[2])):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


@pytest.fixture(scope="module")
def server():
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def out(request, tmp_path, monkeypatch):
    """An output in a folder, and in a bucket of its own."""
    if request.param == "local":
        return str(tmp_path / "out")
    endpoint = request.getfixturevalue("server")
    credentials(monkeypatch, endpoint)
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-50:].strip("-")
    return f"{make_bucket(endpoint, name)}/datasets/one"


@pytest.fixture
def other_process(out):
    """Start another process that holds the output; it is ended with the test."""
    started = []

    def start(lease_s):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, out, str(lease_s)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def refused(out):
    with pytest.raises(OwnershipError) as error, hold_output(out, "preprocess", LEASE_S):
        pass
    return str(error.value)


def newest(out):
    return newest_attempt(ObjectStore(out)).number


def wait_until(condition, within_s=20):
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_run_that_is_refused_at_once_leaves_no_output(out):
    with pytest.raises(ValueError, match="refused"), hold_output(out, "preprocess", LEASE_S):
        raise ValueError("refused")
    assert not ObjectStore(out).exists()
    with pytest.raises(ValueError, match="later"), hold_output(out, "preprocess", LEASE_S) as lease:
        ObjectStore(out).write("part", b"of it")
        raise ValueError("later")
    assert owner_files(ObjectStore(out)).keys() == {lease.fence.attempt}


def test_a_second_run_is_told_who_holds_the_output_and_since_when(out, other_process):
    holder = other_process(LEASE_S)
    line = refused(out)
    assert "\n" not in line
    assert out in line
    assert f"distill by {os.environ.get('USER', '')}" in line
    assert f"(process {holder.pid}) since 20" in line
    assert "wait for it, stop it, or name another output" in line
    assert newest(out) == 1


def test_another_thread_of_the_same_process_is_another_run(out):
    with hold_output(out, "preprocess", LEASE_S), ThreadPoolExecutor(1) as pool:
        assert f"process {os.getpid()}" in pool.submit(refused, out).result()


def test_a_run_inside_of_a_run_uses_the_lease_of_the_outer_one(out):
    with hold_output(out, "demo", LEASE_S) as outer:
        with hold_output(f"{out}/", "distill", LEASE_S) as inner:
            assert inner is outer
        outer.check()
    assert newest(out) == 1


def test_numbers_of_attempts_grow_and_old_records_go(out):
    for number in (1, 2, 3):
        with hold_output(out, "preprocess", LEASE_S) as lease:
            assert lease.fence == Fence(ObjectStore(out).uri, number)
            assert list(owner_files(ObjectStore(out))) == [number]


def test_an_output_is_given_back_when_its_run_fails_or_is_interrupted(out):
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), hold_output(out, "preprocess", LEASE_S):
            ObjectStore(out).write("part", b"of it")
            raise error
        assert read_holder(ObjectStore(out), newest(out)).released


def test_who_was_killed_is_replaced_at_once(out, other_process):
    other_process(LEASE_S).kill()
    wait_until(lambda: takes_over(out))


def takes_over(out):
    try:
        with hold_output(out, "preprocess", LEASE_S) as lease:
            return lease.fence.attempt == 2
    except OwnershipError:
        return False


@pytest.mark.thorough
def test_who_is_stopped_is_replaced_after_its_lease_and_fenced_off(out, other_process):
    holder = other_process(SHORT_S)
    stale = Fence(ObjectStore(out).uri, 1)
    stale.check()
    holder.send_signal(signal.SIGSTOP)
    wait_until(lambda: takes_over(out))
    holder.send_signal(signal.SIGCONT)
    with pytest.raises(OwnershipError, match="attempt 2 has taken it over: preprocess by"):
        stale.check()
    time.sleep(SHORT_S)  # in which it would renew its record
    assert list(owner_files(ObjectStore(out))) == [2]


@pytest.mark.thorough
def test_a_lease_that_is_renewed_outlives_its_time(out, other_process):
    other_process(SHORT_S)
    time.sleep(1.5 * SHORT_S)
    assert "expected no other run" in refused(out)


def test_a_run_that_was_replaced_hears_of_it_without_asking(out):
    with hold_output(out, "preprocess", SHORT_S) as lease:
        lease.raise_if_lost()
        store = ObjectStore(out)
        record = read_holder(store, 1).model_copy(update={"attempt": 2, "work": "distill"})
        assert store.write_if_absent(".owner/000002.json", record.model_dump_json().encode())
        wait_until(lambda: lost(lease))
    assert not read_holder(store, 2).released


def lost(lease):
    try:
        lease.raise_if_lost()
    except OwnershipError as error:
        return "attempt 2 has taken it over: distill" in str(error)
    return False


def test_whose_records_were_removed_writes_nothing_more(out):
    with hold_output(out, "preprocess", LEASE_S) as lease:
        ObjectStore(out).delete_folder(".owner")
        ObjectStore(out).delete(".owner/000001.json")
        with pytest.raises(OwnershipError, match="got no trace of it"):
            lease.check()
    assert newest_attempt(ObjectStore(out)) is None


def test_a_broken_record_names_the_file_to_delete(out):
    ObjectStore(out).write(".owner/000007.json", b"{")
    assert f"delete {ObjectStore(out).uri}/.owner/000007.json" in refused(out)
    ObjectStore(out).delete(".owner/000007.json")
    with hold_output(out, "preprocess", LEASE_S) as lease:
        assert lease.fence.attempt == 1


@pytest.mark.thorough
def test_of_twenty_threads_one_owns_the_output(out):
    together = threading.Barrier(RACERS)
    everybody_has_tried = threading.Barrier(RACERS)

    def race(_):
        together.wait()
        try:
            with hold_output(out, "preprocess", LEASE_S):
                everybody_has_tried.wait()
                return True
        except OwnershipError:
            everybody_has_tried.wait()
            return False

    with ThreadPoolExecutor(RACERS) as pool:
        assert sum(pool.map(race, range(RACERS))) == 1


def _race(out, together, everybody_has_tried, winners):
    together.wait()
    try:
        with hold_output(out, "preprocess", LEASE_S):
            winners.put(os.getpid())
            everybody_has_tried.wait()
    except OwnershipError:
        everybody_has_tried.wait()


@pytest.mark.thorough
def test_of_several_processes_one_takes_over_from_a_killed_one(out, other_process):
    holder = other_process(LEASE_S)
    holder.kill()
    holder.wait()
    context = multiprocessing.get_context("spawn")
    together, everybody_has_tried = context.Barrier(PROCESSES), context.Barrier(PROCESSES)
    winners = context.Queue()
    racers = [
        context.Process(target=_race, args=(out, together, everybody_has_tried, winners))
        for _ in range(PROCESSES)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    assert winners.get(timeout=5) in {racer.pid for racer in racers}
    assert winners.empty()
    assert newest(out) == 2


def test_the_clocks_of_machines_do_not_matter(out, monkeypatch):
    with hold_output(out, "preprocess", LEASE_S), ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert re.search(r"heard of [0-3] s ago", pool.submit(refused, out).result())
