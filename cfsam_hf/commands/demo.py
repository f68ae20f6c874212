"""What `cfsam segment --demo` segments: a part of the slide that the package ships."""

from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..inference import Collection
    from ..inference.slide_plan import WhereToLook

DEMO_TEXT = "Demo: 0.023 mm2 of a real slide, H&E of skin (CMU-1-Small-Region of OpenSlide's test data, CC0)."
TYPES_TEXT = "cfsam-tiny learned its types from colon tissue only: ignore the types of these skin nuclei."


def demo_collection() -> "Collection":
    """The slide of the demo as a job."""
    from ..inference import Collection, ImageSource, Job
    from ..slides import demo_slide

    path = demo_slide()
    return Collection([Job(ImageSource(path, path.name), PurePath(path.stem))])


def demo_place() -> "WhereToLook":
    """The part of the slide that the demo segments."""
    from ..inference.slide_plan import WhereToLook
    from ..slides.bundled import demo_part

    return WhereToLook(roi=demo_part())
