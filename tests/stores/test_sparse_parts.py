"""A sparse matrix whose pointers, indices and values disagree is an error, and never loses values."""

from __future__ import annotations

import shutil

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr
from helpers import as_anndata, no_compute, told
from scipy import sparse
from spoiling import LAYOUTS, B

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError, InputReadError
from mnndask.stores.lazy_matrix import lazy_matrix
from mnndask.stores.sparse_pointers import check_pointers

PLACES = ("X", "layers/twice", "obsm/near", "obsp/linked")


def begins_late(parts):
    """The first values belong to no row."""
    parts["indptr"] += np.minimum(5, parts["indptr"][1]).astype(parts["indptr"].dtype)
    parts["indptr"][-1] = len(parts["data"])


def ends_early(parts):
    """The last values belong to no row."""
    parts["indptr"][-1] -= 1


def ends_late(parts):
    parts["indptr"][-1] += 1


def decreases(parts):
    parts["indptr"][7] = parts["indptr"][9]


def is_negative(parts):
    parts["indptr"][:2] = -3


def points_outside(parts):
    parts["indices"][3] = 10_000


def points_before(parts):
    parts["indices"][3] = -1


def lacks_values(parts):
    parts["data"] = parts["data"][:-3]


def lacks_rows(parts):
    parts["indptr"] = np.delete(parts["indptr"], 5)


def is_of_fractions(parts):
    parts["indptr"] = parts["indptr"] + 0.5


SPOILING = (
    *(begins_late, ends_early, ends_late, decreases, is_negative),
    *(points_outside, points_before, lacks_values, lacks_rows, is_of_fractions),
)


def spoil(path, place, change):
    """Change the arrays of a sparse matrix; return what was there before."""
    group = (
        h5py.File(path, "a") if path.is_file() else zarr.open_group(path, mode="r+", use_consolidated=False)
    )
    matrix = group[place]
    parts = {part: matrix[part][...] for part in ("data", "indices", "indptr")}
    before = {part: values.copy() for part, values in parts.items()}
    change(parts)
    assert any(not np.array_equal(before[part], parts[part]) for part in parts)
    for part, values in parts.items():
        attributes = dict(matrix[part].attrs)
        del matrix[part]
        matrix[part] = values
        matrix[part].attrs.update(attributes)
    if path.is_file():
        group.close()
    else:
        zarr.consolidate_metadata(path)
    return before


@pytest.fixture(scope="module")
def with_sparse(tmp_path_factory):
    """Stores of one batch with a sparse matrix in each place, by kind and layout."""
    written = {}

    def write(kind, layout):
        if (kind, layout) not in written:
            adata = as_anndata(LAYOUTS[layout](B), "b")
            adata.obsm["near"] = LAYOUTS[layout](B[:, :9])
            adata.obsp["linked"] = LAYOUTS[layout](np.maximum(B @ B.T - 60, 0))
            path = tmp_path_factory.mktemp("sparse") / f"b.{kind}"
            adata.write_h5ad(path) if kind == "h5ad" else adata.write_zarr(path)
            written[kind, layout] = path
        return written[kind, layout]

    return write


@pytest.fixture
def copied(with_sparse, tmp_path):
    """Function that copies such a store, and returns its path."""

    def copy(kind, layout):
        sound = with_sparse(kind, layout)
        path = tmp_path / sound.name
        (shutil.copytree if sound.is_dir() else shutil.copyfile)(sound, path)
        return path

    return copy


@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("kind", ["zarr", "h5ad"])
@pytest.mark.parametrize("change", SPOILING, ids=lambda change: change.__name__)
def test_parts_that_disagree_are_an_error_before_any_value_is_used(change, kind, layout, copied):
    path = copied(kind, layout)
    before = spoil(path, "X", change)
    assert before["indptr"][0] == 0
    assert before["indptr"][-1] == len(before["data"])
    with pytest.raises(
        InputReadError, match=rf"b.{kind}\) is damaged: .*X.*(indptr|indices|lengths)"
    ) as caught:
        mnn_correct(path, path, k=5)
    assert str(caught.value).splitlines()[1] == "Copy or write it again."


