"""What a correction leaves of the differences between conditions that its batches contain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask.diagnostics.recorded_cells import RecordedCells

FEWEST_CELLS = 5  # of each condition in a batch
ALL = "all cells"


@exclusive()
def condition_effects(cells: RecordedCells, column: str, label: str | None = None) -> pd.DataFrame | None:
    """Return how differences between conditions within batches changed, of all cells and of each label.

    In each batch with cells of several conditions, the difference between the mean of a condition and that of
    the most frequent one is taken, on the leading components of both states. Batches weigh by their cells.

    Parameters
    ----------
    cells
        Sampled cells.
    column
        Column of obs with the conditions.
    label
        Column of obs with cell types.

    Returns
    -------
    One row per label and condition: ``cells`` (label), ``condition``, ``n_batches``, ``correlation`` (cosine
    of the difference after to that before) and ``length`` (of the difference after, over that before). None
    if no batch has several conditions.

    Raises
    ------
    InputKeyError
        If there is no such column.
    """
    conditions, states = (
        cells.column(column),
        [np.asarray(cells.sample[s], float) for s in ("before", "after")],
    )
    reference = int(np.bincount(conditions.codes).argmax())
    of_cells: list[tuple[str, NDArray[np.bool_]]] = [(ALL, np.ones(len(conditions), bool))]
    if label is not None:
        labels = cells.column(label)
        of_cells += [(str(name), labels.codes == i) for i, name in enumerate(labels.categories)]
    rows: list[dict[str, Any]] = []
    for name, own in of_cells:
        for i, condition in enumerate(conditions.categories):
            if i == reference:
                continue
            found = _differences(states, cells.batches.codes, own, conditions.codes, (i, reference))
            if found is None:
                continue
            before, after, n_batches = found
            lengths = np.linalg.norm(before), np.linalg.norm(after)
            product = lengths[0] * lengths[1]
            rows.append(
                {
                    "cells": name,
                    "condition": f"{condition} against {conditions.categories[reference]}",
                    "n_batches": n_batches,
                    "correlation": float(before @ after / product) if product > 0 else np.nan,
                    "length": float(lengths[1] / lengths[0]) if lengths[0] > 0 else np.nan,
                }
            )
    return pd.DataFrame(rows) if rows else None


def _differences(
    states: list[NDArray[np.float64]],
    batches: NDArray[np.integer],
    own: NDArray[np.bool_],
    conditions: NDArray[np.integer],
    compared: tuple[int, int],
) -> tuple[NDArray[np.float64], NDArray[np.float64], int] | None:
    """Mean difference of two conditions within batches, in both states, and in how many batches."""
    total, weight, n_batches = np.zeros((2, states[0].shape[1])), 0, 0
    for batch in np.unique(batches[own]):
        sides = [own & (batches == batch) & (conditions == c) for c in compared]
        n = min(int(side.sum()) for side in sides)
        if n < FEWEST_CELLS:
            continue
        for out, X in zip(total, states, strict=True):
            out += n * (X[sides[0]].mean(axis=0) - X[sides[1]].mean(axis=0))
        weight, n_batches = weight + n, n_batches + 1
    return (total[0] / weight, total[1] / weight, n_batches) if n_batches else None
