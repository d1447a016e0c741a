"""The definition, transcribed slowly and literally, one cell at a time, in float64.

This is what "correct" means in the tests. It shares no code with `mnndask` and is written to be checked by
eye against Haghverdi et al. (2018) and batchelor's `mnnCorrect`: direct differences instead of expanded
squares, a Python loop over cells, sorting by hand. Beside the corrected values it says which cells are
*undecided*: those for which some yes/no of the definition hangs on less than rounding.
"""

from dataclasses import dataclass, field

import numpy as np

PAIR_TIE = 1e-10  # of the squared scale
PROJECTION_TIE = 1e-11  # of the scale
REACH_TIE = 1e-12  # of the total weight


@dataclass
class Transcript:
    corrected: list[np.ndarray]
    undecided: list[np.ndarray]
    pairs: dict[int, list[tuple[int, int]]]  # batch -> (row of the accumulated reference, row of the batch)
    angles: dict[int, np.ndarray] = field(default_factory=dict)


def transcribe(
    batches,
    *,
    subset=None,
    restrict=None,
    k=20,
    sigma=1.0,
    cos_norm_in=True,
    cos_norm_out=True,
    svd_dim=None,
    var_adj=True,
    compute_angle=False,
    mnn_order=None,
    noise=1e-14,
    pair_tie=PAIR_TIE,
):
    """Correct `batches` by the definition; `noise` is the relative rounding error that decides what is undecided."""
    batches = [np.asarray(b, dtype=np.float64) for b in batches]
    n_genes = batches[0].shape[1]
    genes = np.arange(n_genes) if subset is None else np.asarray(subset)
    order = list(range(len(batches))) if mnn_order is None else list(mnn_order)
    used = [
        np.arange(len(b)) if restrict is None or restrict[i] is None else np.sort(restrict[i])
        for i, b in enumerate(batches)
    ]

    ins, outs = [], []
    for batch in batches:
        length = np.array([max(np.sqrt(np.sum(cell[genes] ** 2)), 1e-8) for cell in batch])[:, None]
        ins.append(batch[:, genes] / length if cos_norm_in else batch[:, genes])
        outs.append(batch / length if cos_norm_out else batch)

    first = order[0]
    corrected = [o.copy() for o in outs]
    undecided = [np.zeros(len(b), dtype=bool) for b in batches]
    ref_in, ref_out, ref_row = ins[first][used[first]], outs[first][used[first]], used[first]
    n_before = len(batches[first])
    pairs, angles, doubt = {}, {}, False

    for b in order[1:]:
        new_in, new_out = ins[b][used[b]], outs[b][used[b]]
        found, in_doubt = mutual_pairs(ref_in, new_in, k, pair_tie, noise)
        doubt |= in_doubt
        pairs[b] = [(int(ref_row[r]), int(used[b][t])) for r, t in found]
        anchors = sorted({t for _, t in found})
        partners = {t: [r for r, u in found if u == t] for t in anchors}
        v_in = [np.mean([ref_in[r] - new_in[t] for r in partners[t]], axis=0) for t in anchors]
        v_out = [np.mean([ref_out[r] - new_out[t] for r in partners[t]], axis=0) for t in anchors]
        near = new_in[anchors]
        density = [sum(np.exp(-np.sum((a - o) ** 2) / sigma) for o in near) for a in near]
        V_in = np.array([smooth(c, near, density, v_in, sigma) for c in ins[b]])
        V_out = np.array([smooth(c, near, density, v_out, sigma) for c in ins[b]])
        if compute_angle:
            angles[b] = angles_to_reference(V_in, ref_in)
        if svd_dim:
            for paired, space in ((sorted({r for r, _ in found}), "ref"), (anchors, "new")):
                X_in, X_out = (ref_in, ref_out) if space == "ref" else (new_in, new_out)
                V_in = remove_span(V_in, X_in[paired], np.arange(len(genes)), svd_dim)
                V_out = remove_span(V_out, X_out[paired], genes, svd_dim)
        if var_adj:
            V_in, unsure_in = adjust(ins[b], V_in, V_in, ref_in, new_in, sigma, noise)
            V_out, unsure_out = adjust(
                outs[b][:, genes], V_out[:, genes], V_out, ref_out[:, genes], new_out[:, genes], sigma, noise
            )
            undecided[b] |= unsure_out
        if doubt:
            undecided[b][:] = True
        corrected[b] = outs[b] + V_out
        if var_adj:  # a doubtful reference cell makes all that follows doubtful
            doubt |= bool((unsure_in | unsure_out)[used[b]].any())
        ref_in = np.vstack([ref_in, (ins[b] + V_in)[used[b]]])
        ref_out = np.vstack([ref_out, corrected[b][used[b]]])
        ref_row = np.concatenate([ref_row, n_before + used[b]])
        n_before += len(batches[b])
    return Transcript(corrected, undecided, pairs, angles)


def scale_of(*matrices):
    return max(np.sqrt((m**2).sum(axis=1)).max() for m in matrices)


