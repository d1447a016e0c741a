"""Differences between labels within batches, by gene: how many have the other sign after a correction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Floats

FEWEST = 10  # cells of a label in a batch
MOST_LABELS = 30  # of a batch: the most frequent
BEYOND = 3.0  # standard errors of a difference that is more than noise

_label: ContextVar[str | None] = ContextVar("mnndask_label", default=None)


@contextmanager
def labelled_by(column: str | None) -> Iterator[None]:
    """Have fits compare the labels in a column of obs."""
    token = _label.set(column)
    try:
        yield
    finally:
        _label.reset(token)


def label_column() -> str | None:
    """Column of obs with the labels to compare, if any."""
    return _label.get()


class SignChanges:
    """Counts, over batches and pairs of labels, the differences of each gene, and those that changed sign.

    Differences that are within noise before the correction are not counted.
    """

    def __init__(self, n_genes: int) -> None:
        self.counted, self.changed = np.zeros((2, n_genes), np.int64)

    def add_batch(self, before: Floats, after: Floats, labels: NDArray[np.object_]) -> None:
        """Count those of one batch: values of its cells, shape ``(n_cells, n_genes)``, and their labels."""
        text = np.array(["" if label is None else f"-{label}" for label in labels])
        names, n = np.unique(text[text != ""], return_counts=True)
        frequent = [names[i] for i in np.argsort(-n, kind="stable")[:MOST_LABELS] if n[i] >= FEWEST]
        of_label = [self._of_label(before, after, np.flatnonzero(text == name)) for name in frequent]
        for (x1, y1, e1), (x2, y2, e2) in combinations(of_label, 2):
            counts = np.abs(x1 - x2) > BEYOND * np.sqrt(e1 + e2)
            self.counted += counts
            self.changed += counts & (np.sign(x1 - x2) != np.sign(y1 - y2))

    @staticmethod
    def _of_label(before: Floats, after: Floats, rows: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
        """Means before and after, and squared standard errors of the former."""
        x = before[rows]
        return x.mean(axis=0), after[rows].mean(axis=0), x.var(axis=0, ddof=1) / len(rows)

    def shares(self) -> NDArray[np.float64]:
        """Share of the counted differences of each gene that changed sign; NaN if there are none."""
        out = np.full(len(self.counted), np.nan)
        np.divide(self.changed, self.counted, out=out, where=self.counted > 0)
        return out
