"""Chunks of some genes, so that one gene can be read without the others."""

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr
from helpers import as_anndata, make_batches
from zarr.storage import LocalStore

from mnndask import write_zarr
from mnndask.cli.main import main
from mnndask.errors import InputError

BLOCK = 16 * 40 * 8  # bytes of 16 cells


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", BLOCK)
    monkeypatch.setattr("mnndask.api.write.CHUNK_BYTES", BLOCK)


@pytest.fixture
def inputs(tmp_path):
    paths = [tmp_path / f"{i}.zarr" for i in range(3)]
    for X, path in zip(make_batches(), paths, strict=True):
        as_anndata(X, path.stem).write_zarr(path)
    return paths


def correct(*words, status=0):
    with pytest.raises(SystemExit) as ended:
        main(["correct", "-q", "-k5", *map(str, words)])
    assert ended.value.code == status


@pytest.mark.parametrize("n", [1, 7, 40, 1000])
def test_values_are_the_same_in_any_chunks(inputs, tmp_path, n):
    correct(*inputs, "--n-components=8", f"-o{tmp_path / 'a.zarr'}")
    correct(*inputs, "--n-components=8", f"-o{tmp_path / 'b.zarr'}", f"--chunk-genes={n}")
    correct(*inputs, "--n-components=8", f"-o{tmp_path / 'c.h5ad'}", f"--chunk-genes={n}")
    expected, stored = ad.read_zarr(tmp_path / "a.zarr"), ad.read_zarr(tmp_path / "b.zarr")
    np.testing.assert_allclose(stored.X, expected.X, atol=1e-12)
    np.testing.assert_allclose(stored.obsm["X_mnn"], expected.obsm["X_mnn"], atol=1e-12)
    X = zarr.open_group(tmp_path / "b.zarr", mode="r")["X"]
    assert (X.chunks, X.shards[0]) == ((16, min(n, 40)), 16)
    with h5py.File(tmp_path / "c.h5ad") as file:
        assert file["X"].chunks == (16, min(n, 40))
        np.testing.assert_allclose(file["X"][:], expected.X, atol=1e-12)


def test_one_gene_is_read_without_the_others(tmp_path, monkeypatch):
    write_zarr(as_anndata(np.random.default_rng(0).random((160, 40))), tmp_path / "a.zarr", chunk_genes=4)
    sizes, get = [], LocalStore.get

    async def counting(self, key, prototype, byte_range=None):
        value = await get(self, key, prototype, byte_range)
        if value is not None and "/c/" in key:
            sizes.append(len(value))
        return value

    monkeypatch.setattr(LocalStore, "get", counting)
    gene = zarr.open_group(tmp_path / "a.zarr", mode="r")["X"][:, 13]
    assert gene.shape == (160,)
    assert sum(sizes) < 160 * 40 * 8 / 4


def test_an_output_in_such_chunks_is_resumed(inputs, tmp_path, monkeypatch):
    out, words = tmp_path / "out.zarr", [*inputs, "--chunk-genes=7"]
    correct(*words, f"-o{tmp_path / 'whole.zarr'}")
    from mnndask.io import anndata_writer

    put, n = anndata_writer._put, []

    def failing(array, start, block):
        n.append(start)
        if len(n) > 4:
            raise OSError(28, "No space left on device")
        put(array, start, block)

    with monkeypatch.context() as patch:
        patch.setattr(anndata_writer, "_put", failing)
        correct(*words, f"-o{out}", status=2)
    n.clear()
    monkeypatch.setattr(anndata_writer, "_put", lambda *args: (n.append(args[1]), put(*args))[1])
    correct(*words, f"-o{out}", "--resume")
    assert 0 < len(n) < 12
    np.testing.assert_array_equal(ad.read_zarr(out).X, ad.read_zarr(tmp_path / "whole.zarr").X)


@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_a_number_of_genes_is_positive(tmp_path, n):
    with pytest.raises(InputError, match=f"chunk_genes is {n!r}"):
        write_zarr(as_anndata(np.ones((3, 4)), genes="abcd"), tmp_path / "a.zarr", chunk_genes=n)
    assert not list(tmp_path.iterdir())


def test_the_command_checks_it_first(inputs, tmp_path, capsys):
    correct(*inputs, "--chunk-genes=0", f"-o{tmp_path / 'out.zarr'}", status=2)
    assert "--chunk-genes is 0" in capsys.readouterr().err
