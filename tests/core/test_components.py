"""Distances in principal components: what they are of, and what they leave as it was."""

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from helpers import GENES, make_batches
from transcription import transcribe

from mnndask import MNNCorrector, mnn_correct
from mnndask.core.components import Components
from mnndask.core.svd import SvdSolver
from mnndask.errors import InputError

RANK = 25  # of make_flat's cells, with every gene


def make_flat(sizes=(60, 70, 50)):
    """Cells of fewer dimensions than genes: some genes are copies of others."""
    batches = make_batches(sizes)
    for X in batches:
        X[:, RANK:] = X[:, : X.shape[1] - RANK] / 2
    return batches


def assert_equal(found, expected, allowed=1e-9):
    np.testing.assert_allclose(np.asarray(found[0]), np.asarray(expected[0]), rtol=0, atol=allowed)
    assert all(ours.equals(theirs) for ours, theirs in zip(found[1], expected[1], strict=True))


OPTIONS = {
    "defaults": {},
    "sigma": {"sigma": 0.1},
    "no variance adjustment": {"var_adj": False},
    "subset": {"var_index": GENES, "var_subset": GENES[:30]},
    "only out normalised": {"cos_norm_in": False, "sigma": 30.0},
    "only in normalised": {"cos_norm_out": False},
    "not normalised": {"cos_norm_in": False, "cos_norm_out": False, "sigma": 30.0},
    "span removed": {"svd_dim": 2, "svd_mode": "svd"},
    "span removed, subset": {"svd_dim": 2, "svd_mode": "svd", "var_index": GENES, "var_subset": GENES[:30]},
    "sketch": {"sketch_size": 40},
    "refined": {"refine": True},
    "refined, subset, span": {
        "refine": True,
        "var_adj": False,
        "svd_dim": 2,
        "svd_mode": "svd",
        "var_index": GENES,
        "var_subset": GENES[:30],
    },
    "another order": {"mnn_order": [2, 0, 1]},
}


@pytest.mark.parametrize("svd_mode", ["svd", "rsvd", "irlb"])
def test_as_many_as_cells_have_dimensions_change_nothing(svd_mode):
    batches = make_flat()
    expected = mnn_correct(*batches, k=5)
    assert_equal(mnn_correct(*batches, k=5, n_components=RANK, svd_mode=svd_mode), expected)
    fewer = mnn_correct(*batches, k=5, n_components=3)
    assert np.abs(fewer[0] - expected[0]).max() > 1e-3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_nor_with_any_option(options):
    batches = make_flat()
    expected = mnn_correct(*batches, k=5, **options)
    assert_equal(mnn_correct(*batches, k=5, n_components=RANK, **options), expected)


def test_angles_are_the_same():
    batches = make_flat()
    of_genes, of_components = (
        mnn_correct(*batches, k=5, compute_angle=True, svd_mode="svd", n_components=n)[2]
        for n in (None, RANK)
    )
    np.testing.assert_allclose(of_components[1], of_genes[1], atol=1e-6)


@pytest.mark.parametrize("n", [40, 1000])
def test_no_fewer_than_genes_are_the_genes(n):
    batches = make_batches()
    np.testing.assert_array_equal(mnn_correct(*batches, n_components=n)[0], mnn_correct(*batches)[0])


def test_coordinates_are_corrected_by_the_definition():
    """The definition, given the cells' coordinates, corrects them as the genes' corrections do."""
    batches = make_batches()
    model = MNNCorrector(k=5, n_components=6).fit(batches).model_
    cosine = [X / np.linalg.norm(X, axis=1)[:, None] for X in batches]
    components = model.components_in
    expected = transcribe([components.project(X) for X in cosine], k=5, cos_norm_in=False, cos_norm_out=False)
    for b, X in enumerate(batches):
        ours = components.project(model.correct(b, X, np.arange(len(X))))
        sure = ~expected.undecided[b]
        assert sure.mean() > 0.9
        np.testing.assert_allclose(ours[sure], expected.corrected[b][sure], rtol=0, atol=1e-9)


