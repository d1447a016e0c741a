"""A history of merges is a value: merging another batch gives a new one, and leaves it as it was."""

import numpy as np
import pytest
from helpers import make_batches

from mnndask.core.fit import begin, extend
from mnndask.core.fit_cells import FitCellsInMemory
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.normalisation import normalise
from mnndask.core.parameters import Parameters
from mnndask.core.workspace import WorkspaceInMemory
from mnndask.engine.tiled_workspace import TiledWorkspace
from mnndask.stores.scratch import ScratchStore


@pytest.mark.parametrize("tiled", [False, True], ids=["memory", "tiled"])
def test_a_history_can_be_extended_twice(tiled, tmp_path):
    batches, parameters = make_batches(), Parameters(k=5)
    dtype, block_bytes = np.dtype(np.float64), 2**20
    work = WorkspaceInMemory(dtype, block_bytes, 1)
    if tiled:
        work = TiledWorkspace(ScratchStore(tmp_path, 16), 16, dtype, block_bytes, 1, 1)
    raw = [FitCellsInMemory(X, np.arange(len(X)), len(X)) for X in batches]
    spaces = GeneSpaces(batches[0].shape[1], None, True, True, dtype)
    cells = normalise(raw, ["a", "b", "c"], spaces, parameters.solver, work)

    def extended(history, batch):
        left, right = (history.node_of(b) for b in (0, batch))
        return extend(history, left, right, work)

    first = begin(cells, parameters)
    long = extended(extended(first, 1), 2)
    reference = np.array(long.references[0].points.X[:])
    other = extended(first, 2)
    assert first.merges == ()
    assert ([m.right.batches for m in long.merges], long.order) == ([(1,), (2,)], [0, 1, 2])
    assert [m.right.batches for m in other.merges] == [(2,)]
    assert other.n_reference == len(batches[0]) + len(batches[2])
    np.testing.assert_array_equal(long.references[0].points.X[:], reference)
    again = extended(extended(first, 1), 2)
    np.testing.assert_allclose(again.references[0].points.X[:], reference, rtol=0, atol=1e-12)
