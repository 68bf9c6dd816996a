"""Is this machine ready? One check per thing a run needs, each with what to do about it."""

import hashlib
import platform
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import av
import imageio_ffmpeg
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from actors.streaming.machine_kernels import machine_store, stored_kernels
from infra.config import RunConfig
from infra.kernel_store import KernelStore
from infra.machine import DISTRIBUTION, GIB, available_memory_gib, gpu_names, usable_cores
from infra.media.files import ffmpeg_path
from infra.media.versions import decoding_versions
from infra.storage.package_files import resolve_file
from omniforcing_model.errors import OmniForcingError
from omniforcing_model.kernels.choice import unmeasured
from omniforcing_model.weights.checkpoint_files import folder_digest

PYTHONS = SpecifierSet(">=3.11,<3.13")
LIBRARIES = ("torch", "ray", "deepspeed", "mlflow")
ENCODERS = ("libx264", "aac")
CORES_NEEDED = 2
MEMORY_NEEDED_GIB = 4.0
DISK_NEEDED_GIB = 2.0
# Ray refuses to write objects to a file system that is fuller than this.
DISK_SHARE_WHERE_RAY_STOPS = 0.95
DIGEST_CHARACTERS = 19

Status = Literal["ok", "warn", "fail"]


class Check(NamedTuple):
    """One line of the report; `advice` is empty where all is well."""

    name: str
    status: Status
    found: str
    advice: str = ""


def doctor(config: RunConfig, folder: Path) -> list[Check]:
    """Check Python, libraries, ffmpeg, machine, port and weights.

    Args:
        config: whose port and weights are looked at.
        folder: where runs will be written; its nearest existing parent is measured.
    """
    return [
        check_python(),
        *(check_library(name) for name in LIBRARIES),
        check_ffmpeg(),
        check_pyav(),
        check_cores(usable_cores()),
        check_memory(available_memory_gib()),
        check_disk(folder),
        check_gpu(),
        check_kernels(machine_store()),
        check_port(config.serve.host, config.serve.port),
        *(check_weights(name, uri) for name, uri in _weights(config).items()),
    ]


def check_python() -> Check:
    """The interpreter's version."""
    version = platform.python_version()
    if version in PYTHONS:
        return Check("python", "ok", version)
    return Check("python", "fail", version, f"make the virtual environment with Python {PYTHONS}")


def check_library(name: str) -> Check:
    """A library's version against what this package asks for."""
    requirement = _requirements().get(name)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", f"pip install '{requirement or name}'")
    if requirement is not None and not requirement.specifier.contains(version, prereleases=True):
        return Check(
            name,
            "warn",
            version,
            f"tested with {requirement.specifier}: pip install '{requirement}'",
        )
    return Check(name, "ok", version)


def _requirements() -> dict[str, Requirement]:
    try:
        texts = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}  # run from a checkout that is not installed: nothing to compare with
    needs = [Requirement(text) for text in texts]
    return {need.name: need for need in needs if need.marker is None or need.marker.evaluate()}


def check_ffmpeg() -> Check:
    """The ffmpeg that writes clips, its version and encoders; one on PATH is not used."""
    advice = "pip install --force-reinstall imageio-ffmpeg: its wheels bring one"
    try:
        path = str(ffmpeg_path())
        command = [path, "-hide_banner", "-encoders"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OmniForcingError, OSError, subprocess.SubprocessError) as error:
        return Check("ffmpeg", "fail", f"{type(error).__name__}: {error}", advice)
    words = listed.stdout.split()
    missing = [name for name in ENCODERS if name not in words]
    if missing:
        return Check("ffmpeg", "fail", f"{path} without {' and '.join(missing)}", advice)
    version = imageio_ffmpeg.get_ffmpeg_version()
    other = shutil.which("ffmpeg")
    unused = f"; {other} on PATH is not used" if other else ""
    return Check("ffmpeg", "ok", f"{version} with {', '.join(ENCODERS)}, writes clips{unused}")