def nearest(query, others, k, tie, noise):
    """Rows of `others` nearest to `query`, ties to the lower index; whether rounding could change them."""
    squared = np.array([np.sum((query - o) ** 2) for o in others])
    if k >= len(others):
        return set(range(len(others))), False
    kth = np.sort(squared)[k - 1]
    sure = [i for i in range(len(others)) if squared[i] < kth - tie]
    tied = [i for i in range(len(others)) if abs(squared[i] - kth) <= tie]
    on_the_edge = np.any(np.abs(np.abs(squared - kth) - tie) < noise)
    return set(sure + tied[: k - len(sure)]), bool(on_the_edge)


def mutual_pairs(ref, new, k, tie, noise):
    squared_scale = scale_of(ref, new) ** 2
    of_new = [nearest(t, ref, k, tie * squared_scale, noise * squared_scale) for t in new]
    of_ref = [nearest(r, new, k, tie * squared_scale, noise * squared_scale) for r in ref]
    found = [(r, t) for t in range(len(new)) for r in sorted(of_new[t][0]) if t in of_ref[r][0]]
    return found, any(edge for _, edge in of_new + of_ref)


def smooth(cell, anchors, density, vectors, sigma):
    log_weight = np.array(
        [-np.sum((cell - a) ** 2) / sigma - np.log(d) for a, d in zip(anchors, density, strict=True)]
    )
    weight = np.exp(log_weight - log_weight.max())
    return np.sum([w * v for w, v in zip(weight, vectors, strict=True)], axis=0) / weight.sum()


def angles_to_reference(V, ref):
    basis = np.linalg.svd((ref - ref.mean(axis=0)).T, full_matrices=False)[0][:, :2]
    out = np.full(len(V), np.nan)
    for i, v in enumerate(V):
        if np.any(v):
            cosine = np.linalg.norm(basis.T @ v) / np.linalg.norm(v)
            out[i] = np.degrees(np.arccos(min(cosine, 1.0)))
    return out


def remove_span(V, cells, genes, svd_dim):
    centred = (cells - cells.mean(axis=0)).T
    U, s, Wt = np.linalg.svd(centred[genes], full_matrices=False)
    kept = min(svd_dim, int(np.sum(s > s[0] * max(centred[genes].shape) * np.finfo(float).eps)) if s[0] > 0 else 0)
    loadings = centred @ Wt[:kept].T / s[:kept]
    loadings[genes] = U[:, :kept]
    return V - (V[:, genes] @ U[:, :kept]) @ loadings.T


def adjust(cells, V, V_all, ref, new, sigma, noise):
    """Scale each row of `V_all` by the factor that its part `V` on the genes of `cells` asks for."""
    scale = scale_of(ref, new)
    out, undecided = V_all.copy(), np.zeros(len(cells), dtype=bool)
    for i, (c, v) in enumerate(zip(cells, V, strict=True)):
        length = np.linalg.norm(v)
        if length == 0:
            continue
        g = v / length
        own = c @ g
        blur = max(noise, 1e-15 * scale / length)  # rounding of v turns g

        def log_weights(others, c=c, g=g):
            gaps = others - c
            return -np.maximum(np.sum(gaps**2, axis=1) - (gaps @ g) ** 2, 0) / sigma

        lw_new, lw_ref = log_weights(new), log_weights(ref)
        proj_new, proj_ref = new @ g, ref @ g
        below = proj_new <= own + PROJECTION_TIE * scale
        edge_of_own = np.abs(proj_new - own - PROJECTION_TIE * scale) < min(blur, 0.5 * PROJECTION_TIE) * scale
        if noise > 1e-12:  # single precision: anything that near but the cell itself
            edge_of_own = (np.abs(proj_new - own) < blur * scale) & (np.abs(new - c).max(axis=1) > noise * scale)
        w_new = np.exp(lw_new - lw_new.max())
        w_ref = np.exp(lw_ref - lw_ref.max())
        share = w_new[below].sum() / w_new.sum()
        ranked = np.lexsort((lw_ref, proj_ref))
        reached = np.cumsum(w_ref[ranked]) / w_ref.sum() - share
        at = np.flatnonzero(reached >= -REACH_TIE)
        q = proj_ref[ranked[at[0]]] if len(at) else proj_ref.max()
        out[i] = v_all = V_all[i] * max(1.0, (q - own) / length)
        # would the answer move if the decisions fell the other way?
        blur_of_weight = 4 * blur * max(1.0, scale**2 / sigma)
        swing = w_new[edge_of_own].sum() / w_new.sum() + blur_of_weight
        near = np.flatnonzero(np.abs(reached + REACH_TIE) < max(swing, 0))
        if len(near):
            stop = proj_ref[ranked[[max(near[0] - 0, 0), min(near[-1] + 1, len(ranked) - 1)]]]
            moves = [V_all[i] * max(1.0, (s - own) / length) - v_all for s in stop]
            undecided[i] = max(np.abs(m).max() for m in moves) > max(noise, 1e-11) * scale
        if blur > 1e-11 and q - own > length:
            undecided[i] = undecided[i] or noise < 1e-12
    return out, undecided
