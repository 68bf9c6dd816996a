"""What we borrow from inside Ray is still there, or this test says what is not."""

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest
from ray._private import ray_constants, services, utils

from infra import ray_internals


def test_the_installed_ray_still_has_what_we_borrow() -> None:
    names = ray_internals.missing_internals()
    assert not names, (
        f"the installed Ray has no longer: {'; '.join(names)}. Local clusters would listen on every"
        " interface or leave processes behind: find its new name in infra/ray_internals.py, or"
        " stay with the Ray before it"
    )


def test_what_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray_constants, "ENABLE_RAY_CLUSTER")
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTERS_ENV_VAR", "RAY_ANOTHER")
    monkeypatch.setattr(ray_internals, "INIT_OPTIONS", ("_temp_dir", "_folder"))
    monkeypatch.delattr(ray_internals._raylet, "CoreWorker")
    monkeypatch.delattr(ray_internals.ray_worker, "print_to_stdstream")
    monkeypatch.delattr(services, "ConsolePopen")
    monkeypatch.delattr(utils, "set_sigterm_handler")
    assert ray_internals.missing_internals() == [
        "option _folder of ray.init",
        "ray._private.ray_constants.ENABLE_RAY_CLUSTER",
        "ray._private.worker.print_to_stdstream",
        "ray._raylet.CoreWorker",
        "ray._private.services.ConsolePopen",
        "ray._private.utils.set_sigterm_handler",
        "the variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    ]


def test_ray_takes_the_loopback_interface_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with pytest.raises(KeyError), ray_internals.bind_to_loopback():
        assert ray_constants.ENABLE_RAY_CLUSTER is False
        raise KeyError
    assert ray_constants.ENABLE_RAY_CLUSTER is True


def test_what_ray_tells_of_its_workers_is_in_the_log_and_not_on_the_terminal(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "infra.ray_internals")
    with ray_internals.tales_in_log():
        tell = ray_internals.ray_worker.print_to_stdstream
        tell({"lines": ["A worker died."], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert caplog.messages == ["Ray: A worker died."]
    assert capsys.readouterr() == ("", "")
    assert ray_internals.ray_worker.print_to_stdstream is not tell


def test_a_handler_of_sigterm_outlives_what_ray_sets_up() -> None:
    def own(*_: object) -> None: ...

    previous = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(KeyError), ray_internals.own_signal_handlers():
            utils.set_sigterm_handler(lambda *_: None)
            assert signal.getsignal(signal.SIGTERM) is own
            raise KeyError
        assert signal.getsignal(signal.SIGTERM) is own
        utils.set_sigterm_handler(signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.ray
def test_daemons_are_in_no_group_of_this_program(ray_local) -> None:
    daemons = [
        child
        for child in psutil.Process().children()
        if any(name in " ".join(child.cmdline()) for name in ("raylet", "gcs_server"))
    ]
    assert len(daemons) >= 2
    assert os.getpgrp() not in [os.getpgid(daemon.pid) for daemon in daemons]


@pytest.mark.ray
def test_workers_get_the_share_of_a_core_that_this_program_has(ray_local) -> None:
    @ray_local.remote
    def niceness() -> int:
        return os.nice(0)

    assert ray_local.get(niceness.remote()) == os.nice(0)


@pytest.mark.parametrize("raises", [False, True])
def test_one_line_is_left_out_of_standard_error_and_the_rest_comes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], raises: bool
) -> None:
    with contextlib.suppress(KeyError), ray_internals.without_line(b"level", tmp_path / "kept"):
        os.write(2, b"one\nof a level\ntwo")
        assert capfd.readouterr().err == ""
        if raises:
            raise KeyError
    os.write(2, b" and more\n")
    assert capfd.readouterr().err == "one\ntwo and more\n"
    assert not list(tmp_path.iterdir())
