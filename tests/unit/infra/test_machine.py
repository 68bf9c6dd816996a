"""Facts about this machine that a report shows."""

import os

from infra.machine import available_memory_gib, machine_facts, usable_cores, version_facts


def test_the_facts_are_those_of_this_machine() -> None:
    facts = machine_facts()
    assert facts["cores"] == str(usable_cores()) == str(len(os.sched_getaffinity(0)))
    total = float(facts["memory"].removesuffix(" GiB"))
    assert 0 < available_memory_gib() <= total + 0.05


def test_the_versions_of_what_computes_are_named() -> None:
    versions = version_facts()
    assert all(versions[name][0].isdigit() for name in ("python", "torch", "ray", "mlflow"))
