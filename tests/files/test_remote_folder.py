"""Why: a folder behind a URL must hold whole files only, and one writer, whatever the store is."""

import pickle

import fsspec
import pytest

from cfsam_hf.files import remote_folder
from cfsam_hf.files.remote_folder import RemoteFolder, is_remote


@pytest.fixture
def folder(tmp_path):
    """A folder in memory, as an object store."""
    yield RemoteFolder(f"memory://{tmp_path.name}")
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """A folder of a file system that shows files while they are written."""
    monkeypatch.setattr(remote_folder, "OBJECT_STORES", frozenset())
    return RemoteFolder(f"local://{tmp_path}/out", {"auto_mkdir": True})


@pytest.mark.parametrize(
    ("text", "remote"),
    [("s3://bucket/a", True), ("gs://b", True), ("file:///a", False), ("out", False), ("C://x", False), ("/a", False)],
)
def test_urls_are_told_from_paths(text, remote):
    assert is_remote(text) is remote


def test_files_are_written_read_copied_and_removed(folder, tmp_path):
    (tmp_path / "local").write_bytes(b"local")
    folder.write("a/x.txt", b"hello")
    folder.put(tmp_path / "local", "a/b/y.txt")
    folder.copy("a/x.txt", "nuclei/slide=a%2Fb/z")
    folder = pickle.loads(pickle.dumps(folder))
    assert folder.sizes("") == {"a/x.txt": 5, "a/b/y.txt": 5, "nuclei/slide=a%2Fb/z": 5}
    assert folder.names("a") == ["b", "x.txt"]
    assert folder.read("nuclei/slide=a%2Fb/z") == b"hello"
    assert folder.size("a/x.txt") == 5
    assert folder.size("a/none") is None
    assert folder.names("none") == []
    folder.remove("a")
    folder.remove("none")
    assert list(folder.sizes("")) == ["nuclei/slide=a%2Fb/z"]


def test_a_write_that_breaks_leaves_the_old_file(mounted, monkeypatch):
    mounted.write("x", b"old")
    system = mounted._connect()
    monkeypatch.setattr(type(system), "mv", lambda *_: (_ for _ in ()).throw(ConnectionError("cut")))
    with pytest.raises(OSError, match=r"/out/x: cut"):
        mounted.write("x", b"new and longer")
    assert mounted.read("x") == b"old"
    assert mounted.names("") == ["x"]


def test_a_lock_is_refused_while_its_owner_lives_and_taken_over_when_it_is_dead(folder, monkeypatch):
    monkeypatch.setattr(remote_folder, "SIGN_OF_LIFE", 0.02)
    monkeypatch.setattr(remote_folder, "PATIENCE", 0.5)
    with folder.held("lock"), pytest.raises(BlockingIOError, match="lock"), folder.held("lock"):
        pass
    assert folder.size("lock") is None
    folder.write("lock", b"an owner that was killed")
    with folder.held("lock"):
        assert not folder.read("lock").startswith(b"an owner")


def test_an_unknown_protocol_and_a_missing_package_are_named():
    with pytest.raises(ValueError, match="nonsense"):
        RemoteFolder("nonsense://bucket")
