"""Finds one type per nucleus from the forms in which data sets and results store types."""

from collections.abc import Mapping, Sequence

import numpy as np

from .overlap import OverlapTable, check_label_map

NucleusTypes = Mapping[int, int] | Sequence[int] | np.ndarray
"""Types of one image's nuclei: {id: type}, or (N,) with the type of id i + 1 at i, or an (H, W) type map."""

UNKNOWN_TYPE = -100
"""The type of a true nucleus whose type was not annotated: scores of types leave out both it and the prediction that
matches it. (Type 0 differs: such a nucleus has no type, so a prediction that matches it is a false alarm.)"""


def types_from_map(label_map: np.ndarray, type_map: np.ndarray) -> dict[int, int]:
    """The type of each nucleus by majority of its pixels of types 1..T.

    Args:
        label_map: (H, W) integer ids, 0 background.
        type_map: (H, W) integer types, 0 background, `UNKNOWN_TYPE` where the type is unknown.

    Returns:
        {id: type}; of equally frequent types the lowest. Without a pixel of a type a nucleus has `UNKNOWN_TYPE` where
        any of its pixels has it, else 0.

    Raises:
        TypeError: a map is not an integer array.
        ValueError: a map is not 2-D or holds other negative values, or the shapes differ.

    Example:
        >>> import numpy as np
        >>> types_from_map(np.array([[4, 4, 4, 0, 9]]), np.array([[2, 2, 1, 0, 3]]))
        {4: 2, 9: 3}
    """
    label_map = check_label_map(label_map, "label_map")
    unknown = np.asarray(type_map) == UNKNOWN_TYPE
    type_map = check_label_map(np.where(unknown, 0, type_map) if unknown.any() else type_map, "type_map")
    if label_map.shape != type_map.shape:
        raise ValueError(f"label_map is {label_map.shape} but type_map is {type_map.shape}; they must be one image's")
    inside = label_map != 0
    ids, nucleus = np.unique(label_map[inside], return_inverse=True)
    types, kind = np.unique(type_map[inside], return_inverse=True)
    votes = np.bincount(nucleus * len(types) + kind, minlength=len(ids) * len(types)).reshape(len(ids), len(types))
    if len(types) > 1 and types[0] == 0:
        # Untyped pixels count only if there are no others.
        votes[:, 0] = votes[:, 1:].sum(axis=1) == 0
    winners = types[votes.argmax(axis=1)] if len(ids) else types
    found = dict(zip(ids.tolist(), winners.tolist(), strict=True))
    for nucleus in np.unique(label_map[unknown & inside]).tolist():
        found[nucleus] = found[nucleus] or UNKNOWN_TYPE
    return found


def row_types(
    ids: np.ndarray,
    types: NucleusTypes,
    label_map: np.ndarray | None,
    num_types: int | None,
    name: str,
    *,
    unknown: bool = False,
) -> np.ndarray:
    """(N,) int64 type of each id, from any of the forms of `NucleusTypes`.

    Args:
        ids: (N,) ids, as in an `OverlapTable`.
        types: the types.
        label_map: (H, W), the label map the ids come from; only a type map needs it.
        num_types: highest allowed type, or None.
        name: name of the types in errors.
        unknown: whether a type may be `UNKNOWN_TYPE`.

    Raises:
        TypeError: types are not integers, or a type map came without its label map.
        ValueError: an id without a type, a type out of range.
    """
    if not isinstance(types, Mapping):
        types = np.asarray(types)
        if types.ndim == 2:
            if label_map is None:
                raise TypeError(f"{name} is a type map, which needs the label maps, not a table; give {{id: type}}")
            types = types_from_map(label_map, types)
    if isinstance(types, Mapping):
        missing = [nucleus for nucleus in ids.tolist() if nucleus not in types]
        if missing:
            raise ValueError(f"{name} has no type for id {missing[0]} ({len(missing)} ids without one)")
        found = np.array([types[nucleus] for nucleus in ids.tolist()])
    else:
        if types.ndim != 1:
            raise ValueError(f"{name} must be {{id: type}}, (N,) or an (H, W) type map, got shape {types.shape}")
        if len(ids) and int(ids.max()) > len(types):
            raise ValueError(
                f"{name} holds {len(types)} types (of ids 1 to {len(types)}), but the label map has id {ids.max()}; "
                "give {id: type} where ids have gaps"
            )
        found = types[ids.astype(np.int64) - 1] if len(ids) else types[:0]
    return check_types(found, num_types, name, unknown=unknown)


def check_types(types: np.ndarray, num_types: int | None, name: str, *, unknown: bool = False) -> np.ndarray:
    """(N,) int64 types, each in 0..num_types (0: untyped) or, if `unknown`, `UNKNOWN_TYPE`; or an error naming one."""
    types = np.asarray(types)
    if types.ndim != 1:
        raise ValueError(f"{name} must hold one type per nucleus, got shape {types.shape}")
    if not len(types):
        return np.zeros(0, np.int64)
    if not np.issubdtype(types.dtype, np.integer):
        raise TypeError(f"{name} must be integers (0 untyped, 1..T), got dtype {types.dtype}")
    wrong = types < 0 if num_types is None else (types < 0) | (types > num_types)
    if unknown:
        wrong &= types != UNKNOWN_TYPE
    if wrong.any():
        wrong = types[wrong].min() if types[wrong].min() < 0 else types[wrong].max()
        allowed = f"0..{num_types}" if num_types is not None else "0 or more"
        if unknown:
            allowed += f" and {UNKNOWN_TYPE} (unknown)"
        raise ValueError(f"{name} holds type {wrong}, allowed are {allowed}; map the data set's types first")
    return types.astype(np.int64)


def table_types(
    table: OverlapTable,
    maps: tuple[np.ndarray | None, np.ndarray | None],
    true_types: NucleusTypes,
    pred_types: NucleusTypes,
    num_types: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Types of the true (T,) and of the predicted (P,) rows of a table; `maps` are its label maps, or None each.

    Only a true type may be `UNKNOWN_TYPE`.
    """
    return (
        row_types(table.true_ids, true_types, maps[0], num_types, "true_types", unknown=True),
        row_types(table.pred_ids, pred_types, maps[1], num_types, "pred_types"),
    )
