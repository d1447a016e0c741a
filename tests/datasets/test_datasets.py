"""Simulated data, in memory and in files."""

import anndata as ad
import numpy as np
import pytest
import zarr
from helpers import no_compute
from scipy import sparse

from mnndask import mnn_correct
from mnndask.core.cosine import cosine_lengths
from mnndask.datasets import simulation
from mnndask.datasets import streamed as stream
from mnndask.datasets.simulated import simulate, simulate_to_zarr
from mnndask.errors import InputError, OutputExistsError
from mnndask.metrics import embed, label_transfer, lisi, same_batch_fraction

SMALL = {"n_genes": 60, "n_batches": 3, "n_types": 9, "counts_per_gene": 0.5, "batch_effect": 0.45, "seed": 4}


@pytest.fixture(scope="module")
def types_of_batches():
    """Types of a larger data set, whose values need not be made."""
    tissue = simulation.simulated_tissue(20, 18, 0)
    sizes = simulation.batch_sizes(200_000, 4)
    levels = {"counts_per_gene": 1, "batch_effect": 0.15}
    batches = [simulation.simulated_batch(tissue, b, sizes, **levels, seed=0) for b in range(4)]
    return [np.bincount(batch.types, minlength=18) for batch in batches]


def test_same_seed_same_data():
    for a, b in zip(simulate(90, 30, 3, seed=4), simulate(90, 30, 3, seed=4), strict=True):
        np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    assert not np.array_equal(simulate(90, 30, 3, seed=5)[0].X.toarray(), a.X.toarray())


def test_the_effect_of_published_figures_is_what_it_was_bit_for_bit():
    """0.45 for all cells and 0.12 by lineage, the constants before there was an option."""
    tissue, sizes = simulation.simulated_tissue(70, 9, 4), [50, 40, 30]
    rates = []
    for effect in (0.45, 0.15):
        batch = simulation.simulated_batch(tissue, 1, sizes, counts_per_gene=0.5, batch_effect=effect, seed=4)
        rng = simulation.stream(4, "batch", 1)
        effects = rng.normal(0, 0.45, 70) + rng.normal(0, 0.12, (3, 70))[tissue.lineages]
        before = np.exp(tissue.log_profiles + effects).astype(np.float32)
        rates.append(np.array_equal(batch.profiles, before))
    assert rates == [True, False]
    stronger = simulate(90, 70, 3, n_types=9, seed=4, batch_effect=0.45)
    for a, b in zip(stronger, simulate(90, 70, 3, n_types=9, seed=4), strict=True):
        assert a.obs.equals(b.obs)  # nothing but the effect depends on it
        assert (a.X != b.X).nnz


def test_no_effect_leaves_composition_and_depth():
    a, b = (
        simulation.simulated_batch(
            simulation.simulated_tissue(30, 4, 0), number, [20, 20], counts_per_gene=1, batch_effect=0, seed=0
        )
        for number in (0, 1)
    )
    np.testing.assert_array_equal(a.profiles, b.profiles)
    assert a.depth != b.depth


@pytest.mark.parametrize(
    ("sizes", "options"),
    [([220, 180], {}), ([220, 180], {"n_types": 18, "counts_per_gene": 0.25})],
    ids=["many counts", "few counts"],
)
def test_two_batches_partly_mix_before_correction_as_real_ones_do(sizes, options):
    def mixing(**effect):
        batches = simulate(sizes, 300, 2, **options, **effect)
        raw = np.concatenate([b.X.toarray() for b in batches])
        return lisi(embed(raw / cosine_lengths(raw)[:, None]), np.repeat([0, 1], sizes)).mean()

    assert 1.1 < mixing() < mixing(batch_effect=0) < 2.0
    assert mixing(batch_effect=1.0) < 1.05


def test_batches_share_genes_and_lack_the_rarest_type_at_the_end():
    batches = simulate(900, 40, 3)
    assert all(b.var.equals(batches[0].var) for b in batches)
    assert all("type5" in set(b.obs["cell_type"]) for b in batches[:2])
    assert "type5" not in set(batches[2].obs["cell_type"])
    assert batches[0].X.dtype == np.float32


