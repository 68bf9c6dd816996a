"""Processes that compute together, without Ray: a rank each, and gloo between them.

`python -m tests.worlds.ranks MODULE:FUNCTION FOLDER RANK RANKS ARGUMENTS STORE` is one of them.
"""

import json
import os
import subprocess
import sys
import uuid
from importlib import import_module
from pathlib import Path


def run_in_ranks(function, count, folder, arguments, timeout_s=110, environment=None):
    """What a module's `function(folder, **arguments)` returns on each of `count` ranks, as JSON.

    `environment`: variables of those processes, besides ours.
    RuntimeError with what they said if one of them fails or hangs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-m", __name__, target, str(folder)]
    own = {"OMP_NUM_THREADS": "1"} | (environment or {})
    store = folder / f"store-{uuid.uuid4().hex}"
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(count), json.dumps(arguments), str(store)],
            env=os.environ | own | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=timeout_s)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(text[-3000:] for text in said))
    return [json.loads(_result(folder, rank).read_text()) for rank in range(count)]


def _result(folder, rank):
    return Path(folder) / f"result-{rank}.json"


def _run(target, folder, rank, ranks, arguments, place):
    from torch import distributed as dist

    store = dist.FileStore(place, ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    module, _, name = target.partition(":")
    result = getattr(import_module(module), name)(folder, **arguments)
    _result(folder, rank).write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    _, target, folder, number, count, given, place = sys.argv
    _run(target, Path(folder), int(number), int(count), json.loads(given), place)