def test_each_batch_weighs_the_same():
    """A batch of a hundred cells along one axis counts as much as one of ten along another."""
    rng = np.random.default_rng(0)
    many, few = np.zeros((100, 5)), np.zeros((10, 5))
    many[:, 0], few[:, 1] = rng.normal(size=100), 1.5 * rng.normal(size=10)
    many -= many.mean(axis=0)
    few -= few.mean(axis=0)
    few[:, 1] *= 1.5 * many[:, 0].std() / few[:, 1].std()
    for mode, tile in (("irlb", None), ("irlb", 7), ("rsvd", None)):
        found = Components.of([many, few], 1, SvdSolver(mode), 10.0, tile)
        np.testing.assert_allclose(np.abs(found.basis[:, 0]), [0, 1, 0, 0, 0], atol=1e-12)
    pooled = np.linalg.svd(np.concatenate([many, few]))[2][0]
    np.testing.assert_allclose(np.abs(pooled), [1, 0, 0, 0, 0], atol=1e-12)


@pytest.mark.parametrize(("mode", "n", "tile"), [("irlb", 2, None), ("irlb", 2, 7), ("rsvd", 2, None)])
def test_each_cell_weighs_the_same_if_batches_are_pooled(mode, n, tile):
    """As one batch, whatever its parts: those of a random split have the components of the whole."""
    X = np.random.default_rng(0).normal(size=(60, 5)) * [4, 3, 1, 1, 1]
    whole = Components.of([X], n, SvdSolver(mode), 10.0, tile)
    parts = Components.of([X[:50], X[50:]], n, SvdSolver(mode), 10.0, tile, pooled=True)
    np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(np.abs((parts.basis * whole.basis).sum(axis=0)), 1, atol=1e-9)
    uneven = Components.of([X[:50], X[50:]], n, SvdSolver(mode), 10.0, tile)
    assert np.abs(np.abs((uneven.basis * whole.basis).sum(axis=0)) - 1).max() > 1e-4


@pytest.mark.parametrize("refine", [True, False])
def test_refined_corrections_pool_cells_and_others_do_not(refine):
    batches = [X[:n] for X, n in zip(make_batches((100, 100)), (100, 30), strict=True)]
    model = MNNCorrector(k=5, n_components=6, refine=refine, var_adj=False).fit(batches).model_
    cosine = [X / np.linalg.norm(X, axis=1)[:, None] for X in batches]
    expected = Components.of(cosine, 6, SvdSolver(), 1.0, None, pooled=refine)
    np.testing.assert_allclose(model.components_in.basis, expected.basis, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["svd", "rsvd"])
def test_those_of_the_covariance_are_the_singular_vectors(mode, dtype):
    """Of many cells and few components the covariance tells; of fewer cells, the cells themselves."""
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(n, 30)) * 0.7 ** np.arange(30)).astype(dtype) for n in (80, 50)]
    mean = np.mean([X.mean(axis=0, dtype=float) for X in batches], axis=0)
    rows = np.concatenate([(X - mean) / np.sqrt(len(X)) for X in batches])
    expected = np.linalg.svd(rows, full_matrices=False)[2][:6].T
    found = Components.of(batches, 6, SvdSolver(mode), 10.0, None)
    assert found.basis.dtype == dtype
    np.testing.assert_allclose(np.abs((found.basis * expected).sum(axis=0)), 1, atol=50 * np.finfo(dtype).eps)


def test_components_of_the_covariance_that_are_rounding_are_left_out():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 20))
    assert Components.of([plane[:30], plane[30:]], 5, SvdSolver(), 10.0, None).basis.shape == (20, 2)


def test_chunks_and_threads_do_not_matter():
    batches = make_batches((150, 120))
    whole = mnn_correct(*batches, n_components=5, n_jobs=1)[0]
    for rows in (13, 50):
        lazy = [da.from_array(X, chunks=(rows, 11)) for X in batches]
        np.testing.assert_allclose(mnn_correct(*lazy, n_components=5, n_jobs=2)[0], whole, rtol=0, atol=1e-10)


def test_annotations_record_them():
    a, b = (ad.AnnData(X, obs={"i": range(len(X))}) for X in make_batches((60, 50)))
    uns = mnn_correct(a, b, n_components=7)[0].uns["mnn"]
    assert uns["parameters"]["n_components"] == 7


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "50"])
def test_numbers_that_mean_nothing_are_refused(n):
    with pytest.raises(InputError, match=r"^n_components is .*\nGive a number of principal components"):
        mnn_correct(*make_batches(), n_components=n)
