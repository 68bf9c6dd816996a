"""A model folder that is another checkpoint, of any format: links to its files, a place of its own.

Weights are not copied where the file system can link: a hard link outlasts the folder that it came
from, a symbolic one reaches into other file systems.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omniforcing_model.weights.checkpoint_format import CONFIG_FILE, DIFFUSERS_PART, open_checkpoint
from omniforcing_model.weights.stated_family import StatedFamily
from omniforcing_model.weights.tensor_source import index_of

ONE_FILE = "weights.safetensors"


def link_checkpoint(
    source: Path, folder: Path, notes: Mapping[str, Any], stated: StatedFamily | None = None
) -> None:
    """Make `folder`, which is not there, the same checkpoint as `source`, with the same digest.

    Args:
        source: a checkpoint of any format.
        folder: of the link.
        notes: for config.json, in place of those of `source`; of our format alone.
        stated: what `source` does not state.

    Raises:
        WeightsError: `source` is no checkpoint, or not of the stated family.
    """
    checkpoint = open_checkpoint(source, stated)
    into = folder / DIFFUSERS_PART if checkpoint.format == "diffusers" else folder
    into.mkdir(parents=True)
    files = checkpoint.source.files
    index = index_of(files)
    if index is not None:
        shutil.copyfile(index, into / index.name)
    if checkpoint.format == "ours":
        values = json.loads((checkpoint.path / CONFIG_FILE).read_bytes())
        text = json.dumps(values | dict(notes), indent=2, sort_keys=True)
        (into / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    elif checkpoint.format == "diffusers":
        shutil.copyfile(checkpoint.path / CONFIG_FILE, into / CONFIG_FILE)
    elif len(files) == 1 and index is None:
        # In a folder, a file with the name that ours have would be taken for one of ours.
        _link(files[0], into / ONE_FILE)
        return
    for file in files:
        _link(file, into / file.name)


def _link(file: Path, place: Path) -> None:
    whole = file.resolve()
    for make in (os.link, os.symlink):
        try:
            make(whole, place)
        except OSError:  # another file system, another's file, or a system without links
            continue
        return
    shutil.copyfile(whole, place)
