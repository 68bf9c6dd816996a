"""The kernels that a process streams with on this machine: taken at its start, measured beside it.

The first process on a machine streams with kernels that need no compiler, and lets another one, at
the lowest priority, compile and measure; what that finds holds from the next start on. Nobody
waits. How processes agree: infra/kernel_store.py.
"""

import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from infra.kernel_store import KernelStore, Values, kernel_folder
from omniforcing_model.errors import KernelError
from omniforcing_model.kernels.choice import (
    KernelChoice,
    MachineKernels,
    kernels_in_use,
    unmeasured,
    use_kernels,
)
from omniforcing_model.kernels.measure import measured_kernels
from omniforcing_model.kernels.native.library import Library, compile_library, source_digest

LOG = logging.getLogger(__name__)


@cache
def machine_store() -> KernelStore:
    """This machine's store; a process has one."""
    return KernelStore(kernel_folder())


def take_kernels(setting: str, device: str = "cpu") -> MachineKernels | None:
    """Let this process stream with kernels of a `student_kernels`; returns them.

    None where there is no choice of them: not on a CPU.
    """
    if device != "cpu":
        return None
    use_kernels((_measured() if setting == "measured" else None) or unmeasured())
    return kernels_in_use()


def measure_and_take_kernels(setting: str, device: str = "cpu") -> MachineKernels | None:
    """The same, for what measures streams: waits for what was not measured before."""
    store = machine_store()
    if (device, setting) == ("cpu", "measured"):
        with suppress(OSError):
            measure_kernels(store)
    return take_kernels(setting, device)


def kernels_name(kernels: MachineKernels | None, dtype: torch.dtype) -> str:
    """As streams and records name it."""
    return "the GPU's" if kernels is None else kernels.of(dtype).name


def _measured() -> MachineKernels | None:
    """What this machine's store holds for this process; if nothing, it is being looked for."""
    store = machine_store()
    try:
        chosen = stored_kernels(store.settle(), store.folder)
        if chosen is None:
            _start_measuring()
        elif chosen.library is not None:
            Library(chosen.library)
    except (OSError, KernelError) as error:
        LOG.warning("this process streams without the machine's own kernels: %s", error)
        return None
    return chosen


def stored_kernels(values: Values | None, folder: Path) -> MachineKernels | None:
    """What a store holds; None of nothing, and of what another version of the source has made."""
    if values is None or values.get("source") not in (None, source_digest()):
        return None
    try:
        float32, bfloat16 = (KernelChoice(**values[name]) for name in ("float32", "bfloat16"))
        library = values["library"] and folder / values["library"]
    except (KeyError, TypeError):
        return None
    if library is not None and not library.is_file():
        return None
    return MachineKernels(float32, bfloat16, library)


def measure_kernels(store: KernelStore, *, anew: bool = False) -> str:
    """Compile and measure, and propose what is fastest; returns what is to be said about it.

    Nothing is done if it was done before, unless `anew`, or while another process does it.
    """
    with store.measuring() as alone:
        if not alone:
            return "another process is measuring"
        if not anew and stored_kernels(store.latest(), store.folder) is not None:
            return "measured before"
        library, said = _compiled(store.folder)
        kernels = measured_kernels(library)
        store.propose(
            {
                "float32": asdict(kernels.float32),
                "bfloat16": asdict(kernels.bfloat16),
                "library": kernels.library and kernels.library.name,
                "source": source_digest(),
                "said": said,
            }
        )
        return said


def _compiled(folder: Path) -> tuple[Path | None, str]:
    library = folder / f"{source_digest()[:16]}.so"
    try:
        if not library.exists():
            compile_library(library)
    except KernelError as error:
        return None, str(error)
    return library, "compiled for this processor"


def _start_measuring() -> None:
    LOG.info("this processor's kernels are being measured, and are taken from the next start on")
    measuring = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    # It outlives a short command; a long one leaves no dead process behind.
    threading.Thread(target=measuring.wait, daemon=True, name="kernels measured").start()


if __name__ == "__main__":
    os.nice(19)
    measure_kernels(machine_store())
