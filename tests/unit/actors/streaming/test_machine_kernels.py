"""A start takes what was measured before, or waits for nothing and lets it be measured."""

import json
import logging

import pytest
import torch

from actors.streaming import machine_kernels
from actors.streaming.machine_kernels import (
    kernels_name,
    machine_store,
    measure_and_take_kernels,
    measure_kernels,
    stored_kernels,
    take_kernels,
)
from infra.kernel_store import KernelStore
from omniforcing_model.kernels.choice import kernels_in_use, unmeasured, use_kernels
from omniforcing_model.kernels.native.library import source_digest
from tests.worlds.native_library import compiled, native_kernels
from tests.worlds.waiting import wait_until

NATIVE = {"attention": "native", "linear": "packed", "regions": "native"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """This machine's, with nothing in it yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine_store.cache_clear()
    before = kernels_in_use()
    yield machine_store()
    machine_store().release()
    machine_store.cache_clear()
    use_kernels(before)


@pytest.fixture
def started(monkeypatch):
    """A word for each measurement that would be started."""
    measurements: list[str] = []
    monkeypatch.setattr(machine_kernels, "_start_measuring", lambda: measurements.append("one"))
    return measurements


def keep_native(store: KernelStore, **other: object) -> None:
    """Propose native kernels, with the library beside."""
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / "library.so").write_bytes(compiled().read_bytes())
    values = {"float32": NATIVE, "bfloat16": NATIVE, "library": "library.so"}
    store.propose(values | {"source": source_digest()} | other)


def test_a_first_start_takes_what_needs_no_compiler_and_lets_it_be_measured(store, started):
    assert take_kernels("measured") == unmeasured()
    assert started == ["one"]


def test_what_was_measured_is_taken_and_nothing_is_started(store, started):
    keep_native(store)
    kernels = take_kernels("measured")
    assert kernels.library == store.folder / "library.so"
    assert kernels_in_use() == kernels
    assert kernels_name(kernels, torch.bfloat16) == (
        "attention native, linear packed, regions native"
    )
    assert started == []


def test_plain_kernels_look_at_nothing(store, started):
    keep_native(store)
    assert take_kernels("plain") == unmeasured()
    assert started == []


def test_on_a_gpu_there_is_no_choice(store, started):
    assert take_kernels("measured", "cuda") is None
    assert kernels_name(None, torch.bfloat16) == "the GPU's"
    assert started == []


@pytest.mark.parametrize(
    "other",
    [{"source": "of another version"}, {"library": "gone.so"}, {"float32": {"new": "form"}}],
)
def test_what_this_version_cannot_take_is_measured_anew(store, started, other):
    keep_native(store, **other)
    assert take_kernels("measured") == unmeasured()
    assert len(started) == 1


def test_a_library_that_does_not_load_is_said_and_no_reason_not_to_stream(store, started, caplog):
    keep_native(store)
    (store.folder / "library.so").write_bytes(b"not ELF")
    with caplog.at_level(logging.WARNING):
        assert take_kernels("measured") == unmeasured()
    assert "library.so" in caplog.text


def test_a_folder_that_cannot_be_written_is_said_and_no_reason_not_to_stream(
    tmp_path, store, started, monkeypatch, caplog
):
    (tmp_path / "omniforcing").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert take_kernels("measured") == unmeasured()
    assert "omniforcing" in caplog.text


def test_a_measurement_keeps_a_library_and_a_choice_that_starts_take(store):
    said = measure_kernels(store)
    compiled()  # skips where there is no compiler
    assert said == "compiled for this processor"
    chosen = stored_kernels(store.latest(), store.folder)
    assert chosen is not None
    assert chosen.float32.linear in ("packed", "plain")
    assert take_kernels("measured") == chosen


def test_a_second_measurement_is_left_out_unless_it_is_asked_for(store, monkeypatch):
    monkeypatch.setattr(machine_kernels, "measured_kernels", lambda library: native_kernels())
    (store.folder).mkdir(parents=True)
    keep_native(store)
    assert measure_kernels(store) == "measured before"
    monkeypatch.setenv("PATH", "")
    assert "C++ compiler" in measure_kernels(store, anew=True)


def test_while_another_process_measures_nothing_is_done(store):
    with KernelStore(store.folder).measuring():
        assert measure_kernels(store) == "another process is measuring"
    assert store.latest() is None


def test_without_a_compiler_the_rest_is_measured_and_that_is_kept(store, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "C++ compiler" in measure_kernels(store)
    values = store.latest()
    assert "everything works" in values["said"]
    assert values["library"] is None
    assert take_kernels("measured").library is None


def test_a_benchmark_waits_for_what_was_not_measured_before(store, started):
    kernels = measure_and_take_kernels("measured")
    assert kernels == stored_kernels(store.latest(), store.folder)
    assert started == []


@pytest.mark.thorough
def test_a_first_start_leads_to_a_choice_without_anybody_waiting(store):
    take_kernels("measured")
    wait_until(lambda: store.latest() is not None, 100)
    assert stored_kernels(json.loads((store.folder / "proposal.json").read_text()), store.folder)
