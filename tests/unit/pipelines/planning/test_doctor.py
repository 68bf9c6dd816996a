"""What the doctor says about a machine that is ready, and about one that is not."""

import json
import socket
from pathlib import Path

import imageio_ffmpeg
import pytest

from infra.kernel_store import KernelStore
from infra.media.versions import decoding_versions
from pipelines.cli import main
from pipelines.planning.doctor import (
    DISK_NEEDED_GIB,
    check_cores,
    check_ffmpeg,
    check_kernels,
    check_library,
    check_memory,
    check_port,
    check_pyav,
    check_weights,
    judge_disk,
)


def test_this_machine_can_encode() -> None:
    assert check_ffmpeg().status == "ok"
    assert check_pyav().status == "ok"
    assert check_library("torch").status == "ok"


def test_the_versions_that_decode_and_write_clips_are_shown() -> None:
    versions = decoding_versions()
    assert check_pyav().found.startswith(f"{versions['av']}, FFmpeg {versions['ffmpeg']} with ")
    assert check_ffmpeg().found.startswith(imageio_ffmpeg.get_ffmpeg_version())


def test_an_ffmpeg_on_the_path_is_named_as_one_that_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "ffmpeg"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_ffmpeg().status == "ok"
    assert f"{other} on PATH is not used" in check_ffmpeg().found
    other.unlink()
    assert "not used" not in check_ffmpeg().found


def test_a_library_that_is_not_installed_fails_with_the_command_that_installs_it() -> None:
    check = check_library("no-such-library")
    assert (check.status, check.advice) == ("fail", "pip install 'no-such-library'")


def test_a_nearly_full_disk_fails_and_says_how_much_is_missing() -> None:
    check = judge_disk(Path("/data"), DISK_NEEDED_GIB - 0.5, 0.2)
    assert check.status == "fail"
    assert f"needs {DISK_NEEDED_GIB:g} GiB" in check.advice
    assert "free 0.5 GiB" in check.advice


def test_a_disk_on_which_ray_would_stop_fails_though_gigabytes_are_free() -> None:
    assert judge_disk(Path("/data"), 50.0, 0.97).status == "fail"
    assert judge_disk(Path("/data"), 50.0, 0.5).status == "ok"


def test_too_little_memory_fails_and_one_core_warns() -> None:
    assert check_memory(0.5).status == "fail"
    assert check_cores(1).status == "warn"


def test_a_port_in_use_warns_with_a_way_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        check = check_port("127.0.0.1", listener.getsockname()[1])
    assert check.status == "warn"
    assert "serve.port=0" in check.advice


def test_missing_weights_fail(tmp_path: Path) -> None:
    assert check_weights("weights", str(tmp_path / "nothing")).status == "fail"
    assert check_weights("weights", str(tmp_path)).status == "fail"


def test_one_failed_check_makes_the_command_fail_and_json_says_which(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nothing"
    status = main(
        ["doctor", "--json", "--out", str(tmp_path), "--set", f"models.teacher={missing}"]
    )
    report = json.loads(capfd.readouterr().out)
    assert status == 1
    assert report["ok"] is False
    failed = [check["name"] for check in report["checks"] if check["status"] == "fail"]
    assert "weights teacher" in failed


def test_kernels_that_were_not_measured_are_named_with_how_to(tmp_path: Path) -> None:
    check = check_kernels(KernelStore(tmp_path))
    assert check.found.startswith("not measured yet: attention ")
    assert "doctor --measure" in check.advice


def test_measured_kernels_are_named_and_why_there_is_no_library(tmp_path: Path) -> None:
    store = KernelStore(tmp_path)
    plain = {"attention": "sdpa", "linear": "plain", "regions": "plain"}
    values = {"float32": plain, "bfloat16": plain, "library": None, "source": None}
    store.propose(values | {"said": "expected a C++ compiler"})
    check = check_kernels(store)
    assert check.found == "float32: attention sdpa, linear plain, regions plain"
    assert check.advice == "expected a C++ compiler"
    store.propose(values | {"bfloat16": plain | {"linear": "packed"}})
    found = check_kernels(store).found
    assert found.endswith("; bfloat16: attention sdpa, linear packed, regions plain")
