"""Describes a slide from what its file states, for people and as JSON."""

import os
from typing import Any

from .opening import open_slide


def describe_slide(path: str | os.PathLike) -> dict[str, Any]:
    """
    Returns a JSON-ready description of a slide; None stands for what its file does not state.

    Raises:
        OSError, ValueError: as `open_slide`.
    """
    with open_slide(path) as slide:
        size = slide.pixel_size
        return {
            "file": os.fspath(path),
            "vendor": slide.vendor,
            "size": list(slide.size),
            "pixel_size": None if size is None else {"x": size.x, "y": size.y, "source": size.source},
            "objective_power": slide.objective_power,
            "levels": [
                {"size": [level.width, level.height], "downsample": level.downsample} for level in slide.levels
            ],
            "associated_images": {name: list(shape) for name, shape in slide.associated.items()},
            "color_profile": slide.has_color_profile,
        }


def format_slide(record: dict[str, Any]) -> str:
    """The lines that `cfsam info` prints for a description."""
    width, height = record["size"]
    size = record["pixel_size"]
    if size is None:
        pixel_size, extent = "not stated; give it with --mpp", ""
    else:
        pixel_size = f"{size['x']:.4g} x {size['y']:.4g} micrometres ({size['source']})"
        extent = f", {width * size['x'] / 1000:.3g} x {height * size['y'] / 1000:.3g} mm"
    power = record["objective_power"]
    lines = [
        ("slide", record["file"]),
        ("format", record["vendor"]),
        ("size", f"{width} x {height} px{extent}"),
        ("pixel size", pixel_size),
        ("objective", "not stated" if power is None else f"{power:g}x"),
    ]
    for number, level in enumerate(record["levels"]):
        across, down = level["size"]
        lines.append((f"level {number}", f"{across} x {down} px, reduced {level['downsample']:.4g} times"))
    images = ", ".join(f"{name} ({w} x {h} px)" for name, (w, h) in record["associated_images"].items())
    lines.append(("other images", images or "none"))
    lines.append(("colour profile", "present, not applied" if record["color_profile"] else "none"))
    return "\n".join(f"{name + ':':<16}{text}" for name, text in lines)