@pytest.mark.parametrize(
    "change", [begins_late, ends_early, points_outside], ids=lambda change: change.__name__
)
@pytest.mark.parametrize("place", PLACES[1:])
def test_matrices_that_are_passed_on_are_checked_too(place, change, copied):
    path = copied("zarr", "csr")
    spoil(path, place, change)
    with pytest.raises(InputReadError, match=rf"is damaged: {place}.*(indptr|indices)"):
        lazy_matrix(zarr.open_group(path, mode="r")[place], "it").compute()


def test_pointers_are_checked_before_the_fit(copied):
    path = copied("zarr", "csr")
    spoil(path, "X", ends_early)
    with no_compute(), pytest.raises(InputReadError, match="indptr ends at"):
        mnn_correct(path, path, k=5)


@pytest.mark.parametrize("open_", [ad.experimental.read_lazy, lambda path: ad.read_h5ad(path, backed="r")])
def test_opened_objects_are_checked_before_the_fit(open_, copied):
    path = copied("h5ad", "csr")
    spoil(path, "X", ends_early)
    opened = open_(path)
    with no_compute(), pytest.raises(InputReadError, match="indptr ends at"):
        mnn_correct(opened, opened, k=5)


@pytest.mark.parametrize("change", [begins_late, ends_early], ids=lambda change: change.__name__)
def test_the_command_loses_no_values(change, copied, tmp_path, capsys):
    path = copied("zarr", "csr")
    spoil(path, "X", change)
    with pytest.raises(SystemExit) as end:
        main(["correct", str(path), str(path), "--batch-categories", "a,b", "-o", str(tmp_path / "out.zarr")])
    assert end.value.code == 2
    [line] = told(capsys.readouterr().err)
    assert f"({path}) is damaged: X cannot be read (ValueError: indptr " in line
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("layout", ["csr", "csc", "csr_array"])
@pytest.mark.parametrize("change", [ends_early, decreases, points_outside, begins_late])
def test_matrices_in_memory_are_checked(change, layout):
    X = sparse.csr_array(B) if layout == "csr_array" else LAYOUTS[layout](B)
    parts = {part: getattr(X, part) for part in ("data", "indices", "indptr")}
    change(parts)
    kept = [part.copy() for part in parts.values()]
    for data in (X, ad.AnnData(X) if change is ends_early else X):
        with pytest.raises(InputError, match="batch 0 is an inconsistent sparse matrix: ") as caught:
            mnn_correct(data, data, k=5)
        assert "prune()" in str(caught.value)
    for before, part in zip(kept, (X.data, X.indices, X.indptr), strict=True):
        np.testing.assert_array_equal(part, before)


@pytest.mark.parametrize(
    ("indptr", "first", "last", "said"),
    [
        ([1, 4, 6], 0, 2, "begins at 1, not at 0"),
        ([0, 4, 5], 8, 10, "ends at 5, but 6 values"),
        ([0, 4, 3], 2, 4, "decreases from 4 to 3 at entry 4"),
        ([0, 4, 7], 2, 4, "ends at 7, but 6 values"),
        ([-1, 4, 5], 2, 4, "ends at 5, but 6 values"),
        ([0, 4], 2, 4, "has 2 entries for 2 rows"),
    ],
)
def test_pointers_of_a_block(indptr, first, last, said):
    with pytest.raises(ValueError, match=said):
        check_pointers(np.array(indptr), first, last, (10, 6))


def test_sound_pointers_of_blocks_pass():
    check_pointers(np.array([0, 2, 2]), 0, 2, (10, 6))
    check_pointers(np.array([2, 2, 5]), 3, 5, (10, 6))
    check_pointers(np.array([5, 6]), 9, 10, (10, 6))
    check_pointers(np.array([0]), 0, 0, (0, 0))
