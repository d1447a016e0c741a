"""Steps of the definition that the transcription and its refinement share: neighbours, smoothing."""

import numpy as np


def nearest(query, others, k, tie, rounding):
    """Rows of `others` nearest to `query`, ties to the lower index; whether rounding could change them."""
    squared = np.array([np.sum((query - o) ** 2) for o in others])
    if k >= len(others):
        return set(range(len(others))), False
    kth = np.sort(squared)[k - 1]
    sure = [i for i in range(len(others)) if squared[i] < kth - tie]
    tied = [i for i in range(len(others)) if abs(squared[i] - kth) <= tie]
    in_doubt = np.any(np.abs(np.abs(squared - kth) - tie) < rounding)
    return set(sure + tied[: k - len(sure)]), bool(in_doubt)


def mutual_pairs(ref, ref_size, new, new_size, k, precision):
    """`k` is a number for both sides, or that among new cells and that among the reference's."""
    among_new, among_ref = (k, k) if isinstance(k, int) else k

    def neighbours(queries, sizes, others, k):
        return [
            nearest(q, others, k, precision.pair_tie * size**2, precision.rounding * size**2)
            for q, size in zip(queries, sizes, strict=True)
        ]

    of_new, of_ref = neighbours(new, new_size, ref, among_ref), neighbours(ref, ref_size, new, among_new)
    found = [(r, t) for t in range(len(new)) for r in sorted(of_new[t][0]) if t in of_ref[r][0]]
    return found, any(in_doubt for _, in_doubt in of_new + of_ref)


def smooth(cell, anchors, density, vectors, sigma):
    log_weight = np.array(
        [-np.sum((cell - a) ** 2) / sigma - np.log(d) for a, d in zip(anchors, density, strict=True)]
    )
    weight = np.exp(log_weight - log_weight.max())
    return np.sum([w * v for w, v in zip(weight, vectors, strict=True)], axis=0) / weight.sum()
