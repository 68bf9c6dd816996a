"""A column of a dataset has its name in one place: infra/dataset/columns.py."""

import ast
from pathlib import PurePosixPath

from infra.dataset.columns import Column

HOME = "infra/dataset/columns.py"
COLUMNS = {name for key, name in vars(Column).items() if not key.startswith("_")}
# A name of several words means the column, wherever it stands.
COMPOUND = {name for name in COLUMNS if "_" in name}
# The others are words with other meanings too: they count where rows are read and written.
ROOMS = ("infra/dataset/", "actors/clips/", "actors/latents/", "pipelines/preprocessing/")
# What is called the same and is no column of ours.
OTHER_MEANINGS = {
    "actors/clips/shot_windows.py": {"first"},  # a way to split
    "pipelines/preprocessing/codec_digests.py": {"video", "audio"},  # codecs
    "pipelines/preprocessing/recipe.py": {"video", "audio", "width", "loudness_lufs"},  # settings
    "pipelines/preprocessing/listing/caption_tables.py": {"caption"},  # columns of our users
    "pipelines/preprocessing/listing/tar_members.py": {"caption"},  # a key of WebDataset
}


def typed_names(source):
    """Columns that the file names by a string of its own, with the lines."""
    path = source.path.as_posix()
    columns = COLUMNS if path.startswith(ROOMS) else COMPOUND
    columns = columns - OTHER_MEANINGS.get(path, set())
    return [
        f"{path}:{node.lineno} {node.value!r}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and node.value in columns and path != HOME
    ]


def test_columns_are_named_by_their_constants(sources):
    typed = [line for source in sources for line in typed_names(source)]
    assert not typed, f"take these from {HOME}:\n" + "\n".join(typed)


def test_every_column_is_used_by_its_constant(sources):
    used = {
        node.attr
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Column"
    }
    assert {key for key in vars(Column) if not key.startswith("_")} <= used


def test_exceptions_are_of_files_that_still_need_them(sources):
    paths = {source.path.as_posix(): source for source in sources}
    for path, names in OTHER_MEANINGS.items():
        literals = {
            node.value for node in ast.walk(paths[path].tree) if isinstance(node, ast.Constant)
        }
        assert names <= literals, f"{PurePosixPath(path).name} no longer says {names - literals}"
