import errno
import hashlib
import os
import pickle
import re
import resource
import tempfile

import pytest

from infra.errors import DatasetError, MachineError
from infra.storage.object_store import ObjectStore
from tests.worlds.small_machine import limited


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


def test_files_of_a_hidden_folder_are_listed_when_it_is_named(tmp_path):
    ObjectStore(tmp_path).write(".owner/a.json", b"")
    (tmp_path / ".owner" / ".b").touch()
    assert [file.name for file in ObjectStore(tmp_path).list(".owner")] == [".owner/a.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_there_is_not_replaced(tmp_path, monkeypatch, links):
    def no_links(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    store = ObjectStore(tmp_path)
    assert store.write_if_absent("a/b", b"mine")
    assert not store.write_if_absent("a/b", b"another's")
    assert store.write_if_absent("a/b", b"mine")  # as a repeated request finds it
    assert store.read("a/b") == b"mine"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_member_of_a_tar_is_the_bytes_at_its_offset(tmp_path):
    (tmp_path / "pack.tar").write_bytes(b"header" + b"a clip" + b"more")
    store = ObjectStore(tmp_path)
    with store.local_file("pack.tar/below/0001.mp4", 6, 6) as path:
        assert path.read_bytes() == b"a clip"
        assert path.suffix == ".mp4"
    assert not path.exists()
    expected = f"sha256:{hashlib.sha256(b'a clip').hexdigest()}"
    assert store.digest("pack.tar/below/0001.mp4", 6, 6) == expected


def test_a_folder_may_be_called_something_tar(tmp_path):
    (tmp_path / "old.tar").mkdir()
    (tmp_path / "old.tar" / "a.mp4").write_bytes(b"plain")
    (tmp_path / "old.tar" / "pack.TAR").write_bytes(b"packed")
    store = ObjectStore(tmp_path)
    assert store.digest("old.tar/pack.TAR/x.tar/a.mp4", 0, 6) == store.digest("old.tar/pack.TAR")
    with store.local_file("old.tar/a.mp4") as path:
        assert path.read_bytes() == b"plain"


def test_an_archive_that_has_shrunk_since_is_reported(tmp_path):
    (tmp_path / "pack.tar").write_bytes(b"short")
    store = ObjectStore(tmp_path)
    with pytest.raises(
        OSError, match=r"expected 6 bytes of pack\.tar/a\.mp4 at 3, got 2; the archi"
    ):
        store.digest("pack.tar/a.mp4", 3, 6)
    with pytest.raises(OSError, match="expected a member of a tar"):
        store.digest("a.mp4", 3, 6)


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/passwd", "below/../../a.mp4", ".."])
def test_a_name_that_leads_out_of_the_folder_is_never_opened(tmp_path, name):
    (tmp_path / "a.mp4").write_bytes(b"secret")
    store = ObjectStore(tmp_path / "clips")
    for use in (store.read, store.open, store.digest, store.has, store.delete):
        with pytest.raises(PermissionError, match=f"expected a name below {tmp_path}/clips, got"):
            use(name)
    with pytest.raises(PermissionError), store.local_file(name):
        pass


def test_a_file_that_is_not_there_is_reported_by_every_way_to_read_it(tmp_path):
    store = ObjectStore(tmp_path)
    for read in (store.read, store.open, store.digest):
        with pytest.raises(FileNotFoundError):
            read("nothing.mp4")


def test_a_store_travels_as_its_location(tmp_path):
    store = pickle.loads(pickle.dumps(ObjectStore(tmp_path)))
    store.write("a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_a_uri_with_spaces_is_a_path(tmp_path):
    ObjectStore(tmp_path / "my clips").write("a", b"one")
    assert ObjectStore(f"file://{tmp_path}/my%20clips").read("a") == b"one"


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///clips", "s3://AKIAEXAMPLE:secret@/x", "s3://A_b/x"]
)
def test_a_uri_without_the_name_of_a_bucket_is_refused_without_repeating_secrets(uri):
    with pytest.raises(DatasetError, match="expected s3://bucket/prefix") as refused:
        ObjectStore(uri)
    assert "secret" not in str(refused.value)


def test_an_unknown_scheme_is_reported_in_one_line():
    with pytest.raises(DatasetError, match=r"expected a path or an s3:// URI, got 'ftp://host/x'"):
        ObjectStore("ftp://host/x")


def test_a_folder_goes_with_all_that_is_in_it_and_nothing_else(tmp_path):
    store = ObjectStore(tmp_path)
    for name in ("work/rows/a", "work/b", "kept"):
        store.write(name, b"x")
    store.delete_folder("work")
    store.delete_folder("work")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_confined_store_reads_no_file_outside_whatever_links_to_it(tmp_path):
    (tmp_path / "secret.txt").write_text("not yours")
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "own.txt").write_text("mine")
    (folder / "inside.txt").symlink_to("own.txt")
    (folder / "outside.txt").symlink_to("../secret.txt")
    (folder / "up").symlink_to("..")
    store = pickle.loads(pickle.dumps(ObjectStore(folder, confined=True)))
    assert store.read("inside.txt") == b"mine"
    for name in ("outside.txt", "up/secret.txt"):
        for read in (
            store.read,
            store.open,
            store.digest,
            lambda n: store.local_file(n).__enter__(),
        ):
            with pytest.raises(OSError, match="got a link out of it"):
                read(name)
    assert ObjectStore(folder).read("outside.txt") == b"not yours"


def test_a_write_without_room_is_the_machine_s_fault_and_leaves_nothing(tmp_path):
    store = ObjectStore(tmp_path)
    store.write("manifest.json", b"whole")
    place = re.escape(str(tmp_path / "manifest.json"))
    with limited(resource.RLIMIT_FSIZE, 1000):  # noqa: SIM117
        with pytest.raises(MachineError, match=rf"room to write at {place}, got: .*too large"):
            store.write("manifest.json", bytes(1001))
    assert store.read("manifest.json") == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_listing_without_room_for_a_file_is_no_empty_folder(tmp_path):
    store = ObjectStore(tmp_path)
    store.write("shards/a.bin", b"one")
    uses = {
        "list": lambda: store.list(recursive=True),
        "read": lambda: store.read("shards/a.bin"),
        "open": lambda: store.open("shards/a.bin"),
        "digest": lambda: store.digest("shards/a.bin"),
        "write": lambda: store.write("shards/b.bin", b"two"),
        "local_file": lambda: store.local_file("shards/a.bin", 0, 3).__enter__(),
    }
    for use in uses.values():
        with limited(resource.RLIMIT_NOFILE, 1), pytest.raises(MachineError, match="one more file"):
            use()
    assert [file.name for file in store.list(recursive=True)] == ["shards/a.bin"]
    assert store.list("nowhere") == []


def test_a_folder_for_temporary_files_that_is_gone_is_no_file_s_fault(tmp_path, monkeypatch):
    (tmp_path / "pack.tar").write_bytes(b"a clip")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(MachineError, match="set TMPDIR"):  # noqa: SIM117
        with ObjectStore(tmp_path).local_file("pack.tar/a.mp4", 0, 6):
            pass


def test_what_goes_wrong_with_a_copy_s_user_is_not_the_copy_s_fault(tmp_path):
    (tmp_path / "pack.tar").write_bytes(b"a clip")
    store = ObjectStore(tmp_path)
    with pytest.raises(PermissionError), store.local_file("pack.tar/a.mp4", 0, 6):
        raise PermissionError
    with pytest.raises(OSError, match="the archive has changed"):  # noqa: SIM117
        with store.local_file("pack.tar/a.mp4", 0, 7):
            pass
