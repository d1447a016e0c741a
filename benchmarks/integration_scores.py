"""Measures of `benchmarks.integration`: scib-metrics' own functions, and those of mnndask."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from mnndask.metrics import label_agreement, label_transfer, lisi, neighbors_kept, same_batch_fraction

SCIB = "scib_metrics"
K = 30
BIO = ("isolated", "nmi", "ari", "silhouette", "clisi")
BATCH = ("bras", "ilisi", "kbet", "connectivity", "pcr")  # both as in scib_metrics.benchmark.Benchmarker
NEIGHBORS = 90  # of LISI there


def ours(X: np.ndarray, before: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    k = min(K, len(X) // 3)
    return {
        "lisi": float(lisi(X, batch, k).mean()),
        "batches_among_30": float(batches_among(X, batch, k).mean()),
        "same_batch": float(same_batch_fraction(X, batch, k).mean()),
        "accuracy": float(label_agreement(X, labels, k).mean()),
        "transfer": float(np.nanmean(label_transfer(X, labels, batch, k))),
        "kept": float(np.nanmean(neighbors_kept(before, X, batch, k))),
    }


def batches_among(X: np.ndarray, batch: np.ndarray, k: int) -> np.ndarray:
    """Inverse Simpson index of batches among the k nearest other cells, all of which weigh the same."""
    found = NearestNeighbors(n_neighbors=k).fit(X).kneighbors(return_distance=False)
    shares = np.stack([(batch[found] == b).mean(axis=1) for b in np.unique(batch)], axis=1)
    return np.asarray(1 / (shares**2).sum(axis=1))


def scib(X: np.ndarray, before: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What scib-metrics' Benchmarker computes by default, and its means; and both LISI of the graph.

    Neighbours are exact rather than approximate. Those of the graph are diffusion_nn's.
    """
    import scib_metrics
    from scib_metrics.utils import diffusion_nn

    X, before = np.ascontiguousarray(X, np.float32), np.ascontiguousarray(before, np.float32)
    near = neighbors(X)
    few = near.subset_neighbors(min(15, near.n_neighbors))
    some = near.subset_neighbors(min(50, near.n_neighbors))
    of_graph = diffusion_nn(few.knn_graph_connectivities, near.n_neighbors - 1)
    clusters = scib_metrics.nmi_ari_cluster_labels_kmeans(X, labels)
    out = {
        "isolated": scib_metrics.isolated_labels(X, labels, batch),
        "nmi": clusters["nmi"],
        "ari": clusters["ari"],
        "silhouette": scib_metrics.silhouette_label(X, labels),
        "clisi": scib_metrics.clisi_knn(near, labels),
        "bras": scib_metrics.bras(X, labels, batch),
        "ilisi": scib_metrics.ilisi_knn(near, batch),
        "graph_ilisi": scib_metrics.ilisi_knn(of_graph, batch),
        "graph_clisi": scib_metrics.clisi_knn(of_graph, labels),
        "kbet": scib_metrics.kbet_per_label(some, batch, labels),
        "connectivity": scib_metrics.graph_connectivity(few, labels),
        "pcr": scib_metrics.pcr_comparison(before, X, batch, categorical=True),
    }
    out["bio"] = np.mean([out[name] for name in BIO])
    out["batch"] = np.mean([out[name] for name in BATCH])
    out["total"] = 0.6 * out["bio"] + 0.4 * out["batch"]
    return {name: float(value) for name, value in out.items()}


def neighbors(X: np.ndarray) -> Any:
    """Each cell and its nearest others, as scib-metrics takes them."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    n = min(NEIGHBORS, len(X)) - 1
    distances, indices = NearestNeighbors(n_neighbors=n).fit(X).kneighbors()
    own = np.arange(len(X))[:, None]
    return NeighborsResults(
        indices=np.hstack([own, indices]), distances=np.hstack([np.zeros((len(X), 1)), distances])
    )