def test_two_types_are_rare_and_each_is_in_two_batches_at_least(types_of_batches):
    counts = np.array(types_of_batches)
    shares = counts.sum(axis=0) / counts.sum()
    assert (shares < 0.005).tolist() == [False] * 16 + [True] * 2
    assert ((counts > 0).sum(axis=0) >= 2).all()
    assert (counts == 0).any(axis=0).sum() == 6
    assert len(set(counts.sum(axis=1))) == 4


def test_sizes_add_up_and_no_batch_is_empty():
    assert simulation.batch_sizes(1_000_000, 4) == [307692, 269231, 230769, 192308]
    assert simulation.batch_sizes(19, 19) == [1] * 19
    assert simulation.batch_sizes([5, 7], 2) == [5, 7]


def test_values_are_log_normalised_counts():
    X = simulate(200, 300, 1, counts_per_gene=0.5)[0].X
    assert X.has_sorted_indices
    assert (X.data > 0).all()
    np.testing.assert_allclose(X.expm1().sum(axis=1), 1e4, rtol=1e-5)
    smallest = X.expm1().tocsr()
    counts = smallest[0].data / smallest[0].data.min()
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)


def test_counts_are_poisson():
    """Mean and variance of counts whose rates run from where most are zero to where none is."""
    rates = np.repeat(np.array([[0.05, 0.7, 5.0, 40.0]], np.float32), 40_000, axis=0)
    counts = simulation._poisson(rates, np.random.default_rng(0)).toarray()
    np.testing.assert_allclose(counts.mean(axis=0), rates[0], rtol=0.03)
    np.testing.assert_allclose(counts.var(axis=0), rates[0], rtol=0.05)
    np.testing.assert_allclose((counts == 0).mean(axis=0), np.exp(-rates[0]), atol=0.005)


def test_stored_batches_equal_those_in_memory_however_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation, "VALUES_PER_GROUP", 60 * 7)
    expected = simulate(100, **SMALL, n_jobs=1)
    for values_per_chunk, n_jobs in ((64, 1), (2**18, 3)):
        monkeypatch.setattr(stream, "VALUES_PER_CHUNK", values_per_chunk)
        paths = simulate_to_zarr(tmp_path, 100, **SMALL, n_jobs=n_jobs, overwrite=True)
        for path, batch in zip(paths, expected, strict=True):
            stored = ad.read_zarr(path)
            assert (stored.X != batch.X).nnz == 0
            assert stored.obs.equals(batch.obs)
            assert stored.var.equals(batch.var)


def test_stores_are_chunked_csr_of_format_3(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "VALUES_PER_CHUNK", 64)
    path = simulate_to_zarr(tmp_path, 100, **SMALL)[0]
    X = zarr.open_group(path)["X"]
    assert X.metadata.zarr_format == 3
    assert X["data"].chunks == X["indices"].chunks == (64,)
    assert (X["data"].dtype, X["indices"].dtype, X["indptr"].dtype) == ("float32", "int32", "int64")
    assert X["data"].nchunks_initialized == X["data"].nchunks > 1


def test_stores_open_lazily_and_are_corrected(tmp_path):
    paths = simulate_to_zarr(tmp_path, 300, **SMALL)
    with no_compute():
        lazy = [ad.experimental.read_lazy(path) for path in paths]
    assert sparse.issparse(lazy[0].X[:10].compute())
    batches = simulate(300, **SMALL)
    options = {"k": 5, "var_subset": batches[0].var_names[batches[0].var["highly_variable"]]}
    expected = mnn_correct(*batches, **options)[0].X
    for given in (lazy, paths):
        np.testing.assert_allclose(mnn_correct(*given, **options)[0].X.compute(), expected, atol=1e-5)


