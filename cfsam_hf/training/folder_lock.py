"""A lock on a folder, which lets in one process at a time and which the system releases however its owner ends."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

logger = logging.getLogger(__name__)

IN_USE = (errno.EACCES, errno.EAGAIN)


class FolderLock:
    """Holds `folder/name` until [`release`], or until the process ends.

    A record lock of POSIX belongs to a process and not to its children, so data loader workers that outlive a killed
    run for some seconds do not keep the next run out. It also works on network file systems.

    Args:
        folder: must exist.
        name: of the lock file, which stays when the lock is released.

    Raises:
        OSError: another process holds the lock; the message says which.
    """

    def __init__(self, folder: Path, name: str):
        self.path = folder / name
        # Neither truncated nor closed before this process has the lock: both would harm the process that holds it.
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._descriptor, 200).decode(errors="replace").strip()
            if error.errno in IN_USE:
                self.release()
                raise OSError(
                    f"{folder}: another training run is writing to this folder ({owner or 'owner unknown'}). Wait "
                    "until it ends, or give another output folder."
                ) from error
            logger.warning(
                "%s cannot be locked (%s): make sure that no other run writes to this folder", folder, error.strerror
            )
            return
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Lets other processes in."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
