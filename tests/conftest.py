"""What every test gets: the same seed, a home of its own, no network, and Ray when asked for.

Nothing here imports torch or Ray before a test does: the quick tests stay quick.
"""

import ipaddress
import os
import random
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT.parent / "shared" / "media"
SEED = 0
# One thread each: processes with two of them on two cores wait for each other in their barriers.
THREADS = "1"


def pytest_configure(config):
    """Set the environment that this process and its children start with."""
    home = tempfile.TemporaryDirectory(prefix="omniforcing-home-")
    config.add_cleanup(home.cleanup)
    # Git's own settings stay: it refuses a repository of another owner unless they allow it.
    os.environ.setdefault("GIT_CONFIG_GLOBAL", str(Path.home() / ".gitconfig"))
    os.environ |= {
        "HOME": home.name,
        "XDG_CACHE_HOME": f"{home.name}/.cache",
        "MLFLOW_TRACKING_URI": f"sqlite:///{home.name}/mlflow.db",  # never one in this folder
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": THREADS,
        "RAY_AUTH_MODE": "disabled",  # Ray would write a token into the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # each line would come twice
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon a checkpoint counts as registered
    }
    fix_kernels()
    os.environ.pop("RAY_ADDRESS", None)  # never somebody's running cluster
    # A shell's background jobs ignore Ctrl-C, and hand that on to their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def fix_kernels():
    """Let all tests stream with the same kernels, whatever is fastest here: nothing is measured."""
    from infra.kernel_store import KernelStore, kernel_folder

    plain = {"attention": "products", "linear": "packed", "regions": "plain"}
    KernelStore(kernel_folder()).propose(
        {"float32": plain, "bfloat16": plain, "library": None, "source": None}
    )


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, alone or after others."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture(autouse=True, scope="session")
def offline():
    """Refuse connections to public addresses; loopback and this machine's own stay."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if isinstance(address, tuple) and _is_public(address[0]):
            raise OSError(f"tests use no network, got a connection to {address[0]}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


def _is_public(host):
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:  # a name that this machine has not resolved
        return host not in ("localhost", socket.gethostname())


@pytest.fixture(scope="session")
def ray_local():
    """Ray, connected to a cluster of this test run alone; it ends with the run."""
    import ray

    from infra.presets import load_preset
    from infra.ray_cluster import local_cluster

    with local_cluster(load_preset("tiny", ["cluster.address=null"]).cluster):
        yield ray


@pytest.fixture(scope="session")
def real_clips():
    """The real clips of ../shared/media; a test that asks for them is skipped without them."""
    clips = sorted(MEDIA.glob("*.mp4"))
    if not clips:
        pytest.skip("no real clips: put some into ../shared/media")
    return clips


@pytest.fixture(scope="session", params=["wheel", pytest.param("path", marks=pytest.mark.corpus)])
def maker(request):
    """The ffmpeg that makes a test's files: the wheel's and, in long suites, the one on PATH."""
    from tests.worlds.media.ffmpeg import ON_PATH, WHEEL, ffmpeg_called, files_made_by

    which = {"wheel": WHEEL, "path": ON_PATH}[request.param]
    if ffmpeg_called(which) is None:
        pytest.skip("no ffmpeg on PATH")
    with files_made_by(which):
        yield which
