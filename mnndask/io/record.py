"""Record of a correction in ``uns["mnn"]`` of a result: parameters, steps and measures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mnndask._library_state import exclusive
from mnndask._version import __version__
from mnndask.core.history import MergeHistory
from mnndask.core.merge_order import named_trees
from mnndask.core.support import LITTLE
from mnndask.engine.run_options import RUN_OPTIONS
from mnndask.errors import InputError, InputReadError
from mnndask.io.record_checks import record_problem

FORMAT_VERSION = 2  # of the record; 1 numbers sampled cells by their rows; older ones have no number
OF_RESULT = {"do_concatenate", "save_raw", "index_unique", "keep_derived", "layer_added", "genes"}
NOT_RECORDED = RUN_OPTIONS | OF_RESULT | {"restrict", "var_index"}
EMBEDDING_KEY = "X_mnn"  # of obsm: corrected cells in the dimensions in which distances are taken
SAMPLED = "mnn_sample"  # column of obs: number of a cell in the recorded sample; -1 outside it
EMBEDDED = f"obsm[{EMBEDDING_KEY!r}]"
FOR = "distances between cells: PCA, neighbours, embeddings, clusters, trajectories"
SUPPORT = "mnn_support"  # column of obs, if refined: see :mod:`mnndask.core.support`
COLUMNS = {SAMPLED: "i", SUPPORT: "f"}  # that a correction adds to obs, and their kinds
REMEDY = "Give a result of mnn_correct or of the command, written by this or an earlier version of mnndask."


@dataclass(frozen=True)
class Record:
    """A correction: its parameters, its steps, and measures of it.

    Parameters
    ----------
    parameters
        Parameters that were set.
    batches
        Names of the batches, in input order.
    steps
        One row per batch, in merge order.
    sketch
        Maximum number of fitted cells per batch, and how they were drawn; None if all cells were fitted.
    overall, mixing
        Measures over all cells, and by batch; None if there are too few cells.
    sample
        Cells on which the correction was measured; see :class:`mnndask.diagnostics.sample.SampledCells`. None
        if it was not measured.
    meaning
        What the corrected values are; see :func:`meaning_of_values`.
    order
        The merges as nested lists of names, in JSON: the reference, and what merged into it, in turn. Of
        groups that were corrected apart, an object with that of each.
    confounded
        The protected column, if it is constant in each batch and differs between them.
    genes
        Genes that the correction changed most; None if that was not measured.
    version
        Version of mnndask that corrected the data.
    """

    parameters: Mapping[str, Any]
    batches: np.ndarray
    steps: pd.DataFrame
    sketch: Mapping[str, Any] | None = None
    overall: pd.DataFrame | None = None
    mixing: pd.DataFrame | None = None
    sample: Mapping[str, Any] | None = None
    meaning: Mapping[str, str] | None = None
    order: str | None = None
    confounded: str | None = None
    genes: pd.DataFrame | None = None
    version: str = __version__

    @classmethod
    def of(
        cls,
        parameters: Mapping[str, Any],
        history: MergeHistory,
        *,
        sketch_size: int | None,
        groups: Sequence[str] = (),
        confounded: str | None = None,
    ) -> Record:
        """Record a fit that has not yet been measured. `groups` are the names of those corrected apart.

        Parameters that are None or empty, or that do not affect the corrected values, are left out.
        """
        given = {key: value for key, value in parameters.items() if key not in NOT_RECORDED}
        stored = {key: _storable(value) for key, value in given.items() if value is not None}
        kept = {key: value for key, value in stored.items() if not isinstance(value, dict) or value}
        sketch = None
        if sketch_size is not None:
            sketch = {"size": sketch_size, "method": parameters["sketch_method"]}
        meaning = meaning_of_values(parameters)
        trees, names = named_trees(history), np.array(history.cells.names)
        order = json.dumps(dict(zip(groups, trees, strict=True)) if groups else trees[0])
        steps = _steps_of(history)
        return cls(kept, names, steps, sketch, meaning=meaning, order=order, confounded=confounded)

    @exclusive()
    def measured(
        self,
        columns: pd.DataFrame,
        sample: Mapping[str, Any],
        overall: pd.DataFrame | None,
        mixing: pd.DataFrame | None,
    ) -> Record:
        """Return the record with measures: `columns` are added to the steps."""
        steps = self.steps.join(columns.set_axis(self.steps.index))
        return replace(self, steps=steps, sample=sample, overall=overall, mixing=mixing)

    def to_uns(self) -> dict[str, Any]:
        """Return ``uns["mnn"]``: strings, numbers, flat arrays and tables, supported by both file formats."""
        parts = {
            "version": self.version,
            "format_version": FORMAT_VERSION,
            "parameters": self.parameters,
            "batches": self.batches,
            "steps": self.steps,
            "sketch": self.sketch,
            "overall": self.overall,
            "mixing": self.mixing,
            "sample": self.sample,
            "values": self.meaning,
            "order": self.order,
            "confounded": self.confounded,
            "genes": self.genes,
        }
        return {key: value for key, value in parts.items() if value is not None}

    @classmethod
    def from_uns(cls, uns: Any, holder: str) -> Record:
        """Read ``uns["mnn"]`` of the result that messages call `holder`.

        Raises
        ------
        InputError
            If there is none, it is of the first version, or a later mnndask wrote it.
        InputReadError
            If it is damaged.
        """
        if not isinstance(uns, Mapping) or not {"steps", "batches"} <= set(uns):
            what = f"{holder} records no correction (there is no uns['mnn'])."
            raise InputError(what, REMEDY)
        found = str(uns.get("format_version", 0))
        known = found.isdecimal() and len(found) < 10
        if known and int(found) > FORMAT_VERSION:
            what = (
                f"{holder} has a record of format {found}; this mnndask reads formats up to {FORMAT_VERSION}."
            )
            raise InputError(what, "Upgrade mnndask: pip install --upgrade mnndask.")
        if known and int(found) < FORMAT_VERSION and "sample" not in uns:
            what = f"{holder} was corrected by a version of mnndask that recorded no measures."
            raise InputError(what, REMEDY)
        damaged = record_problem(uns) if known else "format_version"
        if damaged is not None:
            what = f"{holder} is damaged: uns['mnn'], {damaged}, is not as mnndask wrote it."
            raise InputReadError(what, "Copy it again, or correct the data again.")
        optional = {key: uns.get(key) for key in ("sketch", "overall", "mixing", "sample", "genes")}
        parameters = uns.get("parameters", {})
        return cls(
            parameters,
            np.asarray(uns["batches"]),
            uns["steps"],
            **optional,
            order=uns.get("order"),
            confounded=uns.get("confounded"),
            meaning=uns.get("values") or meaning_of_values(parameters),
            version=str(uns.get("version", "unknown")),
        )


def meaning_of_values(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Describe the corrected values: where they are, on which scale, what they are for, and what not.

    Parameters
    ----------
    parameters
        Those of the correction; missing ones have their defaults.
    """
    if parameters.get("genes") == "none":
        return {
            "where": EMBEDDED,
            "scale": _of_embedding(parameters),
            "for": FOR,
            "not_for": "anything that needs values of genes: use the uncorrected values",
        }
    layer = parameters.get("layer_added")
    embedded = {}
    if parameters.get("n_components") is not None:
        embedded = {"embedding": f"{EMBEDDED}: {_of_embedding(parameters)}"}
    normalised = bool(parameters.get("cos_norm_out", True))
    scale = "the scale of the input (usually log-transformed), shifted by the correction"
    if normalised:
        scale = (
            "cosine-normalised: each cell was divided by its length over the genes used for distances, then "
            "shifted by the correction; not the log scale of the input"
        )
    not_for = "differential expression, dot plots, marker tests or anything that needs counts"
    other = "use the uncorrected values for these"
    if normalised:
        other += ", or cos_norm_out=False for corrected values on the scale of the input"
    return {
        "where": "X" if layer is None else f"layers[{layer!r}]",
        "scale": scale,
        "for": FOR,
        "not_for": f"{not_for}: {other}",
        **embedded,
    }


