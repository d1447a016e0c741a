"""An embedding that is there already, centred and scaled to the size for which `sigma` is meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from mnndask._typing import Floats
from mnndask.core.arrays import row_dots
from mnndask.engine.batches import check_finite
from mnndask.errors import InputError, InputKeyError, InputTypeError
from mnndask.io.annotations import computed

SIZE = 0.15  # median squared distance of cosine-normalised cells to their mean, in 50 components


@dataclass(frozen=True)
class Basis:
    """Cells in an embedding.

    Parameters
    ----------
    X
        Their coordinates, shape ``(n_cells, n_dims)``.
    centre
        Their mean.
    factor
        What centred coordinates are multiplied by.
    """

    X: Floats
    centre: np.ndarray
    factor: float

    @classmethod
    def of(cls, adata: AnnData, name: str) -> Basis:
        """Read an embedding, and find the factor that makes the median squared distance to the mean 0.15.

        Raises
        ------
        InputError, InputTypeError, InputKeyError, NonFiniteError
            If it cannot be used.
        """
        if name not in adata.obsm:
            known = ", ".join(map(str, adata.obsm)) or "none"
            what = f"The AnnData has no obsm[{name!r}], which basis names."
            raise InputKeyError(what, f"Its obsm: {known}. Compute it first, e.g. sc.pp.pca(adata).")
        X = _dense(adata.obsm[name], name)
        check_finite(X, f"obsm[{name!r}]")
        largest = float(np.abs(X).max(initial=0))
        unit = X / largest if largest > 0 else X  # squares neither overflow nor vanish
        centre = unit.mean(axis=0, dtype=np.float64)
        moved = unit - centre
        size = float(np.median(row_dots(moved, moved)))
        if not size > 0:
            what = f"Half of the cells or more are equal in obsm[{name!r}], so that it has no scale."
            raise InputError(what, "Give an embedding in which cells differ.")
        return cls(X, centre * largest, float(np.sqrt(SIZE / size)) / largest)

    def scaled(self) -> Floats:
        """Centred and scaled coordinates."""
        out: Floats = ((self.X - self.centre) * self.factor).astype(self.X.dtype)
        return out

    def moved(self, vectors: Floats) -> Floats:
        """Coordinates, moved by vectors between scaled ones; those with none stay exactly as they are."""
        out: Floats = (self.X + vectors / self.factor).astype(self.X.dtype)
        return out


def _dense(value: Any, name: str) -> Floats:
    value = computed(value)
    if sparse.issparse(value):
        value = value.toarray()
    X = np.asarray(value)
    if X.ndim != 2 or X.dtype.kind not in "fiub" or not X.shape[1]:
        what = f"obsm[{name!r}] is of shape {X.shape} and type {X.dtype}."
        raise InputTypeError(what, "Give coordinates of cells: numbers, of shape (n_cells, n_dims).")
    # In rows, so that sums do not depend on the layout.
    return np.ascontiguousarray(X, dtype=np.float64 if X.dtype.itemsize > 4 else np.float32)