def test_memory_does_not_grow_with_cells(tmp_path, monkeypatch):
    """Groups that were made but not yet written are few, and none is kept."""
    held, most = set(), []
    make = simulation.SimulatedBatch.cells

    def cells(batch, group):
        held.add(group)
        most.append(len(held))
        return make(batch, group)

    def forget(blocks, *_):
        for group, _ in enumerate(blocks):
            held.discard(group)

    monkeypatch.setattr(simulation, "VALUES_PER_GROUP", 60 * 5)
    monkeypatch.setattr(simulation.SimulatedBatch, "cells", cells)
    monkeypatch.setattr("mnndask.datasets.simulated.write_csr_blocks", forget)
    simulate_to_zarr(tmp_path, 1000, **SMALL, n_jobs=2)
    assert len(most) == 201
    assert max(most) <= 6


def test_a_failure_leaves_no_part(tmp_path, monkeypatch):
    made = simulation.SimulatedBatch.cells

    def fail(batch, group):
        if batch.number == 1 and group == 2:
            raise OSError(28, "No space left on device")
        return made(batch, group)

    monkeypatch.setattr(simulation, "VALUES_PER_GROUP", 60 * 5)
    monkeypatch.setattr(simulation.SimulatedBatch, "cells", fail)
    with pytest.raises(OSError, match="No space"):
        simulate_to_zarr(tmp_path, 100, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["batch0.zarr"]
    assert ad.read_zarr(tmp_path / "batch0.zarr").n_obs == 40


def test_batches_that_are_there_are_kept_unless_told(tmp_path):
    simulate_to_zarr(tmp_path, 100, **SMALL)
    other = tmp_path / "batch.zarr"
    other.mkdir()
    with pytest.raises(OutputExistsError, match=r"batch0\.zarr and others"):
        simulate_to_zarr(tmp_path, 100, **SMALL)
    simulate_to_zarr(tmp_path, 100, **SMALL | {"n_batches": 2}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch.zarr", "batch0.zarr", "batch1.zarr"]


@pytest.mark.parametrize("sizes", [(1, 10, 2), (10, 0, 2), (10, 10, 0), ([5, 5], 10, 3), ([5, 0], 10, 2)])
def test_impossible_sizes_are_refused(sizes, tmp_path):
    with pytest.raises(InputError, match="Cannot simulate"):
        simulate(*sizes)
    with pytest.raises(InputError, match="Cannot simulate"):
        simulate_to_zarr(tmp_path / "none", *sizes)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, 10**400, "0.2", None, True, [0.1]])
@pytest.mark.parametrize("name", ["counts_per_gene", "batch_effect", "seed"])
def test_impossible_numbers_are_refused(name, value):
    wrong = {name: -1 if name == "seed" else value}
    with pytest.raises(InputError, match=rf"^Cannot simulate with {name}=.*\n") as caught:
        simulate(10, 10, 2, **wrong)
    assert len(str(caught.value)) < 150
    assert len(str(caught.value).splitlines()) == 2


def test_levels_that_are_just_possible_are_taken():
    assert len(simulate(10, 10, 2, batch_effect=np.float32(5))) == 2
    assert len(simulate(10, 10, 2, batch_effect=0, counts_per_gene=1)) == 2
    with pytest.raises(InputError, match=r"counts_per_gene=0\.0"):
        simulate(10, 10, 2, counts_per_gene=0)


def test_urls_are_refused():
    with pytest.raises(InputError, match="URL"):
        simulate_to_zarr("s3://bucket/folder", 10, 10, 2)


def test_sparse_data_of_many_types_is_neither_easy_nor_hopeless():
    """What a comparison of methods needs: types that mix up, and batches apart, but not beyond correction."""
    batches = simulate([800] * 3, 800, 3, n_types=18, counts_per_gene=0.5, batch_effect=0.45)
    raw = np.concatenate([b.X.toarray() for b in batches])
    result, _, _ = mnn_correct(*batches, var_subset=batches[0].var_names)
    before, after = embed(raw / cosine_lengths(raw)[:, None]), embed(result.X)
    batch, label = result.obs["batch"], result.obs["cell_type"]
    assert same_batch_fraction(before, batch).mean() > 0.95
    assert same_batch_fraction(after, batch).mean() < 0.7
    assert 0.8 < np.nanmean(label_transfer(after, label, batch)) < 0.98