def _of_embedding(parameters: Mapping[str, Any]) -> str:
    """Describe the coordinates of an embedding."""
    cells = "cosine-normalised cells" if parameters.get("cos_norm_in", True) else "cells"
    return f"corrected cells in up to {parameters['n_components']} principal components of the {cells}"


def merged(steps: pd.DataFrame) -> pd.DataFrame:
    """Rows of the batches that were merged into others."""
    return steps[_is_merged(steps)]


def never_moved(steps: pd.DataFrame) -> list[str]:
    """Names of the batches that were not: the reference, or that of each group."""
    return list(map(str, steps["batch"][~_is_merged(steps)]))


def _is_merged(steps: pd.DataFrame) -> np.ndarray:
    if "n_reference" in steps:
        return np.asarray(steps["n_reference"] > 0)
    return np.arange(len(steps)) > 0  # records of older versions


def _steps_of(history: MergeHistory) -> pd.DataFrame:
    """Return a table with one row per batch, in merge order; a batch that never moves has no pairs.

    References are those of the last merge that moves a batch; pairs are of all of them.
    """
    order, cells, sizes = history.order, history.cells, history.cells.n_fitted
    last = [history.last_merge_of(b) for b in order]
    pairs = [m.pairs if m else None for m in last]
    moves = {b: [m.pairs_of(b, sizes) for m in history.merges_of(b)] for b in order}
    effects = {}
    if history.parameters.refine:
        effects = {"effect": [m.effect(b, sizes) if m else np.nan for b, m in zip(order, last, strict=True)]}
    return pd.DataFrame(
        {
            "batch": [cells.names[b] for b in order],
            "n_cells": [cells.raw[b].n_cells for b in order],
            "n_used": [sizes[b] for b in order],
            "n_reference": [p.n_reference if p else 0 for p in pairs],
            "n_reference_used": [p.n_reference_used if p else 0 for p in pairs],
            "n_pairs": [sum(len(new) for new, _ in moves[b]) for b in order],
            "n_paired_cells": [len(np.unique(moves[b][-1][0])) if moves[b] else 0 for b in order],
            "n_paired_reference": [len(np.unique(moves[b][-1][1])) if moves[b] else 0 for b in order],
            **effects,
            **_support_of(history),
        },
        index=pd.Index([str(i) for i in range(len(order))], name="step"),
    )


def _support_of(history: MergeHistory) -> dict[str, list[float]]:
    """Columns of the steps, if refined: mean support, and the share of cells with little of it."""
    if not history.parameters.refine:
        return {}
    found = [history.support[b] for b in history.order]
    return {
        "support": [np.nan if own is None else float(own.mean()) for own in found],
        "unsupported": [np.nan if own is None else float((own < LITTLE).mean()) for own in found],
    }


def _storable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _storable(v) for k, v in value.items()}
    if isinstance(value, str | bool | int | float | np.generic):
        return value
    if any(isinstance(part, list | tuple) for part in value):
        return json.dumps(value, default=int)  # a nested order
    array = np.asarray(list(value))
    return array.astype(str) if array.dtype.kind in "OUS" else array
