"""Why: two runs must never write to one folder at once; a dead run must never block the next one."""

import errno
import fcntl
import os
import signal

import pytest

from cfsam_hf.training.folder_lock import FolderLock


def fork(work) -> int:
    """Does something in a child process, which then ends; gives its id."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


@pytest.fixture
def holder(tmp_path):
    """The id of a process that holds the lock of `tmp_path`."""
    read, write = os.pipe()

    def hold():
        FolderLock(tmp_path, ".lock")
        os.write(write, b"x")
        signal.pause()

    child = fork(hold)
    os.read(read, 1)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    with pytest.raises(OSError, match=rf"another training run.*process {holder} on .*another output folder"):
        FolderLock(tmp_path, ".lock")
    # Looking must not take the lock from its owner.
    with pytest.raises(OSError, match=f"process {holder}"):
        FolderLock(tmp_path, ".lock")


def test_a_killed_process_releases_the_folder_at_once_even_if_its_workers_live_on(tmp_path):
    read, write = os.pipe()

    def hold_with_a_worker():
        FolderLock(tmp_path, ".lock")
        fork(lambda: os.read(read, 1))  # until the test is over
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(fork(hold_with_a_worker), 0)
    FolderLock(tmp_path, ".lock").release()
    os.write(write, b"x")


def test_a_released_folder_is_free_for_others(tmp_path):
    FolderLock(tmp_path, ".lock").release()
    read, write = os.pipe()

    def take():
        FolderLock(tmp_path, ".lock")
        os.write(write, b"taken")

    os.waitpid(fork(take), 0)
    os.set_blocking(read, False)
    assert os.read(read, 5) == b"taken"


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    FolderLock(tmp_path, ".lock").release()
    assert "cannot be locked (No locks available)" in caplog.text
