"""What `refine=True` adds to the definition, transcribed slowly and literally, in double precision.

Pairs are found again after the batch has moved by them, both sides of a pair are averaged, and vectors are
shrunk by their own noise. It shares no code with `mnndask`. Beside each result it says whether rounding could
change it.
"""

import numpy as np
from transcription_steps import mutual_pairs, nearest, smooth


def refined_pairs(ref, ref_size, new, new_size, found, k, sigmas, precision):
    n = min(len(new), len(ref))
    m = min(25, max(5, n // 200))
    if sigmas is None:
        sigmas = [1.0, 0.3, 0.15] if n >= 2000 else [1.0, 0.3]
    doubt = False
    for sigma in sigmas:
        anchors, partners = partners_of(found)
        v = [np.mean([ref[r] for r in partners[t]], axis=0) - new[t] for t in anchors]
        near = new[anchors]
        density = [sum(np.exp(-np.sum((a - o) ** 2) / sigma) for o in near) for a in near]
        moved = np.array([c + smooth(c, near, density, v, sigma) for c in new])
        size = np.maximum(new_size, np.linalg.norm(moved, axis=1))
        numbers = k * len(new) // n, k * len(ref) // n  # as far apart on both sides
        found, unsure = mutual_pairs(ref, ref_size, moved, size, numbers, precision)
        doubt |= unsure

        kept = []
        for r, t in found:
            squared = np.sum((ref[r] - moved[t]) ** 2)
            scale = max(ref_size[r], size[t]) ** 2
            limit = 1.2**2 * max(radius(ref, r, m), radius(moved, t, m)) ** 2 + precision.pair_tie * scale
            doubt |= abs(squared - limit) < precision.rounding * scale
            if squared <= limit:
                kept.append((r, t))
        if len(kept) >= 0.1 * len(found):
            found = kept
    return found, bool(doubt)


def partners_of(found):
    anchors = sorted({t for _, t in found})
    return anchors, {t: [r for r, u in found if u == t] for t in anchors}


def radius(cells, i, m):
    """Distance of a cell to its m-th nearest other cell; to the farthest if there are fewer."""
    distances = sorted(np.linalg.norm(cells[i] - other) for j, other in enumerate(cells) if j != i)
    return distances[min(m, len(distances)) - 1] if distances else 0.0


def neighborhoods(cells, sizes, rows, n, precision):
    """The n nearest cells to each of some cells, which are among them."""
    found = {
        i: nearest(cells[i], cells, n, precision.pair_tie * sizes[i] ** 2, precision.rounding * sizes[i] ** 2)
        for i in rows
    }
    return {i: sorted(own) for i, (own, _) in found.items()}, any(unsure for _, unsure in found.values())


def averaged(ref, ref_size, new, new_size, found, n_averaged, precision):
    """Sparse U and T as dense matrices: vectors are U R - T P in any genes."""
    n = min(len(new), len(ref))
    few = min(50, max(10, n // 100))
    n_new, n_ref = (
        min(50, few * len(side) // n) if n_averaged is None else n_averaged for side in (new, ref)
    )
    anchors, partners = partners_of(found)
    of_ref, unsure_ref = neighborhoods(ref, ref_size, {r for r, _ in found}, n_ref, precision)
    of_new, unsure_new = neighborhoods(new, new_size, anchors, n_new, precision)
    U, T = np.zeros((len(anchors), len(ref))), np.zeros((len(anchors), len(new)))
    for a, t in enumerate(anchors):
        for i in of_new[t]:
            T[a, i] += 1 / len(of_new[t])
        for r in partners[t]:
            for j in of_ref[r]:
                U[a, j] += 1 / len(of_ref[r]) / len(partners[t])
    return U, T, unsure_ref or unsure_new


def shrink_factors(U, T, ref, new, anchors, density, sigma, shrinkage, precision):
    """Factor of each anchor, how wrong rounding may make it, and whether it may make one 0 or not."""
    v, near = U @ ref - T @ new, new[anchors]
    factors, errors, edges = np.ones(len(anchors)), np.zeros(len(anchors)), False
    for i, a in enumerate(near):
        w = np.array([smooth(a, near, density, unit, sigma) for unit in np.eye(len(near))])
        w /= w.sum()
        V, noise, error = w @ v, 0.0, 0.0
        for weights, cells in ((w @ T, new), (w @ U, ref)):
            q = np.sum(weights**2)
            centre = weights @ cells
            spread = max(0.0, np.sum(weights * np.sum((cells - centre) ** 2, axis=1)))
            noise += spread * q / max(1 - q, 0.05)
            error += (
                10 * precision.rounding * np.sum(weights * np.sum(cells**2, axis=1)) * q / max(1 - q, 0.05)
            )
        length = np.sum(V**2)
        noise, error = shrinkage * noise, shrinkage * error
        if noise > 0:
            factors[i] = max(0.0, 1 - noise / length) if length > noise else 0.0
            blur = error + 10 * precision.rounding * np.sqrt(length * np.sum(new**2, axis=1).max())
            errors[i] = min(1.0, blur / length) if length + blur > noise - blur and length > 0 else 0.0
            edges |= bool(abs(length - noise) <= blur)
    return factors, errors, edges
