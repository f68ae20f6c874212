"""Nucleus types: names and colours in pictures and files, and consistent fields of a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_TYPE_COLORS = (
    "#009e73",
    "#d55e00",
    "#0072b2",
    "#f0e442",
    "#56b4e9",
    "#e69f00",
    "#cc79a7",
)
"""Okabe and Ito's palette for colour-blind readers, in an order that contrasts with pink and purple."""


def default_type_color(type_id: int) -> str:
    """Colour `#rrggbb` of type 1, 2, ...; colours repeat after the seventh."""
    return DEFAULT_TYPE_COLORS[(type_id - 1) % len(DEFAULT_TYPE_COLORS)]


def rgb(color: str) -> tuple[int, int, int]:
    """Converts `#rrggbb` to numbers 0..255.

    >>> rgb("#0072b2")
    (0, 114, 178)
    """
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


UNTYPED_NAME = "nucleus"
UNTYPED_COLOR = rgb(default_type_color(1))
"""Name and colour of the nuclei of a model without types, whose type id is 0."""


@dataclass(frozen=True)
class TypeStyle:
    """Appearance of a nucleus type: `type_id` (0 for a model without types), `name`, `color` (RGB, 0 to 255)."""

    type_id: int
    name: str
    color: tuple[int, int, int]


def complete_styles(
    type_names: Mapping[int, str], type_colors: Mapping[int, tuple[int, int, int]] | None = None
) -> list[TypeStyle]:
    """The styles of all types in the order of their ids.

    Args:
        type_names: by id; if empty, the only style is that of id 0, named `nucleus`.
        type_colors: RGB by id; a type without one gets the default colour of its id.

    Example:
        >>> complete_styles({1: "tumour", 2: "stroma"}, {2: (9, 9, 9)})[1]
        TypeStyle(type_id=2, name='stroma', color=(9, 9, 9))
    """
    colors = complete_colors(type_names, type_colors)
    names = type_names or {0: UNTYPED_NAME}
    return [TypeStyle(int(i), str(name), colors[i]) for i, name in sorted(names.items())]


def complete_colors(
    type_names: Mapping[int, str], type_colors: Mapping[int, tuple[int, int, int]] | None = None
) -> dict[int, tuple[int, int, int]]:
    """RGB colour of every type in `type_names`, from `type_colors` if it has one; of id 0 if there are no types."""
    given = dict(type_colors or {})
    if not type_names:
        return {0: _as_rgb(given.get(0, UNTYPED_COLOR))}
    return {type_id: _as_rgb(given.get(type_id, rgb(default_type_color(type_id)))) for type_id in type_names}


def _as_rgb(color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in color)
    return red, green, blue


class NucleusTypesMixin:
    """For a configuration class with the fields `num_types`, `id2label`, `label2id` and `type_colors`."""

    num_types: Any
    id2label: Any
    label2id: Any
    type_colors: Any

    def _resolve_types(self) -> None:
        """Makes `num_types`, `id2label`, `label2id` and `type_colors` agree."""
        names = self._given_names()
        if self.num_types is None:
            self.num_types = 0 if list(names.values()) == ["nucleus"] else len(names)
        if self.num_types < 0:
            raise ValueError(f"num_types must be 0 or more, got {self.num_types}.")
        if self.num_types == 0:
            if names not in ({}, {1: "nucleus"}):
                raise ValueError(f"num_types is 0 but id2label names the types {names}; remove one of the two.")
            names = {1: "nucleus"}
        elif not names:
            names = {i: f"type {i}" for i in range(1, self.num_types + 1)}
        if self.num_types and sorted(names) != list(range(1, self.num_types + 1)):
            raise ValueError(
                f"id2label must name the types 1..{self.num_types} (0 is background), got the ids {sorted(names)}."
            )
        if len(set(names.values())) != len(names):
            raise ValueError(f"Two types have the same name in id2label: {names}.")
        self.id2label = {0: "background", **dict(sorted(names.items()))}
        self.label2id = {name: i for i, name in self.id2label.items()}
        if self.type_colors is None:
            self.type_colors = [default_type_color(i) for i in names]
        self.type_colors = list(self.type_colors)
        if len(self.type_colors) != len(names):
            raise ValueError(f"type_colors needs {len(names)} colours, one per type, got {len(self.type_colors)}.")
        for color in self.type_colors:
            if len(color) != 7 or color[0] != "#" or any(c not in "0123456789abcdefABCDEF" for c in color[1:]):
                raise ValueError(f"type_colors must be written #rrggbb, got {color!r}.")

    def _given_names(self) -> dict[int, str]:
        """The names of types in `id2label`, without the meaningless LABEL_0, LABEL_1 of a plain SAM configuration."""
        return {i: name for i, name in (self.id2label or {}).items() if i != 0 and name != f"LABEL_{i}"}

    @property
    def type_names(self) -> dict[int, str]:
        """Names of the types by id 1..T; empty if the model does not classify nuclei."""
        return {i: name for i, name in self.id2label.items() if 1 <= i <= self.num_types}
