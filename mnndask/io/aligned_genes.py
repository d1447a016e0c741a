"""Genes that files share, by name, and the column that each has in every file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mnndask._typing import Rows
from mnndask.errors import GenesError, InputError, InputKeyError, warn
from mnndask.io.anndata_store import check_anndata, open_group
from mnndask.io.changes import Changes
from mnndask.io.stored_elements import quietly_old, read_table
from mnndask.stores.location import Location

FEWEST_SHARED = 0.2  # of the genes of each file
MOST_NAMED = 5  # files in a message
ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}(\.\d+)?$")


@dataclass(frozen=True)
class SharedGenes:
    """Genes that all files share, in the order of the first.

    Parameters
    ----------
    names
        Their names.
    columns
        Their columns in each file; None where they are all its genes, in its order.
    """

    names: pd.Index
    columns: list[Rows | None]


def read_gene_names(location: Location, label: str, gene_key: str | None) -> pd.Index:
    """Read the names of the genes of a file: the index of its ``var``, or a column.

    Raises
    ------
    InputKeyError
        If there is no such column.
    GenesError
        If names are missing, or occur twice.
    """
    with open_group(location, label) as group:
        check_anndata(group, label)
        with quietly_old():
            var = read_table(group, "var", label, Changes(label), () if gene_key is None else [gene_key])
    if gene_key is None:
        names, where = var.index, "var_names"
    elif gene_key not in var:
        what = f"{label} has no column {gene_key!r} in var."
        raise InputKeyError(what, f"Its columns are: {', '.join(map(str, var)) or 'none'}.")
    else:
        names, where = pd.Index(var[gene_key]), f"var[{gene_key!r}]"
    if not len(var):
        what = f"{label} has no genes."
        raise GenesError(what, "Leave it out, or check how its genes were selected.")
    if missing := int(np.count_nonzero(names.isna())):
        what = f"{label} has {missing} missing name(s) in {where}."
        raise GenesError(what, "Name all genes, or leave out those without a name.")
    names = pd.Index(list(map(str, names)), dtype=object)
    if not names.is_unique:
        twice = [str(name) for name in names[names.duplicated()].unique()]
        what = f"{label} has {len(twice):,} name(s) of genes more than once in {where}, e.g. {_some(twice)}."
        remedy = "Make them unique: adata.var_names_make_unique()."
        if gene_key is not None:
            remedy = (
                f"Make them unique: adata.var_names = adata.var[{gene_key!r}]; adata.var_names_make_unique()."
            )
        raise GenesError(what, remedy)
    return names


def share_genes(names: Sequence[pd.Index], labels: Sequence[str], join: str) -> SharedGenes:
    """Align the genes of files by name. A warning says how many each loses.

    Raises
    ------
    InputError
        For another `join` than ``"inner"``.
    GenesError
        If files share no genes, or few.
    """
    check_join(join)
    shared = names[0]
    for own in names[1:]:
        shared = shared[shared.isin(own)]
    _check_shared(shared, names, labels)
    losing = [(len(own) - len(shared), len(own), label) for own, label in zip(names, labels, strict=True)]
    losing = sorted((one for one in losing if one[0]), key=lambda one: -one[0])
    if losing:
        said = [f"{label} loses {n:,} of {of:,}" for n, of, label in losing[:MOST_NAMED]]
        if others := len(losing) - len(said):
            said.append(f"{others} more files lose some")
        what = f"{len(shared):,} genes are in all files: {'; '.join(said)}."
        warn(what, "The others are left out, as not all files have measured them.")
    return SharedGenes(shared, [_columns(own, shared) for own in names])


def check_join(join: str) -> None:
    """Refuse any other way to join genes than by those that all files share."""
    if join == "inner":
        return
    what = f"join is {join!r}."
    if join == "outer":
        what = "join='outer' is not offered: genes that a file has not measured would count as zeros."
    raise InputError(what, "Use join='inner', which keeps the genes that all files have.")


def _columns(own: pd.Index, shared: pd.Index) -> Rows | None:
    return None if own.equals(shared) else np.asarray(own.get_indexer(shared), np.intp)


def _check_shared(shared: pd.Index, names: Sequence[pd.Index], labels: Sequence[str]) -> None:
    """Refuse files that share less than a fifth of the genes of one of them."""
    largest = max(range(len(names)), key=lambda i: len(names[i]))
    if len(shared) >= FEWEST_SHARED * len(names[largest]) and len(shared):
        return
    a, b = _least_alike(names)
    how_many = f"{len(shared):,} gene(s)" if len(shared) else "no genes"
    what = (
        f"The files share {how_many}, by name: {labels[a]} has {_some(names[a][~names[a].isin(names[b])])}; "
        f"{labels[b]} has {_some(names[b][~names[b].isin(names[a])])}."
    )
    raise GenesError(what, _remedy(names[a], names[b]))


def _least_alike(names: Sequence[pd.Index]) -> tuple[int, int]:
    """Two files that share the smallest part of the genes of the larger one; one of them is the first."""
    shares = [np.count_nonzero(names[0].isin(own)) / max(len(own), len(names[0])) for own in names[1:]]
    return (0, 1 + int(np.argmin(shares))) if shares else (0, 0)


def _remedy(a: pd.Index, b: pd.Index) -> str:
    """What to do about names of two files that differ, by how they differ."""
    if min(a.isin(b).sum(), b.isin(a).sum()) > 0.5 * min(len(a), len(b)):
        return "If the smaller file is meant to have so few, select its genes in the others first."
    ids = [np.mean([ENSEMBL.match(name) is not None for name in own[:1000]]) > 0.5 for own in (a, b)]
    versions = [bool(own.str.contains(r"\.\d+$").mean() > 0.5) for own in (a, b)]
    if all(ids) and versions[0] != versions[1]:
        return (
            "Ids of one have versions (ENSG00000000003.15). Remove them: "
            "adata.var_names = adata.var_names.str.split('.').str[0]."
        )
    if any(ids) and not all(ids):
        return (
            "One has Ensembl ids, the other symbols. Name a column of var with the same names in all files: "
            "gene_key=..."
        )
    upper = pd.Index(a.str.upper()).intersection(pd.Index(b.str.upper()))
    if len(upper) > FEWEST_SHARED * min(len(a), len(b)):
        return "Their names differ in upper and lower case. If both are of one species, write them alike."
    return (
        "Check that they are of one species, or name a column of var with the same names in all files: "
        "gene_key=..."
    )


def _some(names: Sequence[str] | pd.Index) -> str:
    return ", ".join(map(str, list(names)[:3])) or "no others"
