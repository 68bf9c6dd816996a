"""What is fastest is found out by CPU time, whatever else the machine does."""

import time

import torch

from omniforcing_model.kernels.choice import kernels_in_use
from omniforcing_model.kernels.measure import fastest, measured_kernels
from tests.worlds.native_library import compiled


def busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_the_form_that_takes_the_least_cpu_time_is_fastest() -> None:
    # One that waits takes none.
    forms = {"slow": lambda: busy(0.004), "fast": lambda: busy(0.001)}
    assert fastest(forms) == "fast"
    forms["waits"] = lambda: time.sleep(0.005)
    assert fastest(forms) == "waits"


def test_without_a_library_nothing_native_is_chosen() -> None:
    kernels = measured_kernels(None)
    assert kernels.library is None
    assert not kernels.float32.is_native
    assert not kernels.bfloat16.is_native


def test_measuring_leaves_the_process_as_it_was_and_names_the_library_where_it_is_needed() -> None:
    before, threads = kernels_in_use(), torch.get_num_threads()
    kernels = measured_kernels(compiled())
    assert (kernels_in_use(), torch.get_num_threads()) == (before, threads)
    needed = kernels.float32.is_native or kernels.bfloat16.is_native
    assert kernels.library == (compiled() if needed else None)
