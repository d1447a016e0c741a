"""The definition, transcribed slowly and literally, one cell at a time, in double precision.

This is what "correct" means in the tests. It shares no code with `mnndask` and is written to be checked by
eye against Haghverdi et al. (2018) and batchelor's `mnnCorrect`: direct differences instead of expanded
squares, a Python loop over cells. Beside the corrected values it says which cells are *undecided*: those for
which a yes or no of the definition hangs on less than rounding, to which no implementation can be held.
"""

from dataclasses import dataclass, field

import numpy as np
from transcription_refined import averaged, refined_pairs, shrink_factors
from transcription_steps import mutual_pairs, smooth


@dataclass
class Precision:
    """What counts as equal (part of the definition), and how far rounding may carry an implementation."""

    pair_tie: float  # of the cell's squared norm (or the median norm)
    projection_tie: float  # of the scale
    rounding: float  # of the scale, in differences and projections
    allowed: float  # of the largest value, in the result
    reach_tie: float = 1e-12  # of the total weight


DOUBLE = Precision(pair_tie=1e-10, projection_tie=1e-11, rounding=1e-13, allowed=1e-10)
SINGLE = Precision(pair_tie=1e-6, projection_tie=1e-11, rounding=9e-7, allowed=1e-4)


@dataclass
class Transcript:
    corrected: list[np.ndarray]
    undecided: list[np.ndarray]
    pairs_of_merges: dict[int, list[tuple[int, set[tuple[int, int]]]]]  # batch -> number of merge, pairs
    angles: dict[int, np.ndarray] = field(default_factory=dict)
    factors: dict[int, np.ndarray] = field(default_factory=dict)  # merge -> by which vectors were shrunk

    @property
    def pairs(self):
        """Pairs of a batch that moves once: (row of the accumulated reference, row of the batch)."""
        return {b: pairs for b, ((_, pairs),) in self.pairs_of_merges.items()}


