"""Lazy results of every kind of model, pickled here and computed in another process: what a cluster needs."""

from __future__ import annotations

import pickle
from functools import partial

import anndata as ad
import dask
import dask.array as da
import forked
import numpy as np
import pytest
import zarr
from helpers import GENES, KINDS, make_batches

from mnndask import MNNCorrector, mnn_correct
from mnndask.core import other_genes
from mnndask.engine.shared_model import KINDS as STORED_KINDS

pytestmark = pytest.mark.xdist_group("pickled models")  # one other process for all

SUBSET = {"var_index": GENES, "var_subset": GENES[::2]}
RESTRICT = [np.arange(1, 60, 2), np.arange(70), np.r_[40:50, 3:30]]
OPTIONS = {
    "all genes": {},
    "subset": SUBSET,
    "lengths of inputs only": SUBSET | {"cos_norm_out": False},
    "no lengths": SUBSET | {"cos_norm_in": False, "cos_norm_out": False},
    "components": {"n_components": 5},
    "components of a subset": SUBSET | {"n_components": 5},
    "components of two spaces": SUBSET | {"n_components": 5, "cos_norm_out": False},
    "low rank": SUBSET | {"n_components": 5, "sigma": 1e4, "k": 20},
    "spans removed": SUBSET | {"svd_dim": 2},
    "without variance adjustment": {"var_adj": False},
    "a sketch": {"sketch_size": 40, "sketch_method": "geometric"},
    "restricted, with angles": SUBSET | {"restrict": RESTRICT, "compute_angle": True},
    "on disk": SUBSET | {"memory_limit": 200_000, "svd_dim": 2},
    "on disk, two spaces": SUBSET | {"memory_limit": 200_000, "cos_norm_out": False},
    "another order": {"mnn_order": [2, 0, 1]},
    "a tree": SUBSET | {"mnn_order": [0, [1, 2]]},
}
INPUTS = ["dask-csr", "dask-column-chunks", "zarr", "lazy-zarr", "lazy-h5ad", "path-zarr", "path-h5ad"]

IN_ANOTHER_PROCESS = """
import pickle, sys, traceback
import dask
with open(sys.argv[1], "rb") as file:
    results = pickle.load(file)
computed = {}
for name, result in results.items():
    try:
        computed[name] = dask.compute(*pickle.loads(result), scheduler="threads")
    except Exception:
        computed[name] = traceback.format_exc()
with open(sys.argv[2], "wb") as file:
    pickle.dump(computed, file)
"""


def in_chunks(X):
    return da.from_array(X, chunks=(23, -1))


def lazy_result(option, scratch, patch):
    """Lazy arrays of one correction: corrected batches, and angles if asked for."""
    if option == "low rank":
        patch.setattr(other_genes, "is_worth_it", lambda *_: True)
    lazy = [in_chunks(X) for X in make_batches()]
    options = {"k": 5, "scratch": scratch, "do_concatenate": False} | OPTIONS[option]
    parts, _, angles = mnn_correct(*lazy, **options)
    return [*parts, *(angle for angle in angles or [] if angle is not None)]


def result_of_input(kind, folder):
    datas = [KINDS[kind](X, folder, f"{kind}-{i}") for i, X in enumerate(make_batches())]
    result = mnn_correct(*datas, k=5, scratch=folder)[0]
    return [result.X if isinstance(result, ad.AnnData) else result]


def cells_outside_the_fit(scratch, sizes=(30, 20, 25)):
    """New cells of the first of the fitted batches; the very first is the reference, which does not move."""
    names = [str(b) for b, _ in enumerate(sizes)]
    fitted = MNNCorrector(k=5, scratch=scratch).fit([in_chunks(X) for X in make_batches()])
    return [fitted.transform([in_chunks(X) for X in make_batches(sizes, seed=1)], batches=names)]


def batches_by_label(scratch):
    """One array whose chunks hold cells of several batches."""
    X = in_chunks(np.concatenate(make_batches()))
    adata = ad.AnnData(X)
    adata.obs["batch"] = np.resize(["one", "two", "three"], X.shape[0])
    return [mnn_correct(adata, k=5, scratch=scratch)[0].X]


def embedding(scratch, **options):
    """Genes and coordinates of two spaces, or coordinates alone."""
    datas = [ad.AnnData(in_chunks(X)) for X in make_batches()]
    options = {"n_components": 5, "cos_norm_out": False, "diagnostics": False} | options
    result = mnn_correct(*datas, k=5, scratch=scratch, **options)[0]
    return [X for X in (result.X, result.obsm["X_mnn"]) if X is not None]


OTHERS = {
    "embedded": embedding,
    "embedded, on disk": partial(embedding, memory_limit=300_000),
    "embedded alone": partial(embedding, genes="none"),
    "not in the fit": cells_outside_the_fit,
    "of the reference only": partial(cells_outside_the_fit, sizes=(30,)),
    "by label": batches_by_label,
}
NAMES = [*OPTIONS, *INPUTS, *OTHERS]


def result_of(name, folder, patch):
    if name in OPTIONS:
        return lazy_result(name, folder, patch)
    return OTHERS[name](folder) if name in OTHERS else result_of_input(name, folder)


def kinds_in(node):
    """Names of the dataclasses of a stored tree, and "stored" for matrices on disk."""
    if isinstance(node, list):
        return set().union(*map(kinds_in, node))
    if not isinstance(node, dict):
        return set()
    own = {node["kind"]} if "kind" in node else {"stored"} & node.keys()
    return own | kinds_in(list(node.values()))


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """What this process computes, and what another one does or says, by name; kinds in all stored models."""
    folder = tmp_path_factory.mktemp("pickled")
    here, pickled, failed, results = {}, {}, {}, []
    for number, name in enumerate(NAMES):
        own = folder / str(number)
        own.mkdir()
        try:
            with pytest.MonkeyPatch.context() as patch:
                result = result_of(name, own, patch)
            results.append(result)  # the model's folder goes with it
            here[name] = dask.compute(*result, scheduler="threads")
            pickled[name] = pickle.dumps(result)
        except Exception as error:
            failed[name] = repr(error)
    roots = [
        zarr.open_group(root, mode="r")
        for root in folder.glob("*/mnndask-*")
        if (root / "zarr.json").exists()
    ]
    kinds = set().union(*(kinds_in(root.attrs.get("tree")) for root in roots))
    sent, received = folder / "sent", folder / "received"
    sent.write_bytes(pickle.dumps(pickled))
    forked.run(IN_ANOTHER_PROCESS, sent, received)
    there = pickle.loads(received.read_bytes())
    return here, there | failed, kinds


@pytest.mark.parametrize("name", NAMES)
def test_another_process_computes_the_same(name, computed):
    here, there, _ = computed
    assert not isinstance(there[name], str), there[name]
    for expected, actual in zip(here[name], there[name], strict=True):
        assert actual.dtype == expected.dtype
        # Products depend on how a processor's memory is aligned, in the last bit.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


def test_these_are_all_kinds(computed):
    of_support = {"BatchSupport", "ChunkSupport"}  # while a call runs: see test_cluster
    assert computed[2] == {*STORED_KINDS, "stored"} - of_support
