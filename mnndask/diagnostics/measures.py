"""Measures of a fit: how far cells were moved, how batches mix, and warnings of what looks wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask._typing import Rows
from mnndask.core.history import Merge, MergeHistory
from mnndask.diagnostics.sample import SampledCells
from mnndask.diagnostics.shared_cells import merged_share, sharing
from mnndask.metrics.neighborhoods import nearest_cells
from mnndask.metrics.summary import Comparison

FEWEST_PAIRED = 0.05  # share of a batch's cells with a pair, below which a warning is given
FEW_CELLS = 20  # no warning if a side has fewer: their shares mean little
STILL = 1e-6  # of the largest norm: a correction up to this length counts as no move
LENGTHENED = 1 + 1e-6
# Most reference cells used to measure the mixing of a step: so many, or if fewer, so many times the batch's.
STEP_CELLS, STEP_TIMES, FEWEST_STEP_CELLS = 4_000, 10, 1_000
PAIRS = 2_000  # most pairs in the sample
N_NEIGHBORS = 30
StepMeasures = dict[str, float]


@dataclass(frozen=True)
class Diagnostics:
    """Measures of a completed fit, from a sample of its cells and pairs.

    Parameters
    ----------
    names
        Names of the batches.
    order
        Order in which they were merged.
    references
        For each batch that moves: the batches that its last merge was with.
    sampled
        The sampled cells.
    rows
        Row of each sampled cell in the result.
    steps
        For each batch that moves: measures of its pairs, correction lengths and variance factors.
    pairs
        Some pairs, as positions in the sample of the cell of the new batch and of the reference cell.
    still
        Batches in which no cell was moved.
    fewest
        For each batch that moves: number of cells on the smaller side of its last merge.
    """

    names: list[str]
    order: list[int]
    references: dict[int, tuple[int, ...]]
    sampled: SampledCells
    rows: Rows
    steps: dict[int, StepMeasures]
    pairs: tuple[Rows, Rows]
    still: list[int]
    fewest: dict[int, int]

    @classmethod
    def of(cls, history: MergeHistory, batch_rows: Sequence[Rows]) -> Diagnostics:
        """Measure a fit; `batch_rows` are the rows of the result for the fitted cells of each batch."""
        sampled = SampledCells.of(history)
        rows = np.concatenate([own[sampled.cell[sampled.batch == b]] for b, own in enumerate(batch_rows)])
        sizes = history.cells.n_fitted
        last = {b: history.last_merge_of(b) for b in history.order}
        moving = {b: merge for b, merge in last.items() if merge is not None}
        steps = {b: _of_step(history, merge, b, sampled) for b, merge in moving.items()}
        limit = STILL * history.cells.space_out.scale
        noise = {b for b, merge in moving.items() if merge.effect(b, sizes) == 0}  # left as they are
        moved = {b for b in moving if (sampled.length[sampled.batch == b] > limit).any()}
        still = [b for b in moving if b not in moved | noise]
        fewest = {b: min(merge.pairs.n_reference_used, sizes[b]) for b, merge in moving.items()}
        references = {b: merge.left.batches for b, merge in moving.items()}
        names, pairs = history.cells.names, _pairs(history, sampled)
        return cls(names, history.order, references, sampled, rows, steps, pairs, still, fewest)

    def warnings(self) -> Iterator[tuple[str, str]]:
        """Yield what looks wrong, and a remedy, for each finding."""
        for batch in self.references:
            name, share = self.names[batch], self.steps[batch]["paired"]
            if self.fewest[batch] < FEW_CELLS:
                continue
            if batch in self.still:
                yield (
                    f"Correcting batch {name!r} moved none of its cells.",
                    "If it is not a copy of batches before it, check whether svd_dim removes too much, or "
                    "whether it was already corrected.",
                )
            if share < FEWEST_PAIRED:
                yield (
                    f"Only {share:.1%} of the cells of batch {name!r} found a pair; all other cells follow "
                    "these few.",
                    "Check that it shares cell types with the batches before it (mnn_order), or give a "
                    "larger k.",
                )

    def tables(self) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """Return the measures over all cells and by batch; None if there are too few cells."""
        sampled, k = self.sampled, self._n_neighbors()
        if not k:
            return None, None
        batches = pd.Categorical.from_codes(sampled.batch, pd.Index(self.names))
        compared = Comparison(sampled.before, sampled.after, batches, None, k)
        overall, mixing = compared.overall(), compared.by_batch()
        with exclusive():
            overall["worst_batch"] = overall["worst_batch"].fillna("").astype(str)
            mixing.index = mixing.index.astype(str)
        return overall, mixing

    def sample(self) -> dict[str, Any]:
        """Return the sampled cells, as recorded in ``uns["mnn"]["sample"]``.

        A cell's position in these arrays is its number in ``obs["mnn_sample"]`` of the result.
        """
        return {
            "batch": self.sampled.batch,
            "length": self.sampled.length,
            "factor": self.sampled.factor,
            "before": self.sampled.before,
            "after": self.sampled.after,
            "pair_new": self.pairs[0],
            "pair_reference": self.pairs[1],
            "n_neighbors": self._n_neighbors(),
        }

    def columns(self) -> pd.DataFrame:
        """Return the measures of the steps, one row per batch in merge order; NaN if it never moves."""
        rows: list[StepMeasures] = []
        for batch in self.order:
            moves = batch in self.references
            own = self.steps[batch] | self._mixing(self.references[batch], batch) if moves else {}
            rows.append(own)
        with exclusive():
            return pd.DataFrame(rows, dtype=float)

    def _n_neighbors(self) -> int:
        """Return the number of neighbours to measure with: a tenth of few cells; 0 if there are too few."""
        n, largest = len(self.sampled), int(np.bincount(self.sampled.batch).max())
        return max(0, min(_neighbors_of(n), n // 3, largest - 2))

    def _mixing(self, merged: Sequence[int], batch: int) -> StepMeasures:
        """Measure how the two sides of a step mix, and what became of the batch's own cell types."""
        sampled = self.sampled
        new = np.flatnonzero(sampled.batch == batch)
        ref = np.flatnonzero(np.isin(sampled.batch, merged))
        out = {"angle": _angle(sampled, new, ref)}
        most = min(STEP_CELLS, max(FEWEST_STEP_CELLS, STEP_TIMES * len(new)))
        ref = ref[:: -(-len(ref) // most)]
        reference, from_new = sampled.after[ref], np.empty(0)
        for when, state in (("before", sampled.before), ("after", sampled.after)):
            from_new = _share_of_new(np.concatenate([state[new], reference]), len(new))
            shares = _mixing_of_sides(from_new, len(new))
            out |= {f"mixing_{when}": shares[0], f"reference_mixing_{when}": shares[1]}
        pairs = self._pairs_between(new, ref)
        out |= sharing(sampled.before[new], reference, pairs, from_new)
        return out | {"merged": merged_share(sampled.before[new], sampled.after[new])}

    def _pairs_between(self, new: Rows, ref: Rows) -> tuple[Rows, Rows]:
        """Return the sampled pairs between some sampled cells, as positions among these."""
        position = np.full((2, len(self.sampled)), -1)
        position[0, new], position[1, ref] = np.arange(len(new)), np.arange(len(ref))
        both = np.stack([at[own] for at, own in zip(position, self.pairs, strict=True)])
        kept = both[:, (both >= 0).all(axis=0)]
        return kept[0], kept[1]


def _neighbors_of(n: int) -> int:
    return min(N_NEIGHBORS, max(1, n // 10))


def _share_of_new(cells: NDArray[np.float32], n_new: int) -> NDArray[np.float64]:
    """Return the share of each cell's neighbours that are among the first cells; NaN if cells are few."""
    if len(cells) < 3:
        return np.full(len(cells), np.nan)
    is_new = np.arange(len(cells)) < n_new
    out: NDArray[np.float64] = is_new[nearest_cells(cells, _neighbors_of(len(cells)))].mean(axis=1)
    return out


def _mixing_of_sides(from_new: NDArray[np.float64], n_new: int) -> tuple[float, float]:
    """Return the share of neighbours from the other side over that expected, for new and reference cells."""
    others, n_ref = len(from_new) - 1, len(from_new) - n_new
    of_new, of_ref = 1 - from_new[:n_new].mean(), from_new[n_new:].mean()
    return float(of_new * others / n_ref), float(of_ref * others / n_new)


def _angle(sampled: SampledCells, new: Rows, ref: Rows) -> float:
    """Return the median angle, in degrees, between corrections and the reference's two leading directions."""
    cells = sampled.after[ref].astype(np.float64)
    _, values, directions = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    moved, length = (sampled.after - sampled.before)[new], sampled.length[new]
    directions = directions[:2][values[:2] > STILL * max(1e-300, float(np.abs(cells).max(initial=0)))]
    if not len(directions) or not (length > 0).any():
        return np.nan
    inside = np.linalg.norm(moved @ directions.T, axis=1)[length > 0] / length[length > 0]
    return float(np.median(np.degrees(np.arccos(np.minimum(inside, 1)))))


def _of_step(history: MergeHistory, merge: Merge, batch: int, sampled: SampledCells) -> StepMeasures:
    sizes, rows = history.cells.n_fitted, history.cells.raw[batch].rows
    own, factors = sampled.batch == batch, merge.step.known(batch, rows)
    (new, ref), length = merge.pairs_of(batch, sizes), sampled.length[own]
    return {
        "paired": len(np.unique(new)) / len(rows),
        "paired_reference": len(np.unique(ref)) / merge.pairs.n_reference_used,
        "length_median": float(np.median(length)),
        "length_95": float(np.quantile(length, 0.95)),
        "lengthened": 0.0 if factors is None else float((factors > LENGTHENED).mean()),
        "lost_variance": float(sampled.lost[batch]),
    }


def _pairs(history: MergeHistory, sampled: SampledCells) -> tuple[Rows, Rows]:
    """Return pairs of sampled cells, as positions in the sample; every nth pair if there are many."""
    position, start = {}, 0
    for batch, size in enumerate(history.cells.n_fitted):
        cells = sampled.cell[sampled.batch == batch]
        position[batch] = np.full(size, -1)
        position[batch][cells] = start + np.arange(len(cells))
        start += len(cells)
    new: list[Rows] = []
    ref: list[Rows] = []
    for merge in history.merges:
        sides = (merge.right, merge.pairs.new_rows, new), (merge.left, merge.pairs.ref_rows, ref)
        for node, rows, out in sides:
            out.append(np.concatenate([position[b] for b in node.batches])[rows])
    both = np.stack([np.concatenate(new), np.concatenate(ref)])
    both = both[:, (both >= 0).all(axis=0)]
    kept = both[:, :: max(1, -(-both.shape[1] // PAIRS))]
    return kept[0], kept[1]
