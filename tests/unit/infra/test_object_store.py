import pytest

from infra.errors import DatasetError
from infra.object_store import ObjectStore


def test_what_is_written_is_listed_read_and_deleted(tmp_path):
    store = ObjectStore(tmp_path / "new")
    assert not store.exists()
    store.write("shards/a.bin", b"one")
    store.write("shards/a.bin", b"two")
    assert [(file.name, file.size) for file in store.list(recursive=True)] == [("shards/a.bin", 3)]
    assert store.list("shards") == store.list(recursive=True)
    assert store.read("shards/a.bin") == b"two"
    store.delete("shards/a.bin")
    store.delete("shards/a.bin")
    assert not store.has("shards/a.bin")


def test_a_failed_write_leaves_nothing_and_keeps_the_older_file(tmp_path):
    store = ObjectStore(tmp_path)
    store.write("manifest.json", b"whole")
    with pytest.raises(TypeError):
        store.write("manifest.json", "text instead of bytes")
    assert store.read("manifest.json") == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_path_a_relative_path_and_a_file_uri_are_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    uris = {ObjectStore(where).uri for where in (tmp_path, tmp_path.name, f"file://{tmp_path}")}
    assert uris == {str(tmp_path)}


def test_hidden_files_are_left_out_and_links_to_nowhere_are_not(tmp_path):
    (tmp_path / ".unfinished").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "clip.mp4").touch()
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert [file.name for file in ObjectStore(tmp_path).list(recursive=True)] == ["gone.mp4"]


def test_an_unknown_scheme_is_told_in_one_line():
    with pytest.raises(DatasetError, match=r"expected a path or an s3:// URI, got 'ftp://host/x'"):
        ObjectStore("ftp://host/x")
