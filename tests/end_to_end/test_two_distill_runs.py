"""Two runs into one run folder: one trains, the other says who does; a dead one is replaced, and
whoever wakes up after that harms nothing."""

import signal
import time

import pytest

from infra.errors import OwnershipError
from tests.worlds.distill_runs import digest_in, run_here, signal_all, started
from tests.worlds.training import small_run, write_clips

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
STEPS = 12
SHORT_LEASE_S = 3
AT_ONCE_S = 10
# What a run has written at a moment.
MOMENTS = {
    "start": ".owner/000001.json",
    "mid-stage": "stages/teacher/curve.jsonl",
    "checkpoint": "stages/teacher/checkpoints/step_000002/manifest.json",
}
moments = pytest.mark.parametrize(
    "moment",
    [pytest.param(m, marks=() if m == "checkpoint" else pytest.mark.kills) for m in MOMENTS],
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(small_run(), tmp_path_factory.mktemp("distill") / "clips")


@pytest.fixture(scope="module")
def straight(ray_local, clips, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight") / "run"
    run_here(config_of(), clips, run)
    return digest_in(run)


def config_of(lease_s=180.0):
    return small_run(f"output.lease_s={lease_s}", steps=STEPS)


def started_until(moment, clips, run, lease_s=180.0):
    return started(config_of(lease_s), clips, run, (run / MOMENTS[moment]).exists)


@moments
def test_the_second_is_told_at_once_and_the_first_loses_nothing(clips, straight, tmp_path, moment):
    run = tmp_path / "run"
    with started_until(moment, clips, run) as (first, tag):
        signal_all(tag, signal.SIGSTOP)  # the moment lasts
        began = time.monotonic()
        with pytest.raises(
            OwnershipError, match=rf"got distill by .*\(process {first.pid}\) since"
        ):
            run_here(config_of(), clips, run)
        assert time.monotonic() - began < AT_ONCE_S
        signal_all(tag, signal.SIGCONT)
        _, errors = first.communicate(timeout=240)
        assert first.returncode == 0, errors[-3000:]
    assert digest_in(run) == straight
    assert not run_here(config_of(), clips, run).stages[0].made_now


@pytest.mark.kills
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_driver_is_replaced_at_once_and_its_workers_harm_nothing(
    clips, straight, tmp_path, moment
):
    run = tmp_path / "run"
    with started_until(moment, clips, run) as (first, _):
        first.kill()
        first.wait()
        run_here(config_of(), clips, run)  # while workers of the first one may still be there
        assert digest_in(run) == straight


@pytest.mark.kills
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_is_replaced_and_destroys_nothing_when_it_wakes_up(
    clips, straight, tmp_path, moment
):
    run = tmp_path / "run"
    with started_until(moment, clips, run, SHORT_LEASE_S) as (first, tag):
        signal_all(tag, signal.SIGSTOP)
        time.sleep(2 * SHORT_LEASE_S)
        run_here(config_of(), clips, run)
        before = kept(run)
        signal_all(tag, signal.SIGCONT)
        _, errors = first.communicate(timeout=240)
        assert first.returncode == 1
        assert "attempt 2 has taken it over: distill by" in errors
        assert kept(run) == before
        assert digest_in(run) == straight


def kept(run):
    """Checkpoints, curve and model, and when each was written."""
    files = [path for path in (run / "stages").rglob("*") if path.is_file()]
    return {(str(path), path.stat().st_mtime_ns) for path in files}
