"""The command writes coordinates beside the genes, or alone: in one pass, whole, and resumable."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import anndata as ad
import numpy as np
import pytest
import zarr
from helpers import as_anndata, check_kept, make_batches
from runs import N_CHUNKS, bucket, chunks  # noqa: F401

from mnndask import mnn_correct
from mnndask.engine.chunk_corrector import ChunkCorrector

OPTIONS = ("--n-components", "6")
PATHS = {"all": "X", "none": "obsm/X_mnn"}


@pytest.fixture
def stores(tmp_path, command):
    """Inputs in chunks of ten cells, and what the library makes of them."""
    paths = [tmp_path / f"{name}.h5ad" for name in "ab"]
    return mnn_correct(*paths, k=5, n_components=6, batch_categories=["a", "b"], diagnostics=False)[0]


@contextmanager
def calls():
    """Count calls of a chunk's corrector, by method, and how often each chunk of the input is read."""
    counter = Counter()

    def counting(name, original):
        def method(self, X, first):
            counter[name] += 1
            return original(self, X, first)

        return method

    with pytest.MonkeyPatch.context() as patch:
        for name in ("correct", "embed", "correct_and_embed"):
            patch.setattr(ChunkCorrector, name, counting(name, getattr(ChunkCorrector, name)))
        yield counter


def embedding_chunks(folder):
    """When each chunk of the embedding was written, and as which file."""
    found = (folder / "obsm" / "X_mnn" / "c").glob("*/*")
    return {file.parent.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in found}


def check(folder, expected, genes="all"):
    found = ad.read_zarr(folder)
    np.testing.assert_allclose(found.obsm["X_mnn"], expected.obsm["X_mnn"].compute(), atol=1e-10)
    if genes == "none":
        assert found.X is None
        assert set(found.layers) - {None} == set()
    else:
        np.testing.assert_allclose(found.X, expected.X.compute(), atol=1e-10)
        assert set(found.layers) - {None} == {"twice"}
    assert set(found.obsm) == {"X_mnn", "X_scVI"}


@pytest.mark.parametrize("genes", PATHS)
def test_both_are_written_by_the_same_tasks(command, stores, tmp_path, genes):
    with calls() as counter:
        assert command(*OPTIONS, "--genes", genes) == (0, [])
    check(tmp_path / "out.zarr", stores, genes)
    if genes == "all":
        assert counter == {"correct_and_embed": N_CHUNKS}
        assert chunks(tmp_path / "out.zarr").keys() == embedding_chunks(tmp_path / "out.zarr").keys()
    else:
        assert counter == {"embed": N_CHUNKS}
        assert len(embedding_chunks(tmp_path / "out.zarr")) == 2  # more cells in a chunk


@pytest.mark.parametrize("genes", PATHS)
def test_each_chunk_of_the_input_is_read_once_after_the_fit(tmp_path, monkeypatch, genes, capsys):
    from mnndask.cli.main import main

    reads, original = Counter(), zarr.storage.LocalStore.get
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 10 * 40 * 8)

    async def get(self, key, *args, **kwargs):
        if key.startswith("X/") and "in-" in str(self.root) and key[-1].isdigit():
            reads[self.root.name, key] += 1
        return await original(self, key, *args, **kwargs)

    for i, X in enumerate(make_batches((60, 50))):
        adata = as_anndata(X, str(i))
        adata.write_zarr(tmp_path / f"in-{i}.zarr", chunks=(10, 40))
    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    words = [*(str(tmp_path / f"in-{i}.zarr") for i in range(2)), "-k5", "-q", *OPTIONS, "--no-diagnostics"]
    with pytest.raises(SystemExit, match="0"):
        main(["correct", *words, "-o", str(tmp_path / "out.zarr"), "--genes", genes])
    assert len(reads) == N_CHUNKS
    assert set(reads.values()) == {2}, "for the fit, and for both matrices"


def test_a_layer_has_the_genes_and_obsm_the_embedding(command, stores, tmp_path):
    assert command(*OPTIONS, "--layer-added", "mnn") == (0, [])
    found = ad.read_zarr(tmp_path / "out.zarr")
    np.testing.assert_allclose(found.layers["mnn"], stores.X.compute(), atol=1e-10)
    np.testing.assert_allclose(found.obsm["X_mnn"], stores.obsm["X_mnn"].compute(), atol=1e-10)


STAGES = {
    "annotations": lambda key, n: key.startswith("obs/"),
    "matrix": lambda key, n: key == "X/zarr.json",
    "embedding": lambda key, n: key == "obsm/X_mnn/zarr.json",
    "first chunk": lambda key, n: key == "obsm/X_mnn/c/0/0",
    "root": lambda key, n: key == "zarr.json",
}