def transcribe(  # noqa: C901
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
    refine=False,
    pair_averaging=None,
    repair_sigmas=None,
    shrinkage=1.0,
    mnn_order=None,
    reference_rows=None,
    precision=DOUBLE,
):
    """Correct `batches` (cells × genes) by the definition; `subset` and `restrict` are columns and rows.

    `mnn_order` may be nested. `reference_rows` are the rows of the accumulated reference (of restricted
    cells) that a batch's step uses.
    """
    batches = [np.asarray(b, dtype=np.float64) for b in batches]
    genes = np.arange(batches[0].shape[1]) if subset is None else np.sort(subset)
    order = list(range(len(batches))) if mnn_order is None else list(mnn_order)
    used = [np.arange(len(b)) for b in batches]
    for i, rows in enumerate(restrict or []):
        used[i] = used[i] if rows is None else np.sort(rows)

    ins, outs = [], []
    for batch in batches:  # step 1
        length = np.array([max(np.sqrt(np.sum(cell[genes] ** 2)), 1e-8) for cell in batch])[:, None]
        ins.append(batch[:, genes] / length if cos_norm_in else batch[:, genes])
        outs.append(batch / length if cos_norm_out else batch)

    every = range(len(batches))
    scale_in = max(np.linalg.norm(ins[b][used[b]], axis=1).max() for b in every)
    scale_out = max(np.linalg.norm(outs[b][used[b]][:, genes], axis=1).max() for b in every)
    corrected, moved_in = [o.copy() for o in outs], [i.copy() for i in ins]  # as they stand
    undecided = [np.zeros(len(b), dtype=bool) for b in batches]
    norms = [np.linalg.norm(ins[b][used[b]], axis=1) for b in range(len(batches))]
    sizes = [
        np.maximum(norm, np.median(np.concatenate(norms))) for norm in norms
    ]  # what rounding is relative to
    pairs, angles, factors, doubt = {}, {}, {}, False

    for number, (left, right) in enumerate(merges_of(order)[0]):  # step 2
        starts = np.cumsum([0, *(len(batches[b]) for b in left)])
        ref_in = np.vstack([moved_in[b][used[b]] for b in left])
        ref_out = np.vstack([corrected[b][used[b]] for b in left])
        ref_size = np.concatenate([sizes[b] for b in left])
        ref_row = np.concatenate([start + used[b] for start, b in zip(starts, left, strict=False)])
        new_in = np.vstack([moved_in[b][used[b]] for b in right])
        new_out = np.vstack([corrected[b][used[b]] for b in right])
        new_size = np.concatenate([sizes[b] for b in right])
        new_cell = [(b, int(row)) for b in right for row in used[b]]
        if right[0] in (reference_rows or {}):
            ref_in, ref_out, ref_size, ref_row = (
                whole[reference_rows[right[0]]] for whole in (ref_in, ref_out, ref_size, ref_row)
            )
        found, pairs_in_doubt = mutual_pairs(ref_in, ref_size, new_in, new_size, k, precision)  # step 3
        if refine:
            sides = ref_in, ref_size, new_in, new_size
            found, refined_in_doubt = refined_pairs(*sides, found, k, repair_sigmas, precision)
            pairs_in_doubt |= refined_in_doubt
        doubt |= pairs_in_doubt
        for b in right:
            own = [(r, new_cell[t][1]) for r, t in found if new_cell[t][0] == b]
            pairs.setdefault(b, []).append((number, {(int(ref_row[r]), row) for r, row in own}))

        anchors = sorted({t for _, t in found})  # step 4
        partners = {t: [r for r, u in found if u == t] for t in anchors}
        v_in = [np.mean([ref_in[r] - new_in[t] for r in partners[t]], axis=0) for t in anchors]
        v_out = [np.mean([ref_out[r] - new_out[t] for r in partners[t]], axis=0) for t in anchors]

        near = new_in[anchors]  # step 5
        density = [sum(np.exp(-np.sum((a - o) ** 2) / sigma) for o in near) for a in near]
        if refine:
            U, T, means_in_doubt = averaged(*sides, found, pair_averaging, precision)
            f, errors, edges = shrink_factors(
                U, T, ref_in, new_in, anchors, density, sigma, shrinkage, precision
            )
            v_out = U @ ref_out - T @ new_out
            wrong = max(error * np.abs(v).max() for error, v in zip(errors, v_out, strict=True))
            v_in, v_out = f[:, None] * (U @ ref_in - T @ new_in), f[:, None] * v_out
            factors[number] = f
            doubt |= means_in_doubt or (edges and var_adj)  # variance adjustment lengthens all but 0
            doubt |= bool(wrong > 0.1 * precision.allowed * scale_out)

        for b in right:
            c_in, c_out = moved_in[b].copy(), corrected[b].copy()
            V_in = np.array([smooth(c, near, density, v_in, sigma) for c in c_in])
            V_out = np.array([smooth(c, near, density, v_out, sigma) for c in c_in])

            if compute_angle:  # step 6
                angles[b] = angles_to_reference(V_in, ref_in)
            if svd_dim:  # step 7
                for paired, in_, out in (
                    (sorted({r for r, _ in found}), ref_in, ref_out),
                    (anchors, new_in, new_out),
                ):
                    V_in, doubt_in = remove_span(V_in, in_[paired], np.arange(len(genes)), svd_dim, scale_in)
                    V_out, doubt_out = remove_span(V_out, out[paired], genes, svd_dim, scale_out)
                    doubt |= doubt_in | doubt_out
            undecided[b] |= doubt
            if var_adj:  # step 8
                V_in, unsure_in = adjust(c_in, V_in, V_in, ref_in, new_in, sigma, scale_in, precision)
                V_out, unsure_out = adjust(
                    c_out[:, genes],
                    V_out[:, genes],
                    V_out,
                    ref_out[:, genes],
                    new_out[:, genes],
                    sigma,
                    scale_out,
                    precision,
                )
                undecided[b] |= unsure_out
                doubt |= bool((unsure_in | unsure_out)[used[b]].any())  # of all that this is reference to

            moved_in[b], corrected[b] = c_in + V_in, c_out + V_out  # step 9
            sizes[b] = np.maximum(sizes[b], np.linalg.norm(moved_in[b][used[b]], axis=1))
    return Transcript(corrected, undecided, pairs, angles, factors)


