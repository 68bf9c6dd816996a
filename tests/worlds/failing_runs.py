"""Runs of preprocessing on a machine whose disk fails, one after the other into one dataset.

`python -m tests.worlds.failing_runs FOLDER FAULT ...` writes good clips into the folder, makes
an undisturbed dataset of them, then one that every fault in turn stops, and at last lets that one
end. The faults are in the cluster alone: the process that asks for the work is well.
"""

import json
import os
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path

import typer

from infra.dataset.commit_log import SCHEMAS, read_log
from infra.dataset.outcome_table import OK
from infra.presets import load_preset
from infra.storage.object_store import ObjectStore
from tests.worlds.beacon_clips import caption, write_beacon_clip, write_captions
from tests.worlds.failing_disk import break_disk, heal_disk
from tests.worlds.preprocessing import SETTINGS

CLIPS = 2
# What the actors of the named stage meet, in the order in which one dataset may meet all of them.
# "full" holds for whatever they write, "files" and "disk" for what they read.
FAULTS = {
    "survey: full": ("write", "ENOSPC", "/omniforcing-copies-"),
    "survey: files": ("open", "EMFILE", "/clips/clip_"),
    "survey: disk": ("read", "EIO", "/clips/clip_"),
    "survey log: full": ("write", "ENOSPC", "/log/clips"),
    "decode: full": ("write", "ENOSPC", "/omniforcing-copies-"),
    "decode: files": ("open", "EMFILE", "/clips/clip_"),
    "decode: disk": ("read", "EIO", "/clips/clip_"),
    "encode: files": ("open", "EMFILE", "/tiny_weights/"),
    "encode: disk": ("read", "EIO", "/tiny_weights/"),
    "write: full": ("write", "ENOSPC", "/dataset/latents/"),
    "write: quota": ("write", "EDQUOT", "/text/"),
    "write: files": ("open", "EMFILE", "/dataset/latents/"),
    "write: disk": ("write", "EIO", "/log/windows"),
    "commit: full": ("write", "ENOSPC", "/dataset/rows/"),
    "commit: disk": ("read", "EIO", "/dataset/log/"),
}


def write_sources(folder):
    """Clips beside a tar with another."""
    folder.mkdir()
    names = [f"clip_{number}.mp4" for number in range(CLIPS)]
    for number, name in enumerate(names):
        write_beacon_clip(folder / name, number)
    packed = folder.with_name("packed.mp4")
    write_beacon_clip(packed, CLIPS)
    with tarfile.open(folder / "pack.tar", "w") as tar:
        tar.add(packed, "a.mp4")
    captions = {name: caption(number) for number, name in enumerate(names)}
    write_captions(folder, captions | {"pack.tar/a.mp4": caption(CLIPS)})
    return folder


def run(clips, out):
    """Preprocess as the command does, but for its report; the status, and what it says."""
    from infra.terminal.command_line import errors_in_one_line
    from infra.terminal.progress import SilentProgress
    from pipelines.preprocessing.preprocess import preprocess

    status = 0
    with _standard_error_in(out.with_name("stderr")) as shown:
        try:
            with errors_in_one_line(debug=False):
                preprocess(load_preset("tiny", SETTINGS), str(clips), str(out), SilentProgress())
        except typer.Exit as end:
            status = end.exit_code
    return {"status": status, "lines": shown.read_text().splitlines()}


def condemned(out):
    """What the log of a dataset says of keys that are not good."""
    store = ObjectStore(out)
    rows = [row for log in SCHEMAS for row in read_log(store, log).to_pylist()]
    return [row for row in rows if row["outcome"] != OK]


@contextmanager
def _standard_error_in(path):
    before = os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield path
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def main(folder, faults):
    """Print what came of every run."""
    from infra.ray_cluster import local_cluster

    clips, straight, out = write_sources(folder / "clips"), folder / "straight", folder / "dataset"
    with local_cluster(load_preset("tiny", SETTINGS).cluster):
        ends = {"straight": run(clips, straight)}
        for fault in faults:
            break_disk(*FAULTS[fault])
            ends[fault] = run(clips, out)
            heal_disk()
            ends[fault]["condemned"] = condemned(out)
        ends["healed"] = run(clips, out)
    print(json.dumps(ends))  # noqa: T201  # a message to the parent


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
