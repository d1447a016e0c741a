"""What a memory limit refuses, and what it counts."""

from __future__ import annotations

import logging
import re

import dask.array as da
import numpy as np
import pytest
from helpers import make_batches

from mnndask import mnn_correct
from mnndask._resources import FreeMemory
from mnndask.core import refined_pairs
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.engine import fit_plan as plan
from mnndask.engine.chunks import moderate
from mnndask.engine.memory_budget import BESIDES, Budget, at_least, parse_memory
from mnndask.errors import InputError
from mnndask.io.inputs import read_inputs
from mnndask.io.opened_inputs import InputOptions


def asked_for(caught):
    """Limit that a refusal says would do."""
    return re.search(r"Give at least ([\d.]+ \w+)", str(caught.value)).group(1)


@pytest.mark.parametrize("n", [999, 1_048_576, 2_003_000, 33_333_333, 1_234_567_890, 2 * 10**14])
def test_a_limit_in_words_is_no_less(n):
    assert n <= parse_memory(at_least(n)) <= 1.02 * n + 1


def test_limit_too_small_for_a_cell_says_the_least_that_does():
    X = da.zeros((5, 2003), chunks=(1, -1))
    with pytest.raises(InputError, match="too small for one cell of batch 0") as caught:
        moderate(X, "batch 0", Budget.of("50kB", 2), 8)
    assert moderate(X, "batch 0", Budget.of(asked_for(caught), 2), 8).chunks == X.chunks


def test_limit_too_small_for_a_fit_says_the_least_that_does():
    X = make_batches()
    with pytest.raises(InputError, match=r"memory_limit of 2 B is too small to fit on 40") as caught:
        mnn_correct(*X, k=5, memory_limit=2, n_jobs=2)
    corrected = mnn_correct(*X, k=5, memory_limit=asked_for(caught), n_jobs=2)[0]
    np.testing.assert_allclose(corrected, mnn_correct(*X, k=5)[0], atol=1e-10)


@pytest.fixture
def group(monkeypatch):
    """Function that leaves this process so many bytes, as a control group does."""

    def leave(n_bytes):
        free = FreeMemory(n_bytes, "cgroup /job")
        for module in ("engine.memory_budget", "engine.run_options"):
            monkeypatch.setattr(f"mnndask.{module}.free_memory", lambda: free)

    return leave


def test_by_default_the_budget_is_what_is_left_and_the_log_says_by_what(group, caplog):
    group(3 * 2**30)
    with caplog.at_level(logging.INFO, logger="mnndask"):
        mnn_correct(*make_batches(), k=5, n_jobs=2)
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("memory limit: 2.88 GiB (cgroup /job), 2 threads") == 1
    assert Budget.of(None, 2) == Budget(3 * 2**30 - BESIDES, 2)


def test_a_limit_above_what_is_left_is_used_with_a_warning(group):
    group(2**30)
    batches = make_batches()
    with pytest.warns(
        UserWarning, match=r"memory_limit of 2.00 GiB is more than there is: 1.00 GiB \(cgroup /"
    ):
        corrected = mnn_correct(*batches, k=5, memory_limit="2GiB")[0]
    assert Budget.of("2GiB", 2) == Budget(2**31, 2)
    np.testing.assert_array_equal(corrected, mnn_correct(*batches, k=5, memory_limit="1GiB")[0])


def test_too_little_is_not_laid_to_a_limit_that_nobody_gave(group):
    group(180 * 40 * 8)  # as much as the result
    with pytest.raises(
        InputError, match=r"The memory at hand, 28.12 kiB \(cgroup /job\), is too small to fit"
    ):
        mnn_correct(*make_batches(), k=5, n_jobs=8)


@pytest.mark.parametrize("bounded", [True, False])
def test_parts_of_a_long_reference_count(monkeypatch, bounded):
    """Of 60, 130 and 180 cells, two references are longer than 100.

    A merge copies 100 of them, and the model has those of all merges, which are mostly the same.
    """
    monkeypatch.setattr(plan, "REFERENCE_CELLS", 100)
    inputs = read_inputs(make_batches((60, 70, 50, 20)), options=InputOptions(), budget=Budget.of("1GB", 1))
    spaces = GeneSpaces(40, None, True, True, inputs.dtype)
    cells, parts = (n * 40 * 8 for n in (4 * 200, 100 + 169))
    for resident, fits in ((cells, not bounded), (cells + parts, True)):
        budget = Budget(2 * resident, 1)
        sides = [(70, 60), (50, 130), (20, 180)]
        planned = plan.Plan.of(inputs, inputs.n_cells, sides, spaces, budget, plan.Copies(bounded))
        assert planned.tiled is not fits


@pytest.mark.parametrize("refined", [True, False])
def test_copies_that_refine_pairs_count(refined):
    inputs = read_inputs(make_batches((60, 70)), options=InputOptions(), budget=Budget.of("1GB", 1))
    spaces = GeneSpaces(40, None, True, True, inputs.dtype)
    for copies, fits in ((4, not refined), (6, True)):
        budget = Budget(2 * copies * 130 * 40 * 8, 1)
        kept = plan.Copies(bounded=False, refined=refined)
        assert plan.Plan.of(inputs, inputs.n_cells, [(70, 60)], spaces, budget, kept).tiled is not fits


def test_parts_of_a_reference_that_is_many_times_as_long_count(monkeypatch):
    """Components need memory for these, not the genes that they replace."""
    monkeypatch.setattr(refined_pairs, "MOST_COMPARED", (2, 0))
    copies = plan.Copies(bounded=False, refined=True, adjusted=False)
    assert [copies.n_compared(20, n_ref) for n_ref in (30, 40, 41, 900)] == [30, 40, 40, 40]
    spaces = GeneSpaces(40, None, True, True, np.dtype(np.float32), n_components=5)
    sides = [(20, 30), (20, 50), (20, 70)]  # two are too long, and copied one after the other
    assert copies.n_bytes(sides, 90, spaces) == (40 + 2 * 90) * 5 * 4
