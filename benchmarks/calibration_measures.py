"""Measures of `benchmarks.calibration`: what a correction of one batch's parts changed."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from mnndask.core.cosine import cosine_lengths

K = 30
N_COMPONENTS = 50
FALSE_DISCOVERIES = 0.05  # expected share among the genes that are said to differ between types


def in_scale(X: np.ndarray, scale: str) -> np.ndarray:
    """Log-normalised cells as they are, or divided by their lengths."""
    return X / cosine_lengths(X)[:, None].astype(X.dtype) if scale == "cosine" else X


def components_of(X: np.ndarray, seed: int) -> PCA:
    return PCA(min(N_COMPONENTS, *X.shape), random_state=seed, svd_solver="arpack").fit(X)


def clusters(X: np.ndarray, types: np.ndarray) -> np.ndarray:
    """K-means clusters, begun at the means of types, so that they differ only as far as cells moved."""
    centers = np.stack([X[types == one].mean(axis=0) for one in np.unique(types)])
    return np.asarray(KMeans(len(centers), init=centers, n_init=1, random_state=0).fit_predict(X))


def changes(before: np.ndarray, after: np.ndarray, moving: np.ndarray, types: np.ndarray) -> dict[str, float]:
    """Movement of cells in their components, and of their neighbours; `moving` cells may move at all."""
    old, new = (cdist(X, X) for X in (before, after))
    for distances in (old, new):
        np.fill_diagonal(distances, -1)  # the cell itself comes first
    moved = np.linalg.norm(after - before, axis=1) / np.maximum(np.sort(old, axis=1)[:, 1], 1e-12)
    k, rows = min(K, len(old) // 3), np.arange(len(old))[:, None]
    nearest = np.argsort(old, axis=1, kind="stable")[:, 1 : k + 1]
    ranks = np.argsort(np.argsort(new, axis=1, kind="stable"), axis=1)[rows, nearest]
    return {
        "displacement": float(moved[moving].mean()),
        "rank": float(np.median(np.abs(ranks - np.arange(1, k + 1)))),
        "kept": float((ranks <= k).mean()),
        "clusters": float(adjusted_rand_score(clusters(before, types), clusters(after, types))),
    }


def markers(X: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Which genes differ between each type and the others (Welch's t-test), shape ``(n_types, n_genes)``."""
    found = []
    for one in np.unique(types):
        own = types == one
        if min(own.sum(), (~own).sum()) > 2:
            p = stats.ttest_ind(X[own], X[~own], equal_var=False).pvalue
            found.append(stats.false_discovery_control(np.nan_to_num(p, nan=1.0)) <= FALSE_DISCOVERIES)
    return np.array(found)


def same_markers(before: np.ndarray, after: np.ndarray, types: np.ndarray) -> float:
    """Genes that differ between types before and after, as a share of those that differ at either time."""
    old, new = markers(before, types), markers(after, types)
    return float((old & new).sum() / max(1, (old | new).sum()))


def effect_left(
    states: tuple[np.ndarray, np.ndarray, np.ndarray], types: np.ndarray, second: np.ndarray
) -> float:
    """Share of the effect's squared length that is left between two parts, over types and their cells.

    States are the cells without the effect, with it, and corrected; `second` is the part that has it.
    """
    squares = np.zeros(2)
    for one in np.unique(types):
        own, other = (types == one) & second, (types == one) & ~second
        if own.any() and other.any():
            without, with_, after = (X[own].mean(axis=0) - X[other].mean(axis=0) for X in states)
            squares += own.sum() * np.array([((after - without) ** 2).sum(), ((with_ - without) ** 2).sum()])
    return float(squares[0] / squares[1])
