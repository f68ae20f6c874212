"""What every output file says about its making, and the names and colours of the types in it."""

from dataclasses import dataclass
from typing import Any

from ..model.result import UNTYPED_NAME, NucleiResult, complete_colors


@dataclass(frozen=True)
class TypeStyle:
    """How one nucleus type is named and coloured: `type_id` (0 where the model does not type), `name`, `color` RGB."""

    type_id: int
    name: str
    color: tuple[int, int, int]


def type_styles(result: NucleiResult) -> list[TypeStyle]:
    """The types that the result's model knows, in the order of their ids, whether or not a nucleus has them.

    A model without types gives one style, with the id 0 and the name `nucleus`.
    """
    names = result.type_names or {0: UNTYPED_NAME}
    colors = complete_colors(result.type_names, result.type_colors)
    return [TypeStyle(int(i), str(name), tuple(int(c) for c in colors[i])) for i, name in sorted(names.items())]


def provenance(result: NucleiResult) -> dict[str, Any]:
    """A JSON-ready record: software and version, checkpoint, mpp, image name and size (W, H), the types and colours.

    `mpp` is None where the pixel size is not known; there is never a NaN in the record.
    """
    return {
        "software": "cfsam_hf",
        "version": result.version,
        "checkpoint": result.checkpoint,
        "mpp": None if result.mpp is None else float(result.mpp),
        "image": result.image_name,
        "image_size": [int(side) for side in result.image_size],
        "nuclei": len(result),
        "types": [{"id": s.type_id, "name": s.name, "color": list(s.color)} for s in type_styles(result)],
    }
