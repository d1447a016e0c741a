"""Genes and batches of inputs, as a fitted estimator knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnndask._typing import Rows
from mnndask.api.call import Call
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.engine.apply import Wanted
from mnndask.errors import GenesError, InputError, InputKeyError, InputTypeError
from mnndask.io.genes import resolve_subset
from mnndask.io.opened_inputs import Inputs


def columns_of_result(inputs: Inputs, call: Call) -> Rows | None:
    """Return the columns of the inputs that results have; None for all.

    Raises
    ------
    InputError, InputKeyError
        If a subset is wanted that is not given, or unknown.
    """
    if call.reading.genes != "subset":
        return None
    if call.parameters.var_subset is None:
        what = "genes='subset' was given, but no var_subset."
        raise InputError(what, "Name the genes: var_subset=[...], or leave genes out to correct all.")
    return resolve_subset(inputs.genes, call.parameters.var_subset)


def of_result(inputs: Inputs, call: Call) -> Inputs:
    """Return the inputs with the genes that results have; check that results can be of their kind."""
    if call.packing.layer_added is not None and inputs.kind != "anndata":
        what = f"layer_added={call.packing.layer_added!r} was given, but {inputs.labels[0]} is a matrix."
        raise InputTypeError(what, "Leave layer_added out, or pass AnnData.")
    columns = columns_of_result(inputs, call)
    return inputs if columns is None else inputs.of_genes(columns)


def wanted_of_fit(call: Call, kind: str, spaces: GeneSpaces, *, embeds: bool) -> Wanted:
    """Return what is computed for results of a kind, by a fit that allows embeddings or not.

    Raises
    ------
    InputError
        If the fit does not allow it: parameters have changed since.
    """
    wanted = call.wanted(kind)
    if wanted.genes:
        spaces.check_genes()
    elif not embeds:
        what = "genes='none' was given, but the correction was fitted without n_components."
        raise InputError(what, "Fit it again with n_components=50, say.")
    return replace(wanted, embedding=wanted.embedding and embeds)


def names_of_result(
    known: NDArray[Any] | None, n_genes: int, given: Sequence[str] | None, columns: Rows | None
) -> NDArray[Any]:
    """Return the names of the genes of results: those of the fitted data, else those given, else numbered."""
    if given is not None and (len(given) != n_genes or (known is not None and list(given) != list(known))):
        what = f"input_features are not the {n_genes} genes that were fitted."
        raise GenesError(what, "Give corrector.feature_names_in_, or leave input_features out.")
    names = known if known is not None else given
    all_names = np.array([f"x{i}" for i in range(n_genes)] if names is None else list(names), dtype=object)
    return all_names if columns is None else all_names[columns]


def check_fitted_genes(inputs: Inputs, n_genes: int, known: Sequence[Any] | None) -> None:
    """Refuse inputs with other genes than the fitted ones."""
    label = inputs.labels[0]
    if inputs.n_genes != n_genes:
        what = f"{label} has {inputs.n_genes} genes, but the fit had {n_genes}."
        raise GenesError(what, "Give the genes of the fit, in the same order.")
    if known is not None and inputs.genes is not None and list(known) != list(inputs.genes):
        what = f"{label} has other genes than the fit, or in another order."
        raise GenesError(
            what, "Give the genes of the fit, in the same order: batch[:, corrector.feature_names_in_]."
        )


def fitted_batches(inputs: Inputs, fitted: list[str]) -> list[int]:
    """Index of the fitted batch of each input batch: by name if it has one, else by position."""
    if not inputs.named and len(inputs.sources) != len(fitted):
        what = f"{len(inputs.sources)} batch(es) were given, but {len(fitted)} were fitted."
        raise InputError(what, f"Name the batches: batches=[...], from {', '.join(fitted)}.")
    names = inputs.names if inputs.named else fitted
    unknown = [name for name in names if name not in fitted]
    if unknown:
        what = f"Batch {unknown[0]!r} was not fitted."
        raise InputKeyError(what, f"Fitted batches: {', '.join(fitted)}.")
    return [fitted.index(name) for name in names]
