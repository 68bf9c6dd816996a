"""What this machine is, and what is installed: facts for reports and checks."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "omniforcing-on-ray"
SHOWN_LIBRARIES = ("torch", "ray", "deepspeed", "mlflow", "av")
GIB = 2**30
GPU_TIMEOUT_S = 30


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def available_memory_gib() -> float:
    """Memory that could be taken now without swapping."""
    import psutil  # type: ignore[import-untyped]  # noqa: PLC0415  # every command imports this file

    return float(psutil.virtual_memory().available) / GIB


def gpu_names() -> list[str]:
    """One line per GPU; empty without any. Raises OSError or SubprocessError if asking fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=True
    )
    return answer.stdout.strip().splitlines()


def machine_facts() -> dict[str, str]:
    """CPU, cores, memory, GPUs and system, by name."""
    import psutil  # noqa: PLC0415  # as above

    try:
        gpus = "; ".join(gpu_names()) or "none"
    except (OSError, subprocess.SubprocessError):
        gpus = "not readable"
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": _cpu_model(),
        "cores": str(usable_cores()),
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "gpu": gpus,
    }


def version_facts() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries under it, by name."""
    versions = {"python": platform.python_version()}
    for name in (DISTRIBUTION, *SHOWN_LIBRARIES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def processor_facts() -> tuple[str, str]:
    """The processor's model, and what it can compute: processors of one kind have both alike."""
    return _cpu_model(), _of_cpu("flags") or platform.machine()


def _cpu_model() -> str:
    return _of_cpu("model name") or platform.processor() or "unknown"


def _of_cpu(field: str) -> str:
    """A field of the first processor; empty if the system does not tell."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return line.partition(":")[2].strip()
    return ""