def check_pyav() -> Check:
    """PyAV, which decodes clips and muxes streams: its versions, which every dataset records."""
    versions = decoding_versions()
    found = f"{versions['av']}, FFmpeg {versions['ffmpeg']}"
    missing = [name for name in ENCODERS if name not in av.codecs_available]
    if missing:
        advice = "pip install --force-reinstall av: its wheels bring both"
        return Check("pyav", "fail", f"{found} without {' and '.join(missing)}", advice)
    return Check("pyav", "ok", f"{found} with {', '.join(ENCODERS)}, decodes clips")


def check_cores(cores: int) -> Check:
    """Cores this process may use."""
    if cores >= CORES_NEEDED:
        return Check("cores", "ok", str(cores))
    return Check("cores", "warn", str(cores), f"streaming in real time wants {CORES_NEEDED}")


def check_memory(available_gib: float) -> Check:
    """Memory that is free to use."""
    state = f"{available_gib:.1f} GiB available"
    if available_gib >= MEMORY_NEEDED_GIB:
        return Check("memory", "ok", state)
    return Check("memory", "fail", state, f"a run needs {MEMORY_NEEDED_GIB:g} GiB: close something")


def check_disk(folder: Path) -> Check:
    """Space where runs are written, which is also where Ray may spill objects."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    return judge_disk(place, usage.free / GIB, 1 - usage.free / usage.total)


def judge_disk(place: Path, free_gib: float, used_share: float) -> Check:
    """Whether `free_gib` is enough, and whether Ray would still write."""
    state = f"{free_gib:.1f} GiB free at {place}"
    if free_gib < DISK_NEEDED_GIB:
        more = DISK_NEEDED_GIB - free_gib
        advice = f"a run needs {DISK_NEEDED_GIB:g} GiB: free {more:.1f} GiB, or use another --out"
        return Check("disk", "fail", state, advice)
    if used_share > DISK_SHARE_WHERE_RAY_STOPS:
        advice = f"Ray stops writing objects at {DISK_SHARE_WHERE_RAY_STOPS:.0%} full: free some"
        return Check("disk", "fail", f"{state}, {used_share:.0%} full", advice)
    return Check("disk", "ok", state)


def check_gpu() -> Check:
    """GPUs by name; a run without one works, and is small."""
    try:
        names = gpu_names()
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", "warn", f"nvidia-smi failed: {error}", "look at the driver")
    return Check("gpu", "ok", "; ".join(names) or "none: everything runs on the CPU")


def check_kernels(store: KernelStore) -> Check:
    """Which kernels streams have on this CPU, and whether that was measured."""
    values = store.latest()
    chosen = stored_kernels(values, store.folder)
    if chosen is None:
        found = f"not measured yet: {unmeasured().float32.name}"
        return Check("kernels", "ok", found, "omniforcing doctor --measure, or stream once")
    names = [f"{name}: {getattr(chosen, name).name}" for name in ("float32", "bfloat16")]
    found = names[0] if chosen.float32 == chosen.bfloat16 else "; ".join(names)
    said = (values or {}).get("said", "")
    return Check("kernels", "ok", found, "" if chosen.library else said)


def check_port(host: str, port: int) -> Check:
    """Whether `omniforcing serve` could listen there."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            # As servers do: a port that was closed a moment ago counts as free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        advice = "stop what listens there, or serve with --set serve.port=0 for a free one"
        return Check("port", "warn", f"{host}:{port} {error.strerror}", advice)
    return Check("port", "ok", f"{host}:{port} is free")


def _weights(config: RunConfig) -> dict[str, str]:
    models = {f"weights {name}": uri for name, uri in config.models.model_dump().items()}
    codecs = {"codec video": config.codec.video, "codec audio": config.codec.audio}
    return codecs | models


def check_weights(name: str, uri: str) -> Check:
    """Whether weights are where the configuration says, and their digest."""
    if uri.startswith("models:/"):
        return Check(name, "ok", f"{uri}: in the registry, not looked at")
    try:
        digest = _digest(resolve_file(uri))
    except OmniForcingError as error:
        return Check(name, "fail", str(error), "reinstall the package, or set another URI")
    return Check(name, "ok", f"{uri} {digest[:DIGEST_CHARACTERS]}")


def _digest(path: Path) -> str:
    if path.is_dir():
        return folder_digest(path)
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
