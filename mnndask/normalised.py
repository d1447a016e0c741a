"""Sketched cells as the fit sees them: normalised, on the genes used for distances or their components."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnndask.kernels.components import Components
from mnndask.kernels.cosine import SHORTEST
from mnndask.kernels.distances import Floats, Matrix, row_lengths
from mnndask.kernels.subspace import SvdSolver
from mnndask.reference import Sketch
from mnndask.spaces import GeneSpaces
from mnndask.workspace import Workspace

Norms = dict[int, NDArray[np.float64]]  # of each batch's cells


@dataclass(frozen=True)
class Normalised:
    """Cells of all batches.

    Parameters
    ----------
    matrices
        Each batch's cells in each distinct space, shape ``(n_cells, n_dims)``.
    norms
        Their norms there, over the genes.
    components
        Each space's principal components, None where its dimensions are genes.
    lengths
        Each batch's cosine lengths, shape ``(n_cells, 1)``.
    """

    matrices: list[dict[int, Matrix]]
    norms: list[Norms]
    components: list[Components | None]
    lengths: dict[int, Floats]


def normalised(
    sketches: Sequence[Sketch], names: Sequence[str], spaces: GeneSpaces, solver: SvdSolver, work: Workspace
) -> Normalised:
    """Normalise the sketches, once for each distinct space."""
    divide = [spaces.cos_norm_in] if spaces.coincide else [spaces.cos_norm_in, spaces.cos_norm_out]
    out = Normalised([{} for _ in divide], [{} for _ in divide], [], {})
    for b, (sketch, name) in enumerate(zip(sketches, names, strict=True)):
        shape = (len(sketch.rows), spaces.n_near)
        targets = [work.matrix(f"cells-{s}-{b}", shape) for s in range(len(divide))]

        def one(
            at: slice, sketch: Sketch = sketch, name: str = name, targets: list[Matrix] = targets
        ) -> tuple[Floats, list[NDArray[np.float64]]]:
            near = sketch.near(spaces, at)
            lengths, norms = spaces.lengths(near, name), []
            for divided, target in zip(divide, targets, strict=True):
                cells = near / lengths if divided else near
                target[at] = cells
                norms.append(row_lengths(cells))
            return lengths, norms

        found = work.map("cosine", shape[0], shape[1], one, counts=1)
        out.lengths[b] = np.concatenate([lengths for lengths, _ in found])
        for s, target in enumerate(targets):
            out.matrices[s][b] = target
            out.norms[s][b] = np.concatenate([norms[s] for _, norms in found])
    for s in range(len(divide)):
        out.components.append(_to_components(out, s, spaces.n_components, solver, work))
    return out


def _to_components(
    cells: Normalised, s: int, n: int | None, solver: SvdSolver, work: Workspace
) -> Components | None:
    """Put coordinates on leading components in the place of genes, if asked for."""
    if n is None:
        return None
    matrices = cells.matrices[s]
    scale = float(max(own.max() for own in cells.norms[s].values()))
    components = Components.of(list(matrices.values()), n, solver, scale, work.tile)
    for b, X in matrices.items():
        out = work.matrix(f"components-{s}-{b}", (len(X), components.basis.shape[1]))

        def one(at: slice, X: Matrix = X, out: Matrix = out) -> None:
            out[at] = components.project(X[at])

        work.map("components", len(X), X.shape[1], one, counts=1)
        matrices[b] = out
    return components


def warn_of_empty_cells(
    sketches: Sequence[Sketch], lengths: Mapping[int, Floats], spaces: GeneSpaces, names: Sequence[str]
) -> None:
    """Cells that express other genes only are divided by the least length there is."""
    if spaces.subset is None or not spaces.cos_norm_out:
        return
    for b, own in lengths.items():
        empty = np.flatnonzero(own[:, 0] <= SHORTEST * 1.01)
        n_other = sketches[b].express_rest(spaces, empty).sum() if len(empty) else 0
        if n_other:
            message = (
                f"{n_other} cell(s) of batch {names[b]!r} express none of the genes used for distances, "
                "and are huge when divided by their length.\n"
                "Remove them, use more genes in var_subset, or set cos_norm_out=False."
            )
            warnings.warn(message, UserWarning, stacklevel=7)
