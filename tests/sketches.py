"""Sketches as tests draw them: with a fit, and without."""

from __future__ import annotations

import numpy as np

from mnndask import MNNCorrector
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.parameters import Parameters
from mnndask.engine import sketch
from mnndask.engine.memory_budget import Budget
from mnndask.engine.run_options import RunOptions
from mnndask.io.inputs import read_inputs
from mnndask.io.opened_inputs import InputOptions

METHODS = ["mixed", "geometric", "random"]

BUDGET = Budget.of("1GB", 1)


def sketched(*datas, size=20, **options):
    """A corrector fitted on a sketch."""
    return MNNCorrector(k=5, sketch_size=size, **options).fit(datas)


def drawn(*datas, method, n_jobs=None, seed=0, subset=None, batch_key="batch"):
    """Rows of a sketch of 20 cells, without the fit."""
    inputs = read_inputs(datas, options=InputOptions(batch_key=batch_key), budget=BUDGET)
    spaces = GeneSpaces(40, subset, True, True, inputs.dtype)
    parameters = Parameters(sketch_size=20, sketch_method=method, random_state=seed)
    order = list(range(len(inputs.categories)))
    chosen = sketch.choose_cells(inputs, spaces, order, parameters)
    return sketch.draw_cells(inputs, spaces, chosen, parameters, RunOptions(n_jobs, memory_limit="1GB"))


def assert_same_rows(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
