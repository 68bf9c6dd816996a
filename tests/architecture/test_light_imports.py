"""Configuration loads in milliseconds, so that `plan` answers before anything heavy is imported."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "ray",
    "mlflow",
    "pyarrow",
    "deepspeed",
    "fastapi",
    "numpy",
    "scipy",
    "av",
    "openai",
    "psutil",
)
REPORT = f"import json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"


@pytest.mark.parametrize(
    "statement",
    [
        "from infra.presets import load_preset; load_preset('tiny')",
        "import omniforcing_model.config, omniforcing_model.errors",
        "import pipelines.cli",
    ],
)
def test_configuration_loads_without_heavy_libraries(statement, repository):
    program = f"{statement}; {REPORT}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
