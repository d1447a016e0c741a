"""Notebooks run from top to bottom at small size, and are committed as they ran."""

import sys
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "notebooks"))

from run import ALL, executed

SMALL = {
    "01-quickstart": {"n_cells": 900},
    "02-larger-than-memory": {"n_cells": 3_000, "sketch_size": 300, "memory_limit": "100MB"},
    "03-judging-a-correction": {"n_cells": 1_500},
    "04-cluster-and-object-store": {"n_cells": 6_000},
    "05-what-should-stay": {"n_cells": 400, "n_splits": 1},
    "06-from-raw-files": {"n_cells": 900, "n_genes": 400, "n_top_genes": 200},
}
PICTURES = dict(zip(SMALL, (4, 1, 4, 0, 2, 2), strict=True))
by_name = pytest.mark.parametrize("path", ALL, ids=[path.stem for path in ALL])


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_all_are_tried():
    assert [path.stem for path in ALL] == list(SMALL)


@by_name
def test_runs_at_small_size_without_a_warning(path, monkeypatch):
    monkeypatch.setenv("MNNDASK_DATA", "none")
    notebook = executed(path, **SMALL[path.stem])
    said = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]
    # Of workers that take long to end, on a machine that has much to do.
    assert [
        line for text in said for line in text.splitlines() if "Worker process still alive" not in line
    ] == []
    assert pictures(notebook) == PICTURES[path.stem]


@by_name
def test_is_committed_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert pictures(notebook) == PICTURES[path.stem]
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert path.stat().st_size < 2e6
