"""Groups of vectors that point in similar directions."""

import numpy as np
from jaxtyping import Float, Int64
from scipy.cluster.hierarchy import cut_tree, linkage


def cosine_clusters(rows: Float[np.ndarray, "n d"], count: int) -> Int64[np.ndarray, " n"]:
    """Return the number of the group of each vector, by agglomeration with the mean cosine between groups.

    Groups are joined, the most alike first, until `count` are left (average linkage, Sokal and Michener
    1958). They are numbered from 0 in the order of their first vectors.

    Args:
        rows: vectors other than 0.
        count: number of groups; with fewer vectors each is a group of its own.

    """
    if len(rows) <= count:
        return np.arange(len(rows))
    # Unlike fcluster, cut_tree gives as many groups as wanted where several joins are equally near.
    found = cut_tree(linkage(rows.astype(np.float64), "average", "cosine"), [count])[:, 0]
    _, first, place = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place].astype(np.int64)


def mean_cosine(rows: Float[np.ndarray, "n d"]) -> float:
    """Return the mean cosine between two different vectors; 1 for a single one."""
    if len(rows) < 2:
        return 1.0
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    total = float(np.square(units.sum(axis=0)).sum()) - len(rows)
    return total / (len(rows) * (len(rows) - 1))
