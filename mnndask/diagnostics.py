"""What a fit tells of itself: how far cells were moved, who is among whom, and what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask.fit import Fit
from mnndask.kernels.neighbors import Rows
from mnndask.metrics.neighborhoods import nearest
from mnndask.metrics.summary import Comparison
from mnndask.reference import MergeRecord
from mnndask.sampled import Sampled

FEWEST_PAIRED = 0.05  # share of a batch's cells that have a pair, below which it is warned of
FEW_CELLS = 20  # a side of fewer is not warned of: shares of it say little
STILL = 1e-6  # of the largest norm: a correction that is no longer moves nothing
LENGTHENED = 1 + 1e-6
STEP_CELLS = 4_000  # of the reference that a step's mixing is measured with
PAIRS = 2_000  # to be drawn
N_NEIGHBORS = 30

Column = dict[str, float]


@dataclass(frozen=True)
class Diagnostics:
    """Measures of a fit that has run, made of a sample of its cells and of its pairs.

    Parameters
    ----------
    names
        Of the batches.
    order
        In which they were merged.
    sampled
        The cells.
    rows
        Row of each in the result.
    steps
        Of each batch but the reference: what its pairs, lengths and factors say.
    pairs
        Positions in the sample of both cells of some pairs: of the new batch, of the reference.
    still
        Batches in which no cell was moved.
    fewest
        Of each batch but the reference: cells of the smaller side of its step.
    """

    names: list[str]
    order: list[int]
    sampled: Sampled
    rows: Rows
    steps: dict[int, Column]
    pairs: tuple[Rows, Rows]
    still: list[int]
    fewest: dict[int, int]

    @classmethod
    def of(cls, fit: Fit, names: list[str], batch_rows: Sequence[Rows]) -> Diagnostics:
        """Look at a fit; `batch_rows` are the rows of the result that each batch's sketched cells are."""
        sampled = Sampled.of(fit)
        rows = np.concatenate([own[sampled.cell[sampled.batch == b]] for b, own in enumerate(batch_rows)])
        steps = {record.batch: _of_step(fit, record, sampled) for record in fit.records}
        limit = STILL * fit.space_out.scale
        still = [b for b in fit.model.steps if not (sampled.length[sampled.batch == b] > limit).any()]
        sizes = [len(sketch.rows) for sketch in fit.sketches]
        fewest = {r.batch: min(r.n_reference_used, sizes[r.batch]) for r in fit.records}
        return cls(names, fit.order, sampled, rows, steps, _pairs(fit, sampled), still, fewest)

    def warnings(self) -> Iterator[str]:
        """What looks wrong, and what to do about it."""
        for batch in self.order[1:]:
            name, share = self.names[batch], self.steps[batch]["paired"]
            if self.fewest[batch] < FEW_CELLS:
                continue
            if batch in self.still:
                yield (
                    f"Correcting batch {name!r} moved none of its cells.\n"
                    "If it is no copy of cells before it, see whether svd_dim removes too much, or whether "
                    "it has been corrected before."
                )
            if share < FEWEST_PAIRED:
                yield (
                    f"Only {share:.1%} of the cells of batch {name!r} found a pair, and all others follow "
                    "these.\n"
                    "Check that it shares cell types with the batches before it (mnn_order), or give a "
                    "larger k."
                )

    def tables(self) -> dict[str, Any]:
        """What ``uns["mnn"]`` gets beside the table of steps: measures over all, by batch, and the sample.

        The measures are left out where there are too few cells for them.
        """
        sampled = self.sampled
        out: dict[str, Any] = {}
        k = self._n_neighbors()
        if k:
            batches = pd.Categorical.from_codes(sampled.batch, pd.Index(self.names))
            compared = Comparison(sampled.before, sampled.after, batches, None, k)
            overall, mixing = compared.overall(), compared.by_batch()
            overall["worst_batch"] = overall["worst_batch"].fillna("").astype(str)
            mixing.index = mixing.index.astype(str)
            out |= {"overall": overall, "mixing": mixing}
        out["sample"] = {
            "row": self.rows,
            "batch": sampled.batch,
            "length": sampled.length,
            "factor": sampled.factor,
            "before": sampled.before,
            "after": sampled.after,
            "pair_new": self.pairs[0],
            "pair_reference": self.pairs[1],
            "n_neighbors": k,
        }
        return out

    def columns(self) -> pd.DataFrame:
        """Measures of the steps, a row per batch in merge order; NaN for the reference."""
        of_steps: list[Column] = [{}]
        for i, batch in enumerate(self.order[1:], 1):
            of_steps.append(self.steps[batch] | self._mixing(self.order[:i], batch))
        return pd.DataFrame(of_steps, dtype=float)

    def _n_neighbors(self) -> int:
        """Neighbours to measure with: a tenth of the cells where they are few; 0 if they are too few."""
        n, largest = len(self.sampled), int(np.bincount(self.sampled.batch).max())
        return max(0, min(_neighbors_of(n), n // 3, largest - 2))

    def _mixing(self, merged: list[int], batch: int) -> Column:
        """Who is among the neighbours of either side, over what chance would have, before and after."""
        sampled = self.sampled
        new = np.flatnonzero(sampled.batch == batch)
        ref = np.flatnonzero(np.isin(sampled.batch, merged))
        out = {"angle": _angle(sampled, new, ref)}
        ref = ref[:: -(-len(ref) // STEP_CELLS)]
        for when, state in (("before", sampled.before), ("after", sampled.after)):
            cells = np.concatenate([state[new], sampled.after[ref]])
            shares = _foreign(cells, len(new))
            out |= {f"mixing_{when}": shares[0], f"reference_mixing_{when}": shares[1]}
        return out


def _neighbors_of(n: int) -> int:
    return min(N_NEIGHBORS, max(1, n // 10))


def _foreign(cells: NDArray[np.float32], n_new: int) -> tuple[float, float]:
    """Share of the other side among the neighbours of new cells and of the reference's, over expected."""
    if len(cells) < 3:
        return np.nan, np.nan
    is_new = np.arange(len(cells)) < n_new
    among = is_new[nearest(cells, _neighbors_of(len(cells)))].mean(axis=1)
    others, n_ref = len(cells) - 1, len(cells) - n_new
    of_new, of_ref = 1 - among[:n_new].mean(), among[n_new:].mean()
    return float(of_new * others / n_ref), float(of_ref * others / n_new)


def _angle(sampled: Sampled, new: Rows, ref: Rows) -> float:
    """Median angle, in degrees, of corrections to the two directions in which the reference varies most."""
    cells = sampled.after[ref].astype(np.float64)
    _, values, directions = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    moved, length = (sampled.after - sampled.before)[new], sampled.length[new]
    directions = directions[:2][values[:2] > STILL * max(1e-300, float(np.abs(cells).max(initial=0)))]
    if not len(directions) or not (length > 0).any():
        return np.nan
    inside = np.linalg.norm(moved @ directions.T, axis=1)[length > 0] / length[length > 0]
    return float(np.median(np.degrees(np.arccos(np.minimum(inside, 1)))))


def _of_step(fit: Fit, record: MergeRecord, sampled: Sampled) -> Column:
    sketch, step = fit.sketches[record.batch], fit.model.steps[record.batch]
    own = sampled.batch == record.batch
    factors, length = step.factors[sketch.rows], sampled.length[own]
    return {
        "paired": len(record.anchors) / len(sketch.rows),
        "paired_reference": len(np.unique(record.ref_rows)) / record.n_reference_used,
        "length_median": float(np.median(length)),
        "length_95": float(np.quantile(length, 0.95)),
        "lengthened": float((factors > LENGTHENED).mean()),
        "lost_variance": float(sampled.lost[record.batch]),
    }


def _pairs(fit: Fit, sampled: Sampled) -> tuple[Rows, Rows]:
    """Pairs of which both cells are in the sample, as positions in it; every nth where they are many."""
    place, start = {}, 0
    for batch, sketch in enumerate(fit.sketches):
        cells = sampled.cell[sampled.batch == batch]
        place[batch] = np.full(len(sketch.rows), -1)
        place[batch][cells] = start + np.arange(len(cells))
        start += len(cells)
    of_reference = np.concatenate([place[b] for b in fit.order])
    new = [place[record.batch][record.new_rows] for record in fit.records]
    ref = [of_reference[record.ref_rows] for record in fit.records]
    both = np.stack([np.concatenate(new), np.concatenate(ref)])
    both = both[:, (both >= 0).all(axis=0)]
    kept = both[:, :: max(1, -(-both.shape[1] // PAIRS))]
    return kept[0], kept[1]
