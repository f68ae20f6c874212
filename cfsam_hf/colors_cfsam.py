"""The colours of nucleus types that come without one."""

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
