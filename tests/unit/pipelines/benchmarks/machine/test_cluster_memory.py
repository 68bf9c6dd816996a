"""The peak of memory: of the driver, and of it with all that it has started."""

import subprocess
import sys

from pipelines.benchmarks.machine.cluster_memory import peak_memory

HOLD = "block = bytearray(b'x' * (128 << 20)); print('held', flush=True); input()"


def test_the_peak_counts_what_the_driver_has_started() -> None:
    pipe = subprocess.PIPE
    with peak_memory() as alone:
        pass
    with (
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe) as child,
        peak_memory() as peak,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        peak.sample()
        child.kill()
    assert 1 < alone.value.driver_mb <= alone.value.all_mb
    assert peak.value.all_mb - peak.value.driver_mb > 64
