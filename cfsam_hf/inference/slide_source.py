"""A whole slide as the source of a job. The description is small and can be pickled."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..model.pictures import DEFAULT_MAX_PIXELS
from ..model.pixel_size import PixelSize
from ..slides import Slide, open_slide
from ..slides.dicom_folders import series_of
from .sources import file_fingerprint, is_unchanged

# Extensions of index files, whose pixels are in a folder or in files beside them.
FOLDER_BESIDE = (".mrxs", ".vms", ".vmu")


@dataclass(frozen=True)
class SlideSource:
    """A slide's file.

    Attributes:
        path: the file; of a slide in several files, the one that is opened.
        name: its name in the outputs, a relative path with "/" (`slide.svs`, `case 7/slide.svs`).
        mpp: micrometres per pixel of level 0, in place of what the file states.
        max_pixels: a larger picture that can only be read as a whole is refused. None: no limit.
    """

    path: Path
    name: str
    mpp: float | None = None
    max_pixels: int | None = DEFAULT_MAX_PIXELS

    def open(self) -> Slide:
        """Opens the slide; see [`cfsam_hf.slides.open_slide`]."""
        return open_slide(self.path, self.mpp, self.max_pixels)

    def read(self) -> np.ndarray:
        """All of level 0 as (H, W, 3) uint8 RGB; for small slides only."""
        with self.open() as slide:
            return slide.read_region(0, 0, *slide.size)

    def pixel_size(self) -> PixelSize | None:
        """The pixel size that the slide itself states, None if it states none."""
        with open_slide(self.path) as slide:
            return slide.pixel_size

    def fingerprint(self) -> dict[str, Any]:
        """Size, modification time and content digest of each of its files, by name.

        Raises:
            OSError: a file cannot be read.
        """
        return {"files": {path.name: file_fingerprint(path) for path in self._files()}}

    def matches(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether each file has the same size, and the same modification time or content."""
        try:
            known = dict(fingerprint["files"])
            paths = self._files()
            if {path.name for path in paths} != set(known):
                return False
            return all(is_unchanged(path, known[path.name]) for path in paths)
        except (OSError, KeyError, TypeError, ValueError):
            return False

    def reader_options(self) -> dict[str, Any]:
        """No options: the pixel size is among those of the run."""
        return {}

    def _files(self) -> list[Path]:
        """All files of the slide, sorted."""
        ending = self.path.suffix.lower()
        if ending == ".dcm":
            series = series_of(self.path)
            beside = (path for path in self.path.parent.iterdir() if path.suffix.lower() == ending and path.is_file())
            return sorted(path for path in beside if path == self.path or (series and series_of(path) == series))
        files = [self.path]
        if ending in FOLDER_BESIDE:
            folder = self.path.with_suffix("")
            beside = folder.iterdir() if folder.is_dir() else self.path.parent.glob(f"{self.path.stem}*")
            files += [path for path in beside if path.is_file() and path != self.path]
        return sorted(files)


def content_of(fingerprint: Mapping[str, Any]) -> str:
    """A digest of the content of a slide's files, whatever their names and times.

    Args:
        fingerprint: of a `SlideSource`.
    """
    digests = sorted(entry["digest"] for entry in fingerprint["files"].values())
    return hashlib.blake2b(" ".join(digests).encode(), digest_size=16).hexdigest()
