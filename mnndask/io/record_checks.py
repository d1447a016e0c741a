"""Checks of a stored record of a correction, whose parts may be damaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

COUNTS = ("n_cells", "n_used", "n_pairs", "n_paired_cells")
LATER_COUNTS = {"n_reference", "n_reference_used"}  # which older records lack
MEASURES = (
    *("paired", "paired_reference", "length_median", "length_95", "lengthened", "angle", "lost_variance"),
    *("mixing_before", "mixing_after"),
)
OF_VERDICTS = ("own_share", "matched_share", "separation_low", "merged")  # of steps; older records have none
OF_GENES = ("mnn_variance_removed", "mnn_correlation")
SIGNS_CHANGED = "mnn_signs_changed"  # where labels were given
OF_REFINED = ("support", "unsupported")  # of steps whose pairs are refined
OVERALL = ("same_batch", "neighbors_kept", "contraction"), ("before", "after", "ideal", "worst")
MIXING = ("cells", "expected", "before", "after", "excess_after", "neighbors_kept", "contraction")


def record_problem(uns: Mapping[str, Any]) -> str | None:
    """Return which part of a record is not as it was written, or None."""
    names = sorted(str(name) for name in np.ravel(uns["batches"]))
    steps, mixing = uns["steps"], uns.get("mixing")
    if not _are_steps(steps, measured="sample" in uns):
        return "steps"
    if sorted(map(str, steps["batch"])) != names or len(set(names)) != len(names) or not names:
        return "batches"
    of_kind = dict.fromkeys(("parameters", "sketch", "values"), Mapping) | dict.fromkeys(
        ("version", "order", "confounded"), str
    )
    for key, kind in of_kind.items():
        if key in uns and not isinstance(uns[key], kind):
            return key
    values = uns.get("values", {})
    if not isinstance(values, Mapping) or not all(isinstance(text, str) for text in values.values()):
        return "values"
    numbers = {*OF_GENES, *({SIGNS_CHANGED} & set(getattr(uns.get("genes"), "columns", ())))}
    if "genes" in uns and not _is_table(uns["genes"], {"gene"}, numbers):
        return "genes"
    if not _is_overall(uns.get("overall")):
        return "overall"
    if mixing is not None and (not _is_table(mixing, (), MIXING) or sorted(map(str, mixing.index)) != names):
        return "mixing"
    if "sample" not in uns:
        return None
    problem = _problem_of_sample(uns["sample"], len(names), int(steps["n_cells"].sum()))
    return None if problem is None else f"sample/{problem}"


def _are_steps(steps: Any, *, measured: bool) -> bool:
    columns = set(getattr(steps, "columns", ()))
    optional, counts = {*OF_VERDICTS, *OF_REFINED} & columns, {*COUNTS, *(LATER_COUNTS & columns)}
    if not _is_table(steps, {"batch"}, {*counts, *(MEASURES if measured else ()), *optional}):
        return False
    return all(steps[name].dtype.kind in "iu" and (steps[name] >= 0).all() for name in counts)


def _is_overall(overall: Any) -> bool:
    """Whether a table contains the measures of all batches together; older records have none."""
    if overall is None:
        return True
    known = _is_table(overall, {"worst_batch"}, OVERALL[1]) and set(OVERALL[0]) <= set(overall.index)
    return known and bool(overall.index.is_unique)


def _is_table(table: Any, text: Iterable[str], numbers: Iterable[str]) -> bool:
    """Whether something is a table with given columns; its numbers may be missing, but not infinite."""
    if not isinstance(table, pd.DataFrame) or not {*text, *numbers} <= set(table.columns):
        return False
    columns = [table[name] for name in numbers]
    return all(
        isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiu" and not np.isinf(column).any()
        for column in columns
    )


def _problem_of_sample(sample: Any, n_batches: int, n_cells: int) -> str | None:
    if not isinstance(sample, Mapping):
        return ""
    sample = {key: np.asarray(value) for key, value in sample.items()}  # some may be lazy
    n = len(np.ravel(sample.get("batch", ())))
    below = {"batch": n_batches, "pair_new": n, "pair_reference": n}
    if "row" in sample:  # of format 1
        below["row"] = n_cells
    for name, most in below.items():
        if not _are_below(sample.get(name), most) or (name == "row" and len(sample[name]) != n):
            return name
    if len(sample["pair_new"]) != len(sample["pair_reference"]):
        return "pair_reference"
    for name in ("batch", "length", "factor", "before", "after"):
        values = sample.get(name)
        ndim = 2 if name in ("before", "after") else 1
        if not _are_finite(values, ndim) or len(values) != n:
            return name
    if sample["before"].shape != sample["after"].shape or not sample["before"].shape[1]:
        return "after"
    k = sample.get("n_neighbors", np.empty(0))
    return None if k.shape == () and k.dtype.kind in "iu" and 0 <= k <= n // 3 else "n_neighbors"


def _are_below(values: Any, most: int) -> bool:
    known = values is not None and values.ndim == 1 and values.dtype.kind in "iu"
    return known and (not len(values) or (int(values.min()) >= 0 and int(values.max()) < most))


def _are_finite(values: Any, ndim: int) -> bool:
    known = values is not None and values.ndim == ndim and values.dtype.kind in "fiu"
    return known and bool(np.isfinite(values).all())
