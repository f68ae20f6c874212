"""The best one-to-one pairing in a sparse graph of candidates."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

DENSE_LIMIT = 1 << 20
"""Cells of a block's dense cost matrix above which the sparse solver takes over (8 MiB of float64)."""


def best_pairs(left: np.ndarray, right: np.ndarray, gains: np.ndarray, num_left: int, num_right: int) -> np.ndarray:
    """Chooses candidates so that each node is used at most once and the sum of gains is as large as possible.

    Each connected block of the graph is solved separately: a single edge needs no choice, other blocks go to the
    Hungarian algorithm, so the cost depends on the largest block and not on the number of nuclei.

    Args:
        left: (K,) int node on the left of each candidate edge, in [0, num_left).
        right: (K,) int node on the right, in [0, num_right).
        gains: (K,) float gain of taking the edge, positive.
        num_left: number of nodes on the left.
        num_right: number of nodes on the right.

    Returns:
        (M,) int64 sorted indices of the edges taken.

    Example:
        >>> import numpy as np
        >>> best_pairs(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.8, 0.7]), 2, 2).tolist()
        [1, 2]
    """
    if not len(left):
        return np.zeros(0, np.int64)
    size = num_left + num_right
    _, block_of = connected_components(coo_array((np.ones(len(left)), (left, right + num_left)), (size, size)), False)
    edge_block = block_of[left]
    order = np.argsort(edge_block, kind="stable")
    begins = np.flatnonzero(np.diff(edge_block[order], prepend=-1))
    counts = np.diff(begins, append=len(order))

    chosen = [order[begins[counts == 1]]]
    for begin, count in zip(begins[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        edges = order[begin : begin + count]
        chosen.append(edges[_solve_block(left[edges], right[edges], gains[edges])])
    return np.sort(np.concatenate(chosen))


def _solve_block(left: np.ndarray, right: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Indices of the edges taken in one connected block."""
    rows, row = np.unique(left, return_inverse=True)
    columns, column = np.unique(right, return_inverse=True)
    if len(rows) == 1 or len(columns) == 1:
        return np.array([np.argmax(gains)])
    if len(rows) * len(columns) <= DENSE_LIMIT:
        # A missing edge gains nothing, so the assignment may use it to leave a node without a pair.
        edge_at = np.full((len(rows), len(columns)), -1)
        edge_at[row, column] = np.arange(len(gains))
        block = np.zeros(edge_at.shape)
        block[row, column] = gains
        taken = edge_at[linear_sum_assignment(block, maximize=True)]
    else:
        # One spare column per row, at no gain, makes a full matching exist.
        ceiling = 2 * gains.max()
        spare = np.arange(len(rows))
        weights = np.concatenate([ceiling - gains, np.full(len(rows), ceiling)])
        ends = (np.concatenate([row, spare]), np.concatenate([column, len(columns) + spare]))
        graph = coo_array((weights, ends), (len(rows), len(columns) + len(rows))).tocsr()
        matched_row, matched_column = min_weight_full_bipartite_matching(graph)
        code = row * len(columns) + column
        real = matched_column < len(columns)
        by_code = np.argsort(code)
        wanted = matched_row[real] * len(columns) + matched_column[real]
        taken = by_code[np.searchsorted(code, wanted, sorter=by_code)]
    return taken[taken >= 0]
