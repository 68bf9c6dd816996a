"""What is registered where: beside a PyTorch for GPUs, with Triton and without."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
# A PyTorch for CPUs has all that is asked of one for GPUs here.
PROGRAM = """
import importlib.util, json, logging, sys
import torch

built, found = json.loads(sys.argv[1])
torch.backends.cuda.is_built = lambda: built
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: find_spec(name) if found or name != "triton" else None
said = []
logging.getLogger("omniforcing_model").setLevel(logging.DEBUG)
logging.getLogger("omniforcing_model").addHandler(logging.Handler())
logging.Handler.emit = lambda handler, record: said.append([record.levelname, record.getMessage()])

from omniforcing_model.kernels import operators, regions

has = torch._C._dispatch_has_kernel_for_dispatch_key
kernels = [n for n in operators.OPERATORS if has(f"omniforcing::{n}", "CUDA")]
with torch.no_grad():
    regions.add_norm(torch.zeros(1, 2, 4), None, [None])
    regions.add_norm(torch.zeros(1, 2, 4), None, [None])
print(json.dumps({
    "devices": sorted(operators.DEVICES), "kernels": kernels, "said": said,
    "triton": "triton" in sys.modules, "all": list(operators.OPERATORS),
}))
"""


def started(built, found):
    """A process whose PyTorch is built for GPUs, or not, where Triton is found, or not."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([built, found])],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_a_gpus_pytorch_with_triton_has_a_kernel_for_every_operator():
    pytest.importorskip("triton")
    process = started(built=True, found=True)
    assert process["devices"] == ["cuda", "meta"]
    assert process["kernels"] == process["all"]
    assert process["said"] == []


@pytest.mark.thorough
def test_a_gpus_pytorch_without_triton_runs_plain_forms_and_says_so_once():
    process = started(built=True, found=False)
    assert process["devices"] == ["meta"]
    assert process["kernels"] == []
    ((level, message),) = process["said"]
    assert level == "WARNING"
    assert "pip install triton" in message


@pytest.mark.thorough
def test_a_pytorch_for_cpus_loads_no_triton_and_says_so_once_to_who_debugs():
    process = started(built=False, found=True)
    assert process["devices"] == ["meta"]
    assert not process["triton"]
    ((level, _),) = process["said"]
    assert level == "DEBUG"
