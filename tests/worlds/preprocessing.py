"""Preprocessing runs that are killed: a small corpus, runs in processes of their own, what is left.

`python -m tests.worlds.preprocessing CLIPS OUT` runs the corpus on a cluster of two nodes in this
process and prints the id of the second node's raylet, for somebody to kill.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from infra.dataset.commit_log import SCHEMAS, read_log
from infra.dataset.latent_table import LatentTable
from infra.dataset.outcome_table import read_outcomes
from infra.storage.object_store import ObjectStore
from tests.worlds.beacon_clips import caption, truncated, write_beacon_clip, write_captions

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "data.seconds=1",
    "data.rows_per_shard=2",
    "data.split.kind=fixed",
    "cluster.clip_decoder.replicas=1",
    "cluster.local_cpus=6",
)
SHARED_CLUSTER_S = 240


def write_corpus(folder, clips=8):
    """Clips of one to three seconds, a copy, and two that are broken."""
    folder.mkdir(parents=True)
    for number in range(clips):
        write_beacon_clip(folder / f"clip_{number}.mp4", number, seconds=1 + number % 3)
    truncated(folder / "clip_2.mp4", folder / "cut.mp4")
    (folder / "text.mp4").write_text("not a clip")
    captions = {f"clip_{number}.mp4": caption(number) for number in range(clips)}
    write_captions(folder, captions | {"cut.mp4": caption(0), "text.mp4": caption(1)})
    return folder


def command(clips, out, *more):
    """The command line that makes the dataset."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    run = [sys.executable, "-m", "pipelines.cli", "preprocess"]
    return [*run, "--clips", str(clips), "--out", str(out), "--json", *settings, *more]


def run_to_the_end(clips, out, *more, env=None):
    """Run the command; its JSON."""
    done = subprocess.run(
        command(clips, out, *more),
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=SHARED_CLUSTER_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def content(out):
    """All that a finished dataset says, but for where and when: equal for equal datasets."""
    table = LatentTable.open(out)
    rows = table.read(range(table.rows))
    assert len(set(rows["row_id"])) == table.rows
    outcomes = read_outcomes(ObjectStore(out)).drop_columns(["attempts", "clip_modified_ns"])
    # What was not measured is NaN, which is not even equal to itself.
    rows = [{name: str(value) for name, value in row.items()} for row in outcomes.to_pylist()]
    return table.digest, table.rows, rows


def keys_done(out):
    """How many keys each log has."""
    return {log: read_log(ObjectStore(out), log).num_rows for log in SCHEMAS}


def processes(*words, tag):
    """Ids of processes with one of `words` in their title and `tag` in their environment, so that
    another run on this machine is left alone."""
    matching = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            title = " ".join(process.cmdline())
            if any(word in title for word in words) and tag in _environment(process):
                matching.append(process.pid)
    return matching


def _environment(process):
    return "\0".join(f"{name}={value}" for name, value in process.environ().items())


def kill_one(chance, *words, tag):
    """SIGKILL one of the processes with these words and this tag; whether there was one."""
    candidates = sorted(processes(*words, tag=tag))
    if not candidates:
        return False
    os.kill(chance.choice(candidates), signal.SIGKILL)
    return True


def main(clips, out):
    """Run on a head and a second node, which its raylet's id on standard output invites to kill."""
    from ray.cluster_utils import Cluster

    from infra.presets import load_preset
    from infra.terminal.progress import SilentProgress
    from pipelines.preprocessing.preprocess import preprocess

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        node = cluster.add_node(num_cpus=6)
        cluster.wait_for_nodes()
        raylet = node.all_processes["raylet"][0].process
        print(raylet.pid, flush=True)  # noqa: T201  # a message to the parent
        config = load_preset("tiny", [*SETTINGS, f"cluster.address={cluster.address}"])
        preprocess(config, clips, out, SilentProgress())
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
