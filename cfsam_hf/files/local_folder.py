"""A folder of results on a path, with the operations of [`cfsam_hf.files.remote_folder.RemoteFolder`]."""

import os
import shutil
from pathlib import Path

from .atomic import atomic_path
from .stage import remove


class LocalFolder:
    """
    A local or mounted folder.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def write(self, name: str, content: bytes) -> None:
        """
        Writes a file, whole or not at all; an existing one is replaced.

        Raises:
            OSError: it cannot be written.
        """
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as working:
            working.write_bytes(content)

    def copy(self, source: str, target: str) -> None:
        """
        Gives a file a second name; where the file system has no such names, copies it. An existing file is replaced.

        Raises:
            OSError: there is no such file, or the other cannot be written.
        """
        place = self.path / target
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(place) as working:
            try:
                os.link(self.path / source, working)
            except OSError:
                shutil.copyfile(self.path / source, working)

    def names(self, folder: str) -> list[str]:
        """The names directly in a folder below this one, none if it is missing."""
        try:
            return sorted(os.listdir(self.path / folder))
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """Removes a file or a folder that may be missing; what cannot be removed stays."""
        remove(self.path / name)
