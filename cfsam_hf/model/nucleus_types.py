"""The nucleus types of a configuration: their number, names and colours, made to agree."""

DEFAULT_TYPE_COLORS = (
    "#009e73",
    "#d55e00",
    "#0072b2",
    "#f0e442",
    "#56b4e9",
    "#e69f00",
    "#cc79a7",
)
"""Okabe and Ito's palette, told apart by colour-blind readers too, in an order that stands out on pink and purple."""


def default_type_color(type_id: int) -> str:
    """Colour `#rrggbb` of type 1, 2, ...; they repeat after the seventh."""
    return DEFAULT_TYPE_COLORS[(type_id - 1) % len(DEFAULT_TYPE_COLORS)]


def rgb(color: str) -> tuple[int, int, int]:
    """`#rrggbb` to numbers 0..255.

    >>> rgb("#0072b2")
    (0, 114, 178)
    """
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


class NucleusTypesMixin:
    """For a configuration class with the fields `num_types`, `id2label`, `label2id` and `type_colors`."""

    def _resolve_types(self) -> None:
        """Makes `num_types`, `id2label`, `label2id` and `type_colors` agree."""
        # A plain SAM configuration carries the meaningless default names LABEL_0, LABEL_1.
        names = {} if self.id2label is None else {i: n for i, n in self.id2label.items() if n != f"LABEL_{i}"}
        names.pop(0, None)
        if self.num_types is None:
            self.num_types = 0 if list(names.values()) == ["nucleus"] else len(names)
        if self.num_types < 0:
            raise ValueError(f"num_types must be 0 or more, got {self.num_types}.")
        if self.num_types == 0:
            if names not in ({}, {1: "nucleus"}):
                raise ValueError(f"num_types is 0 but id2label names the types {names}; leave one of the two out.")
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

    @property
    def type_names(self) -> dict[int, str]:
        """Names of the types by id 1..T; empty when the model does not type nuclei."""
        return {i: name for i, name in self.id2label.items() if 1 <= i <= self.num_types}