def merges_of(order):
    """Batches of both sides of each merge, and all batches, of nested lists; what moves is merged first."""
    if not isinstance(order, list | tuple):
        return [], [order]
    parts = [merges_of(part) for part in order]
    merges = [merge for own, _ in reversed(parts) for merge in own]
    reference = parts[0][1]
    for _, moving in parts[1:]:
        merges.append((reference, moving))
        reference = reference + moving
    return merges, reference


def angles_to_reference(V, ref):
    U, s, _ = np.linalg.svd((ref - ref.mean(axis=0)).T, full_matrices=False)
    basis = U[:, :2][:, s[:2] > 1e-12 * s[0]]
    out = np.full(len(V), np.nan)
    for i, v in enumerate(V):
        if np.any(v):
            inside = basis @ (basis.T @ v)
            out[i] = np.degrees(np.arctan2(np.linalg.norm(v - inside), np.linalg.norm(inside)))
    return out


def remove_span(V, cells, genes, svd_dim, scale):
    """Project out the span of `cells`; in doubt where the last kept and the next singular value are alike."""
    centred = (cells - cells.mean(axis=0)).T
    U, s, Wt = np.linalg.svd(centred[genes], full_matrices=False)
    kept = min(svd_dim, int(np.sum(s > 1e-11 * scale)))
    in_doubt = 0 < kept < len(s) and s[kept - 1] - s[kept] < 1e-3 * s[0]
    loadings = centred @ Wt[:kept].T / s[:kept]
    loadings[genes] = U[:, :kept]
    out = V - (V[:, genes] @ U[:, :kept]) @ loadings.T
    nothing = np.linalg.norm(out[:, genes], axis=1) <= 1e-12 * np.linalg.norm(V[:, genes], axis=1)
    out[np.ix_(nothing, genes)] = 0
    return out, bool(in_doubt)


def adjust(cells, V, V_all, ref, new, sigma, scale, precision):
    """Lengthen each row of `V_all` by the factor that its part `V`, on the genes of `cells`, asks for."""
    out, undecided = V_all.copy(), np.zeros(len(cells), dtype=bool)
    for i, (c, v) in enumerate(zip(cells, V, strict=True)):
        largest = np.abs(v).max()
        length = largest and largest * np.linalg.norm(v / largest)  # squares of what is tiny would vanish
        if length == 0:
            continue
        g = v / length
        own = c @ g
        proj_new, w_new = projections_and_weights(c, g, new, sigma)
        proj_ref, w_ref = projections_and_weights(c, g, ref, sigma)
        below = proj_new <= own + precision.projection_tie * scale
        share = w_new[below].sum() / w_new.sum()
        q = quantile(proj_ref, w_ref, share - precision.reach_tie)
        out[i] = V_all[i] * max(1.0, (q - own) / length)

        # Rounding of v turns g; that blurs projections, weights and the cumulative share.
        blur = min(1e3, precision.rounding * max(1.0, 0.01 * scale / length))  # beyond, all is blurred
        gap = np.abs(proj_new - own - precision.projection_tie * scale)
        edge = (gap < blur * scale) & (np.abs(new - c).max(axis=1) > 1e-9 * scale)
        slack = w_new[edge].sum() / w_new.sum() + blur * max(1.0, scale**2 / sigma) * min(
            share, 1 - share + 1e-3
        )
        reached = [quantile(proj_ref, w_ref, share - precision.reach_tie + d) for d in (-slack, slack)]
        factors = [max(1.0, (r - own) / length) for r in reached]
        moved = (max(factors) - min(factors)) * np.abs(V_all[i]).max()
        turned = blur * (max(factors) - 1) * np.abs(V_all[i]).max()
        largest = max(np.abs(cells).max(), np.abs(V_all[i]).max(), scale)
        undecided[i] = moved + turned > 0.1 * precision.allowed * largest
    return out, undecided


def projections_and_weights(c, g, others, sigma):
    gaps = others - c
    log_weights = -np.maximum(np.sum(gaps**2, axis=1) - (gaps @ g) ** 2, 0) / sigma
    return others @ g, np.exp(log_weights - log_weights.max())


def quantile(projections, weights, share):
    """First projection at which the cumulative weight reaches a share of it; the largest if none does."""
    ranked = np.lexsort((weights, projections))
    reached = np.flatnonzero(np.cumsum(weights[ranked]) >= share * weights.sum())
    return projections[ranked[reached[0]]] if len(reached) else projections.max()
