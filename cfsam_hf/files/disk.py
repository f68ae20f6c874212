"""What the standard library lacks for safe writing: locks, exchanging two folders, flushing to disk."""

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Network file systems and some FUSE ones have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_AT_FDCWD, _EXCHANGE = -100, 2


class LockUnavailableError(OSError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, *, wait: bool, create: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on a file, which the system releases when the process ends, however it ends.

    The lock also excludes other users in the same process.

    Args:
        path: the lock file. It stays after the block.
        wait: whether to wait for other holders.
        create: whether to make a missing lock file.

    Yields:
        False if the file system has no locks, so that nothing is excluded.

    Raises:
        LockUnavailableError: another holder has the lock, and `wait` is False.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise LockUnavailableError(error.errno, "another process holds the lock", str(path)) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Exchanges two existing names atomically, so that a crash leaves either the old or the new order.

    Returns:
        False if it cannot be done, for instance because this system or file system has no such operation. Nothing has
        changed then.
    """
    library = ctypes.CDLL(None)
    names = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "darwin":
            return bool(library.renamex_np(*names, _EXCHANGE) == 0)
        return bool(library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE) == 0)
    except AttributeError:  # a C library without the function, such as glibc before 2.28
        return False


def flush(path: Path) -> None:
    """Waits until a file, or a folder and all that is in it, has reached the disk.

    A name must not appear before its data; otherwise a power failure could leave it on an empty file.

    Raises:
        OSError: a file cannot be written, for instance because the disk is full.
    """
    if path.is_symlink():
        return
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            flush(entry)
        flush_names(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_names(folder: Path) -> None:
    """Waits until the names in a folder have reached the disk, if the file system supports that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
