"""Values that the method does not expect are noticed in the cells that were read, and only those."""

from __future__ import annotations

import warnings

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from helpers import as_anndata, counted, make_batches
from scipy import sparse

from mnndask import mnn_correct
from mnndask.datasets import simulate

GENES = 60


def counts(seed=0, depth=3.0, n=80):
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.5, depth, (3, GENES))[rng.integers(3, size=n)]
    return rng.poisson(rates * rng.gamma(2.0, 0.5, (n, 1))).astype(np.float32)


def lognormalised(seed=0, depth=3.0, target=1e4):
    X = counts(seed, depth)
    return np.log1p(target * X / np.maximum(X.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def scaled(X):
    return (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-3)


def said(*batches, **options):
    """Warnings of one call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mnn_correct(*batches, k=5, **options)
    return [str(warning.message) for warning in caught]


FORMS = {
    "array": lambda X: X,
    "csr": sparse.csr_matrix,
    "dask": lambda X: da.from_array(X, chunks=(30, -1)),
    "integers": lambda X: X.astype(np.int32),
}


@pytest.mark.parametrize("form", FORMS)
def test_raw_counts_are_named(form):
    batches = [FORMS[form](counts(seed)) for seed in (0, 1)]
    [message] = said(*batches)
    assert message.startswith("The values of batches '0' and '1' look like raw counts: integers up to ")
    assert "normalize_total" in message
    assert "layer=..." in message


def test_only_the_batch_that_has_them_is_named():
    [message] = said(lognormalised(0), counts(1))
    assert message.startswith("The values of batch '1' look like raw counts")


def test_untransformed_values_are_named():
    [message] = said(*[np.expm1(lognormalised(seed)) for seed in (0, 1)])
    assert "look not log-transformed: values up to " in message


@pytest.mark.parametrize("spoil", [scaled, lambda X: X - X.mean(axis=0), lambda X: np.clip(scaled(X), -1, 1)])
def test_centred_values_are_named_only_where_cells_are_normalised(spoil):
    batches = [spoil(lognormalised(seed)) for seed in (0, 1)]
    [message] = said(*batches)
    assert "look z-scored or centred" in message
    assert said(*batches, cos_norm_in=False, cos_norm_out=False) == []


@pytest.mark.parametrize("depth", [0.05, 0.3, 3.0, 100.0])
@pytest.mark.parametrize("target", [None, 1e3, 1e4, 1e6])
def test_log_normalised_values_of_any_depth_are_not(depth, target):
    batches = [counts(s, depth) if target is None else lognormalised(s, depth, target) for s in (0, 1)]
    if target is None:
        batches = [np.log2(1 + X) for X in batches]
    batches = [X + (X.sum(axis=1, keepdims=True) == 0) for X in batches]  # no empty cells
    assert said(*batches) == []


def test_simulated_and_binary_values_are_not():
    batches = simulate(300, 200, 2)
    assert said(*batches, var_subset=batches[0].var_names) == []
    assert said(*[(counts(seed) > 0).astype(np.float32) for seed in (0, 1)]) == []
    assert said(*make_batches()) == []


def test_a_layer_is_judged_by_its_own_values():
    batches = [
        as_anndata(lognormalised(seed), f"b{seed}_", [f"g{i}" for i in range(GENES)]) for seed in (0, 1)
    ]
    for seed, batch in enumerate(batches):
        batch.layers["counts"] = counts(seed)
    assert said(*batches) == []
    assert len(said(*batches, layer="counts")) == 1


def test_lazy_data_is_not_read_again():
    lazy, reads = zip(*[counted(counts(seed), (40, GENES)) for seed in (0, 1)], strict=True)
    assert len(said(*lazy)) == 1
    assert [list(one.values()) for one in reads] == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("marked", "warned"), [(20, True), (GENES, False), (0, False)])
def test_unused_highly_variable_genes_are_named_with_both_numbers(marked, warned):
    batches = [as_anndata(lognormalised(s), f"b{s}_", [f"g{i}" for i in range(GENES)]) for s in (0, 1)]
    for batch in batches:
        batch.var["highly_variable"] = np.arange(GENES) < marked
    messages = said(*batches)
    assert len(messages) == warned
    if warned:
        assert "all 60 genes" in messages[0]
        assert "marks 20" in messages[0]
    assert said(*batches, var_subset=batches[0].var_names[:20]) == []
    assert len(said(ad.concat(batches, label="batch", merge="same"))) == warned


def test_the_command_names_its_own_options(tmp_path, capsys):
    from mnndask.cli.main import main

    for seed in (0, 1):
        adata = as_anndata(counts(seed), f"b{seed}_", [f"g{i}" for i in range(GENES)])
        adata.var["highly_variable"] = np.arange(GENES) < 30
        adata.write_h5ad(tmp_path / f"{seed}.h5ad")
    with pytest.raises(SystemExit, match="0"):
        main(["correct", *[str(tmp_path / f"{s}.h5ad") for s in (0, 1)], "-o", str(tmp_path / "out.zarr")])
    err = capsys.readouterr().err
    assert "marks 30. Use these, which is usual: --hvg-key highly_variable." in err
    assert "look like raw counts" in err
    assert "--layer ..." in err
