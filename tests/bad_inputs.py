"""Bad input of every kind, and what is said of it."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import GENES, as_anndata, make_batches
from scipy import sparse

from mnndask.errors import GenesError, InputError, InputKeyError, InputTypeError, NonFiniteError

A, B = make_batches((24, 20))
A, B = make_batches((24, 20))
SOME = [np.arange(12, 24), np.arange(10, 20)]  # cells to fit on, for `restrict`


def spoiled(X, *rows, value=np.nan):
    """A copy that is not finite in some rows."""
    out = X.copy()
    out[list(rows), 2] = value
    return out


def lazy(X):
    return da.from_array(X, chunks=(7, X.shape[1]))


def labelled(X, labels, name="a", key="s"):
    """An AnnData with a column of labels."""
    adata = as_anndata(X, name)
    adata.obs[key] = labels
    return adata


def named(X, genes):
    adata = ad.AnnData(X)
    adata.var_names = genes
    return adata


def array(X, genes=GENES, dims=("cell", "gene")):
    return xr.DataArray(X, dims=dims, coords={dims[1]: genes})


def interleaved(X):
    """One AnnData of two batches in turn, x and y."""
    return labelled(X, ["x", "y"] * (X.shape[0] // 2))


def unknown_chunks(X):
    return lazy(X)[lazy(X)[:, 0] >= 0]


def pair(change):
    return lambda _: (change(A), change(B))


def anndatas(_):
    return as_anndata(A), as_anndata(B, "b")


def arrays(_):
    return A, B


CASES = []


def case(name, error, first, second, data=arrays, **options):
    """A case: `data(folder)` gives the batches; each line of the message contains a given text."""
    return pytest.param(error, first, second, data, options, id=name)


def bad(*what, **options):
    """Add a case."""
    CASES.append(case(*what, **options))


# fmt: off
# genes
bad("fewer-genes", GenesError, "batch 1 has 30 genes, batch 0 has 40", "Select the genes",
    lambda _: (A, B[:, :30]))
bad("gene-order", GenesError, "batch 1 has the genes of batch 0 in another order", "[:, reference.var_names]",
    lambda _: (as_anndata(A), as_anndata(B, "b")[:, ::-1]))
bad("gene-order-dataarray", GenesError, "batch 1 has the genes of batch 0 in another order", "Align",
    lambda _: (array(A), array(B, GENES[::-1])))
bad("gene-order-after-unnamed", GenesError, "batch 2 has the genes of batch 1 in another order", "Align",
    lambda _: (xr.DataArray(A, dims=("cell", "gene")), array(B), array(B, GENES[::-1])))
bad("other-genes", GenesError, "batch 1 has other genes than batch 0, e.g. other", "Select the genes",
    lambda _: (named(A, GENES), named(B, ["other", *GENES[1:]])))
bad("duplicate-genes", GenesError, "batch 0 has duplicate gene names, e.g. g1", "var_names_make_unique",
    pair(lambda X: named(X, ["g1", *GENES[1:]])))
bad("zero-genes", InputError, "batch 0 has no genes", "selected", pair(lambda X: X[:, :0]))
bad("subset-unknown", InputKeyError, "var_subset names 4 unknown gene(s): p, q, r", "var_names", anndatas,
    var_subset=["g1", "p", "q", "r", "t"])
bad("subset-empty", InputError, "var_subset is empty", "leave it out", anndatas, var_subset=[])
bad("subset-duplicates", InputError, "var_subset names genes twice, e.g. g2", "once", anndatas,
    var_subset=["g1", "g2", "g2"])
bad("subset-mask", InputTypeError, "var_subset is a boolean mask", "var_names[mask]", anndatas,
    var_subset=np.ones(40, bool))
bad("subset-string", InputTypeError, "var_subset is one string", "Give the names", anndatas, var_subset="g1")
bad("subset-number", InputTypeError, "var_subset is 5", "Give the names", anndatas, var_subset=5)
bad("subset-nested", InputTypeError, "var_subset", "Give the names", anndatas, var_subset=[["g1"], ["g2"]])
bad("subset-without-index", InputError, "var_subset was given for matrices whose genes have no names",
    "var_index=", var_subset=["g1"])
bad("index-short", GenesError, "var_index has 5 names, the batches have 40 genes", "one name per column",
    var_index=GENES[:5])
bad("index-long", GenesError, "var_index has 41 names, the batches have 40 genes", "one name per column",
    var_index=[*GENES, "x"])
bad("index-duplicates", GenesError, "var_index has duplicate gene names, e.g. g3", "unique",
    var_index=["g3", *GENES[1:]])
bad("index-number", InputTypeError, "var_index is 5", "one name per column", var_index=5)

# values
bad("nan", NonFiniteError, "batch '1' contains NaN or infinity in row 3.", "nan_to_num",
    lambda _: (A, spoiled(B, 3)))
bad("inf", NonFiniteError, "batch '0' contains NaN or infinity in rows 3 to 9 (2 of them)", "Remove",
    lambda _: (spoiled(A, 3, 9, value=-np.inf), B))
bad("nan-csr", NonFiniteError, "batch '1' contains NaN or infinity in row 3.", "Remove",
    lambda _: (sparse.csr_matrix(A), sparse.csr_matrix(spoiled(B, 3))))
bad("inf-csc", NonFiniteError, "batch '0' contains NaN or infinity in rows 0 to 5 (2", "Remove",
    lambda _: (sparse.csc_array(spoiled(A, 0, 5, value=np.inf)), sparse.csc_array(B)))
bad("nan-anndata", NonFiniteError, "batch 'q' contains NaN or infinity in row 8.", "Remove",
    lambda _: (labelled(A, "p"), labelled(spoiled(B, 8), "q", "b")), batch_key="s")
bad("nan-dask", NonFiniteError, "batch '1' contains NaN or infinity in rows 1 to 19 (3 of them)", "Remove",
    lambda _: (lazy(A), lazy(spoiled(B, 1, 9, 19))))
bad("nan-split", NonFiniteError, "batch 'y' contains NaN or infinity in rows 3 to 13 (2 of them)", "Remove",
    lambda _: (interleaved(spoiled(A, 3, 13)),), batch_key="s")
bad("nan-split-csr", NonFiniteError, "batch 'x' contains NaN or infinity in row 4.", "Remove",
    lambda _: (interleaved(sparse.csr_matrix(spoiled(A, 4))),), batch_key="s")
bad("nan-not-fitted", NonFiniteError, "batch '1' contains NaN or infinity in rows 2 to 7 (2 of them)",
    "Remove", lambda _: (A, spoiled(B, 2, 7)), restrict=SOME)
bad("nan-not-fitted-csr", NonFiniteError, "batch '0' contains NaN or infinity in row 1.", "Remove",
    lambda _: (sparse.csr_matrix(spoiled(A, 1)), sparse.csr_matrix(B)), restrict=SOME)
bad("nan-not-fitted-split", NonFiniteError, "batch 'y' contains NaN or infinity in row 3.", "Remove",
    lambda _: (interleaved(spoiled(A, 3)),), batch_key="s", restrict=[None, np.arange(2, 12)])
bad("nan-not-fitted-lazy", NonFiniteError, "batch '1' contains NaN or infinity in row 8.", "Remove",
    lambda _: (lazy(A), lazy(spoiled(B, 8))), restrict=SOME)
bad("nan-not-fitted-lazy-split", NonFiniteError, "batch 'y' contains NaN or infinity in row 3.", "Remove",
    lambda _: (interleaved(lazy(spoiled(A, 3))),), batch_key="s", restrict=[None, np.arange(2, 12)])
bad("complex", InputTypeError, "batch 1 has dtype complex128", "astype", lambda _: (A, B.astype(complex)))
bad("strings", InputTypeError, "batch 0 has dtype <U", "astype", pair(lambda X: X.astype(str)))
bad("objects", InputTypeError, "batch 0 has dtype object", "astype", pair(lambda X: X.astype(object)))
bad("structured", InputTypeError, "batch 0 has dtype", "astype",
    pair(lambda X: np.zeros(X.shape, [("a", "f8")])))
bad("complex-csr", InputTypeError, "batch 1 has dtype complex128", "astype",
    lambda _: (sparse.csr_array(A), sparse.csr_array(B * 1j)))
bad("masked", InputTypeError, "batch 0 is a masked array", "filled",
    pair(lambda X: np.ma.masked_greater(X, 3)))
bad("1-d", InputError, "batch 1 has 1 dimension(s)", "cells by genes", lambda _: (A, B[0]))
bad("3-d", InputError, "batch 0 has 3 dimension(s)", "cells by genes", pair(lambda X: X[None]))
bad("dataarray-dims", InputError, "batch 1 has dimensions ('c', 'g'), batch 0 has ('cell', 'gene')", "rename",
    lambda _: (array(A), array(B, dims=("c", "g"))))
bad("unknown-chunks", InputError, "batch 0 is a dask array with unknown chunk sizes", "compute_chunk_sizes()",
    pair(unknown_chunks))
bad("unknown-columns", InputError, "batch 0 is a dask array with unknown chunk sizes",
    "compute_chunk_sizes()", pair(lambda X: lazy(X)[:, lazy(X)[0] >= 0]))
bad("empty-batch", InputError, "batch 1 has no cells", "Leave it out", lambda _: (A, B[:0]))
bad("empty-batch-csr", InputError, "batch 1 has no cells", "Leave it out",
    lambda _: (sparse.csr_matrix(A), sparse.csr_matrix((0, 40))))
bad("no-X", InputError, "batch 0 has no X", "layer=",
    pair(lambda X: ad.AnnData(obs=pd.DataFrame(index=map(str, range(len(X)))))))

# kinds
bad("mixed", InputTypeError, "mixed kinds: batch 0 is anndata, batch 1 is array", "one kind",
    lambda _: (as_anndata(A), B))
bad("mixed-sparse", InputTypeError, "mixed kinds: batch 0 is sparse, batch 1 is array", "one kind",
    lambda _: (sparse.csr_matrix(A), B))
bad("list", InputTypeError, "A batch is an object of type list", "mnn_correct(*batches)", lambda _: ([A, B],))
bad("frame", InputTypeError, "A batch is an object of type pandas", "as one of: AnnData", pair(pd.DataFrame))
bad("nothing", InputTypeError, "No data was given", "two or more batches", lambda _: ())

# parameters
for k in (0, -3, np.int64(-1), 2.5, 5.0, np.nan, "5", None, True):
    bad(f"k={k!r}", InputError, f"k is {k!r}", "at least 1", k=k)
for sigma in (0, -1.0, np.nan, np.inf, "1", None, 1j, [1.0]):
    bad(f"sigma={sigma}", InputError, f"sigma is {sigma!r}", "positive number", sigma=sigma)
for svd_dim in (-1, 1.5, "2", True):
    bad(f"svd_dim={svd_dim!r}", InputError, f"svd_dim is {svd_dim!r}", "number of dimensions",
        svd_dim=svd_dim)
for n in (0, -1, 2.5, "5", True):
    bad(f"pair_averaging={n!r}", InputError, f"pair_averaging is {n!r}", "at least 1", refine=True,
        pair_averaging=n)
for sigmas in (0.3, (), (0.3, 0), [np.nan], "0.3", {0.3: 1}, [True], ["0.3"], [[0.3]], np.array(0.3)):
    bad(f"repair_sigmas={sigmas!r}", InputError, f"repair_sigmas is {sigmas!r}", "positive numbers",
        refine=True, repair_sigmas=sigmas)
for strength in (-0.1, np.nan, np.inf, "1", None, [1.0]):
    bad(f"shrinkage={strength!r}", InputError, f"shrinkage is {strength!r}", "at least 0", refine=True,
        shrinkage=strength)
bad("refine", InputTypeError, "refine is 'yes'", "True or False", refine="yes")
for option in ({"pair_averaging": 5}, {"repair_sigmas": [0.3]}, {"shrinkage": 0.0}):
    name, value = next(iter(option.items()))
    bad(f"{name} alone", InputError, f"{name}={value!r} given without refine", "Set refine=True", **option)
bad("svd_mode", InputError, "svd_mode is 'arpack'", "svd, rsvd, irlb", svd_mode="arpack")
nested = [[0, 1], [1]], [[0, 1], []], [[0, 1.0]]
for order in ([0], [0, 0], [1, 2], [0, 1, 2], ["x", "y"], [None, 0], [], *nested):
    bad(f"order={order}", InputError, f"mnn_order {order} is no permutation", "Name each once",
        mnn_order=order)
bad("order-number", InputError, "mnn_order 1 is no permutation", "Name each once", mnn_order=1)
bad("unknown-option", InputTypeError, "Unknown option(s): colour", "ncv, tol, maxiter, v0", colour=3)
bad("unknown-option-irlb", InputTypeError, "Unknown option(s): colour", "ncv, tol, maxiter, v0",
    svd_mode="irlb", colour=3)
bad("lanczos-elsewhere", InputTypeError, "ncv", "svd_mode='irlb'", ncv=9)
bad("lanczos-value", InputError, "ncv", "svd", svd_mode="irlb", svd_dim=2, ncv=1)
bad("n_jobs", InputError, "n_jobs is 0", "-1", n_jobs=0)
bad("random_state", InputError, "random_state is -1", "seed", svd_dim=2, random_state=-1)
bad("restrict-length", InputError, "restrict has 1 entries for 2 batches", "per batch", restrict=[None])
bad("restrict-number", InputError, "restrict is 5", "per batch", restrict=5)
for name, rows, problem in [
    ("range", [20], "names rows outside 0 to 19"),
    ("negative", [-1], "names rows outside 0 to 19"),
    ("duplicates", [3, 3], "names rows twice"),
    ("empty", [], "is empty"),
    ("mask-length", np.ones(3, bool), "is a mask of 3 cells, not 20"),
    ("names", ["b1"], "is not a one-dimensional array of row numbers"),
    ("fractions", [0.5], "is not a one-dimensional array of row numbers"),
]:
    bad(f"restrict-{name}", InputError, f"restrict of batch '1' {problem}", "each once",
        restrict=[None, rows])

# annotations
bad("key-missing", InputKeyError, "obs['sample']", "one of: depth", lambda _: (as_anndata(A),),
    batch_key="sample")
bad("key-nan", InputError, "batch 0 has 1 missing value(s) in obs['s']", "Fill",
    lambda _: (labelled(A, ["x"] * 23 + [np.nan]),), batch_key="s")
bad("key-nan-in-second", InputError, "batch 1 has 20 missing value(s) in obs['s']", "Fill",
    lambda _: (labelled(A, "x"), labelled(B, np.nan, "b")), batch_key="s")
bad("key-varies", InputError, "batch 1 has 2 values in obs['s']", "another batch_key",
    lambda _: (labelled(A, "x"), labelled(B, ["y", "z"] * 10, "b")), batch_key="s")
bad("key-same-text", InputError, "obs['s']", "another batch_key",
    lambda _: (labelled(A, 1), labelled(B, "1", "b")), batch_key="s")
bad("key-lists", InputTypeError, "obs['s']", "strings",
    lambda _: (labelled(A, pd.Series([["x"], ["y"]] * 12).to_numpy()),), batch_key="s")
bad("categories-short", InputError, "batch_categories has 1 name(s) for 2 batches", "one per batch",
    batch_categories=["a"])
bad("categories-twice", InputError, "batch_categories names a batch twice: ['a', 'a']", "its own name",
    anndatas, batch_categories=["a", "a"])
bad("categories-none", InputError, "batch_categories", "one per batch", anndatas,
    batch_categories=["a", None])
bad("categories-string", InputTypeError, "batch_categories is one string", "one per batch", anndatas,
    batch_categories="ab")
bad("categories-number", InputTypeError, "batch_categories is 2", "one per batch", anndatas,
    batch_categories=2)
bad("categories-disagree", InputError,
    "batch_categories ['p', 'q'] disagree with obs['s'], which says ['x', 'y']", "Leave batch_categories out",
    lambda _: (labelled(A, "x"), labelled(B, "y", "b")), batch_key="s", batch_categories=["p", "q"])
bad("categories-disagree-split", InputError, "batch_categories ['x', 'z'] disagree with obs['s']",
    "Name its values", lambda _: (interleaved(A),), batch_key="s", batch_categories=["x", "z"])
bad("categories-short-split", InputError, "batch_categories has 1 name(s) for 2 batches", "one per batch",
    lambda _: (interleaved(A),), batch_key="s", batch_categories=["x"])
bad("layer-unknown", InputKeyError, "batch 0 has no layer 'counts'", "Its layers are: twice", anndatas,
    layer="counts")
bad("layer-of-matrix", InputTypeError, "layer='counts' was given, but batch 0 is a matrix",
    "Leave layer out", layer="counts")
# fmt: on
