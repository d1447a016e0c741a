"""``mnndask info`` says how a store is laid out, and what would make reading it faster."""

import anndata as ad
import numpy as np
import pytest
from anndata.io import write_elem
from helpers import as_anndata, zarr_store
from scipy import sparse

from mnndask.cli.main import main
from mnndask.io import layout


@pytest.fixture
def told(capsys):
    def info(path):
        with pytest.raises(SystemExit) as ended:
            main(["info", str(path)])
        assert ended.value.code == 0
        return capsys.readouterr().out

    return info


def adata(n=400, kind=np.asarray):
    X = np.random.default_rng(0).poisson(0.5, (n, 40)).astype("float32")
    return as_anndata(kind(X))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (np.asarray, "dense, HDF5"),
        (sparse.csr_matrix, "sparse by cells (CSR), HDF5"),
        (sparse.csc_matrix, "sparse by genes (CSC), HDF5"),
    ],
)
def test_kind_and_format_of_a_file(tmp_path, told, kind, said):
    adata(kind=kind).write_h5ad(tmp_path / "a.h5ad")
    lines = told(tmp_path / "a.h5ad")
    assert "400 cells x 40 genes, not corrected by mnndask" in lines
    assert said in lines
    assert ("store it by cells" in lines) == (kind is sparse.csc_matrix)


def test_compression_is_named_and_slow_one_marked(tmp_path, told):
    adata().write_h5ad(tmp_path / "gzip.h5ad", compression="gzip")
    assert "! gzip takes several times as long" in told(tmp_path / "gzip.h5ad")
    adata().write_h5ad(tmp_path / "lzf.h5ad", compression="lzf")
    lines = told(tmp_path / "lzf.h5ad")
    assert "; lzf" in lines
    assert "- a good layout" in lines
    adata().write_h5ad(tmp_path / "none.h5ad")
    assert "in one piece; not compressed" in told(tmp_path / "none.h5ad")


@pytest.mark.parametrize(
    ("chunks", "shards", "said"),
    [
        ((1, 40), None, "! chunks are small, "),
        ((100, 40), None, "in chunks of 100 cells, 15.6 KiB in memory"),
        ((100, 10), None, "in chunks of 100 cells x 10 genes, 3.91 KiB in memory"),
        ((10, 40), (200, 40), "in shards of "),
        ((400, 40), None, "! all cells are in one chunk"),
    ],
)
def test_chunks_and_shards_of_a_store(tmp_path, told, monkeypatch, chunks, shards, said):
    monkeypatch.setattr(layout, "LARGE", 50_000)
    path, given = tmp_path / "a.zarr", adata()
    attributes = {"encoding-type": "array", "encoding-version": "0.2.0"}
    how = {"dtype": "float32", "chunks": chunks, "shards": shards, "attributes": attributes}
    with zarr_store(path, 3) as root:
        write_elem(root, "/", ad.AnnData(obs=given.obs, var=given.var))
        root.create_array("X", shape=given.shape, **how)[:] = given.X
    assert said in told(path)


def test_a_corrected_store_has_a_summary_and_a_layout(tmp_path, told):
    paths = [tmp_path / f"{i}.zarr" for i in range(2)]
    for i, path in enumerate(paths):
        adata(60 + i).write_zarr(path)
    with pytest.raises(SystemExit):
        main(["correct", *map(str, paths), "-k5", "-q", f"-o{tmp_path / 'out.zarr'}"])
    lines = told(tmp_path / "out.zarr")
    assert "corrected by mnndask" in lines
    assert "X: 121 cells x 40 genes, dense, zarr 3" in lines
    assert "; zstd" in lines


def test_a_store_without_expression_has_no_layout(tmp_path, told):
    ad.AnnData(obs=adata().obs).write_zarr(tmp_path / "a.zarr")
    assert told(tmp_path / "a.zarr").count("\n") == 1