def fifth_chunk():
    """Stage at which a few chunks of the embedding, whichever they are, have been written."""
    begun = set()

    def stage(key, n):
        if key.startswith("obsm/X_mnn/c/"):
            begun.add(key)
        return len(begun) >= 5

    return stage


@pytest.mark.parametrize("stage", [*STAGES, "fifth chunk"])
def test_a_run_is_resumed_whatever_stopped_it(command, failing, stores, tmp_path, stage):
    status, err = failing(STAGES.get(stage) or fifth_chunk(), *OPTIONS)
    assert status == 2
    check_kept(tmp_path, err[0])
    before = embedding_chunks(tmp_path / "out.zarr.partial")
    assert command("--resume", *OPTIONS) == (0, [])
    after = embedding_chunks(tmp_path / "out.zarr")
    assert len(after) == N_CHUNKS
    assert {key: after[key] for key in before} == before, "what was written stays"
    check(tmp_path / "out.zarr", stores)


@pytest.mark.parametrize("matrix", PATHS.values())
def test_a_damaged_chunk_of_either_is_written_again(command, failing, stores, tmp_path, matrix):
    failing(fifth_chunk(), *OPTIONS)
    damaged = next((tmp_path / "out.zarr.partial" / matrix / "c").glob("*/0"))
    damaged.write_bytes(damaged.read_bytes()[:20])
    status, err = command("--resume", *OPTIONS)
    assert status == 0
    assert "1 of the" in err[0]
    assert f"chunks of {matrix} that a stopped run has left are damaged" in err[0]
    check(tmp_path / "out.zarr", stores)


@pytest.mark.parametrize("where", [(), ("--layer-added", "mnn")])
def test_annotations_that_were_changed_are_written_again_beside_both_matrices(
    command, failing, stores, tmp_path, where
):
    failing(fifth_chunk(), *OPTIONS, *where)
    before = embedding_chunks(tmp_path / "out.zarr.partial")
    assert before
    next(file for file in (tmp_path / "out.zarr.partial/obsm/X_scVI").rglob("*") if file.is_file()).unlink()
    status, err = command("--resume", *OPTIONS, *where)
    assert status == 0
    assert "The annotations are written again." in err[0]
    after = embedding_chunks(tmp_path / "out.zarr")
    assert {key: after[key] for key in before} == before
    found = ad.read_zarr(tmp_path / "out.zarr")
    np.testing.assert_allclose(found.obsm["X_mnn"], stores.obsm["X_mnn"].compute(), atol=1e-10)
    genes = found.layers["mnn"] if where else found.X
    np.testing.assert_allclose(genes, stores.X.compute(), atol=1e-10)
    assert set(found.obsm) == {"X_mnn", "X_scVI"}


def test_the_embedding_alone_is_resumed(command, failing, stores, tmp_path, monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 10 * 40 * 8)
    status, err = failing(lambda key, n: key == "obsm/X_mnn/c/1/0", *OPTIONS, "--genes", "none")
    assert status == 2
    check_kept(tmp_path, err[0])
    before = embedding_chunks(tmp_path / "out.zarr.partial")
    assert len(before) == 1
    assert command("--resume", *OPTIONS, "--genes", "none") == (0, [])
    after = embedding_chunks(tmp_path / "out.zarr")
    assert {key: after[key] for key in before} == before
    check(tmp_path / "out.zarr", stores, "none")
    assert "genes was 'none' and is now 'all'" in command("--resume", *OPTIONS)[1][0]


def test_object_stores_have_shards_of_the_same_cells(command, stores, bucket):  # noqa: F811
    assert command(*OPTIONS, output=bucket.url) == (0, [])
    root = zarr.open_group(bucket.url, mode="r")
    X, embedding = root["X"], root["obsm/X_mnn"]
    assert embedding.shards[0] == X.shards[0] > X.chunks[0] == embedding.chunks[0]
    np.testing.assert_allclose(embedding[:], stores.obsm["X_mnn"].compute(), atol=1e-10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--genes", "none"], "--genes none was given without --n-components"),
        (["--genes", "none", *OPTIONS, "--layer-added", "mnn"], "--layer-added mnn was given, but with"),
        (["--genes", "none", *OPTIONS, "--save-raw"], "--save-raw was given, but with --genes none"),
    ],
)
def test_what_does_not_go_together_is_one_line_before_the_work(command, tmp_path, options, said):
    status, err = command(*options)
    assert status == 2
    assert len(err) == 1
    assert said in err[0]
    assert not list(tmp_path.glob("out.zarr*"))
