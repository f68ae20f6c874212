"""A folder that is not a local path: anything that fsspec names, such as `s3://bucket/study` or `gs://bucket/study`.

Every object appears whole or not at all. Object stores promise that; elsewhere a file is written under another name
and moved.
"""

import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Protocols of object stores, which show an object only when all of it has arrived.
OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"))
# Seconds between the signs of life of a lock's owner, and without one after which it counts as dead.
SIGN_OF_LIFE, PATIENCE = 10.0, 30.0


def is_remote(text: str) -> bool:
    """Whether a text names a place by a URL and not by a path."""
    return re.match(r"[a-z][a-z0-9+.-]+://", text) is not None and not text.startswith("file://")


class RemoteFolder:
    """
    A folder of results behind fsspec; small, and can be pickled.

    Args:
        url: of the folder.
        options: of the file system of fsspec, such as `endpoint_url` of S3; credentials come from the environment.

    Raises:
        ImportError: fsspec, or its package for this protocol, is not installed.
        ValueError: no file system has this protocol.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None):
        self.url = url.rstrip("/")
        self.options = dict(options or {})
        self._system: Any = None
        self._connect()

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_system": None}

    def _connect(self) -> Any:
        if self._system is None:
            try:
                import fsspec
            except ImportError as error:
                raise ImportError(
                    f'{self.url} needs fsspec; install it with pip install "cfsam_hf[cluster]"'
                ) from error
            try:
                # Listings are always asked for: other machines write here.
                self._system = fsspec.filesystem(self.url.split("://")[0], use_listings_cache=False, **self.options)
            except ImportError as error:
                raise ImportError(f"{self.url}: {error}") from error
        return self._system

    def path(self, name: str) -> str:
        """The URL of a file or folder; "" and "." are this one."""
        return self.url if name in ("", ".") else f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """
        The content of a file.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        with self._naming(name):
            content: bytes = self._connect().cat_file(self.path(name))
        return content

    def write(self, name: str, content: bytes) -> None:
        """
        Writes a file, whole or not at all; an existing one is replaced.

        Raises:
            OSError: it cannot be written.
        """
        with self._naming(name), self._moved(name) as target:
            self._connect().pipe_file(target, content)

    def put(self, local: Path, name: str) -> None:
        """
        Copies a local file here, whole or not at all.

        Raises:
            OSError: it cannot be read or written.
        """
        with self._naming(name), self._moved(name) as target:
            self._connect().put_file(str(local), target)

    def copy(self, source: str, target: str) -> None:
        """
        Copies a file within the folder, by the store itself if it can.

        Raises:
            OSError: it cannot be copied.
        """
        with self._naming(target), self._moved(target) as place:
            self._connect().cp_file(self.path(source), place)

    def size(self, name: str) -> int | None:
        """
        The size of a file in bytes, None if there is none.

        Raises:
            OSError: the folder cannot be reached.
        """
        try:
            with self._naming(name):
                return int(self._connect().info(self.path(name))["size"])
        except FileNotFoundError:
            return None

    def sizes(self, folder: str) -> dict[str, int]:
        """
        Names, relative to `folder`, and sizes of all files below it.

        Raises:
            OSError: the folder cannot be reached.
        """
        with self._naming(folder):
            found = self._connect().find(self.path(folder), detail=True)
        begin = self._connect()._strip_protocol(self.path(folder)).rstrip("/") + "/"
        return {
            name.removeprefix(begin): int(entry["size"])
            for name, entry in found.items()
            if name.startswith(begin) and name != begin
        }

    def names(self, folder: str) -> list[str]:
        """
        The names directly in a folder below this one, none if it is missing.

        Raises:
            OSError: the folder cannot be reached.
        """
        try:
            with self._naming(folder):
                found = self._connect().ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rsplit("/", 1)[1] for name in found)

    def remove(self, name: str) -> None:
        """
        Removes a file or a folder that may be missing.

        Raises:
            OSError: it cannot be removed.
        """
        with suppress(FileNotFoundError), self._naming(name):
            self._connect().rm(self.path(name), recursive=True)

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """
        Holds a lock, whose owner shows a sign of life every ten seconds. One whose owner shows none is taken over.

        Raises:
            BlockingIOError: another owner is alive.
            OSError: the folder cannot be written to.
        """
        owner = uuid.uuid4().hex
        if not self._create(name, f"{owner} 0".encode()):
            before = self._sign(name)
            threading.Event().wait(PATIENCE)
            if self._sign(name) != before:
                raise BlockingIOError(f"{self.path(name)}: another process holds this lock")
        ended = threading.Event()

        def show_life() -> None:
            count = 0
            while not ended.wait(SIGN_OF_LIFE):
                count += 1
                with suppress(OSError):
                    self.write(name, f"{owner} {count}".encode())

        self.write(name, f"{owner} 0".encode())
        thread = threading.Thread(target=show_life, name="cfsam-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                self.remove(name)

    def _create(self, name: str, content: bytes) -> bool:
        """Writes a file that does not exist; False if it does."""
        with self._naming(name):
            try:
                self._connect().pipe_file(self.path(name), content, mode="create")
            except FileExistsError:
                return False
        return True

    def _sign(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    @contextmanager
    def _moved(self, name: str) -> Iterator[str]:
        """The URL to write to; the file has its own name when the block succeeds."""
        system, target = self._connect(), self.path(name)
        if self.url.split("://")[0] in OBJECT_STORES:
            yield target
            return
        working = f"{target}.part-{uuid.uuid4().hex}"
        system.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        try:
            yield working
            system.mv(working, target)
        except BaseException:
            with suppress(Exception):
                system.rm(working)
            raise

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Raises the errors of the store, which come in many kinds, as `OSError` that names the file."""
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{self.path(name)}: {reason}") from error
