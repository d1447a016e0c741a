"""Results as ``.h5ad`` files: what any reader of the format understands, complete or not there."""

import re

import anndata as ad
import h5py
import numpy as np
import pytest
from helpers import as_anndata, make_batches, told
from scipy import sparse

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.io import h5ad_writer

PLAIN = {"anndata", "dict", "dataframe", "array", "string-array", "categorical", "csr_matrix", "string"}
PLAIN |= {"numeric-scalar", "bool"}


@pytest.fixture
def inputs(tmp_path):
    paths = []
    for i, X in enumerate(make_batches(dtype=np.float32)):
        adata = as_anndata(sparse.csr_matrix(X), str(i))
        adata.obs["type"] = ["a", "b"] * (len(X) // 2)
        adata.obs["type"] = adata.obs["type"].astype("category")
        paths.append(tmp_path / f"{i}.zarr")
        adata.write_zarr(paths[-1])
    return paths


def run(*words, status=0):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    assert ended.value.code == status


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--n-components=8"],
        ["--n-components=8", "--genes=none"],
        ["--layer-added=mnn", "--save-raw"],
        ["--compute-angle", "--sketch-size=20"],
        ["--n-jobs=1", "--memory-limit=1GB"],
    ],
)
def test_a_file_has_what_a_store_has(inputs, tmp_path, monkeypatch, options):
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 13 * 40 * 4)  # several blocks
    run("correct", *inputs, "-k5", "-q", f"-o{tmp_path / 'out.zarr'}", *options)
    run("correct", *inputs, "-k5", "-q", f"-o{tmp_path / 'out.h5ad'}", *options)
    store, file = ad.read_zarr(tmp_path / "out.zarr"), ad.read_h5ad(tmp_path / "out.h5ad")
    assert str(file) == str(store)
    for slot in ("layers", "obsm"):
        for name, value in getattr(store, slot).items():
            other = getattr(file, slot)[name]
            assert type(other) is type(value)
            assert abs(other - value).max() < 1e-6
    if store.X is not None:
        assert abs(file.X - store.X).max() < 1e-6
    if store.raw is not None:
        assert abs(file.raw.X - store.raw.X).max() == 0
    assert list(file.obs_names) == list(store.obs_names)
    assert file.obs.equals(store.obs)
    assert file.uns["mnn"]["parameters"].keys() == store.uns["mnn"]["parameters"].keys()
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out.h5ad", "out.zarr"]


def test_elements_are_plain_ones_of_the_format(inputs, tmp_path):
    run("correct", *inputs, "-k5", "-q", "--recommended", f"-o{tmp_path / 'out.h5ad'}")
    with h5py.File(tmp_path / "out.h5ad") as file:
        found = {"": file.attrs["encoding-type"]}
        file.visititems(lambda name, elem: found.setdefault(name, elem.attrs.get("encoding-type")))
        parts = ("data", "indices", "indptr")
        bare = {name for name, kind in found.items() if kind is None and name.split("/")[-1] not in parts}
        assert not bare
        assert set(found.values()) - {None} <= PLAIN
        assert "raw" not in file
        assert file["X"].dtype == np.float32
        names = file["obs"][file["obs"].attrs["_index"]]
        assert h5py.check_string_dtype(names.dtype).encoding == "utf-8"
        codes = file["obs/type/codes"][:]
        types = file["obs/type/categories"].asstr()[:][codes]
        twice = file["layers/twice"]
        assert tuple(twice.attrs["shape"]) == file["X"].shape
        rows = sparse.csr_matrix(tuple(twice[part][:] for part in parts), shape=file["X"].shape)
    written = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(types) == list(written.obs["type"])
    assert (rows != written.layers["twice"]).nnz == 0


def test_each_cell_is_computed_once_for_genes_and_components(inputs, tmp_path, monkeypatch):
    from mnndask.engine.chunk_corrector import ChunkCorrector

    rows, both = [], ChunkCorrector.correct_and_embed

    def counting(self, X, first):
        rows.append(X.shape[0])
        return both(self, X, first)

    monkeypatch.setattr(ChunkCorrector, "correct_and_embed", counting)
    run("correct", *inputs, "-k5", "-q", "--n-components=8", f"-o{tmp_path / 'out.h5ad'}")
    assert sum(rows) == 180


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-oout.h5ad", "--resume"], "--resume was given, but out.h5ad is one HDF5 file"),
        (["-oout.h5ad", "--scheduler=tcp://127.0.0.1:1"], "which only one process can write"),
        (["-os3://bucket/out.h5ad"], "an HDF5 file at a URL"),
        (["-oout.loom"], "does not end in .zarr"),
        (["-onowhere/out.h5ad"], "does not exist"),
    ],
)
def test_what_one_file_cannot_do_is_said_before_the_work(inputs, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    run("correct", *inputs, *words, status=2)
    line = told(capsys.readouterr().err)[-1]
    assert said in line
    if said != "does not exist":
        assert ".zarr" in line
    assert not list(tmp_path.glob("out*"))


def test_an_existing_file_is_replaced_only_if_that_is_wanted(inputs, tmp_path, capsys):
    out = tmp_path / "out.h5ad"
    out.write_text("mine")
    run("correct", *inputs, "-k5", "-q", f"-o{out}", status=2)
    assert "exists" in capsys.readouterr().err
    assert out.read_text() == "mine"
    out.with_name("out.h5ad.partial").write_text("left by a killed run")
    run("correct", *inputs, "-k5", "-q", f"-o{out}", "--overwrite")
    assert ad.read_h5ad(out).n_obs == 180
    assert [path.name for path in tmp_path.glob("out*")] == ["out.h5ad"]


def test_an_input_is_not_written_to(tmp_path, capsys):
    paths = [tmp_path / f"{i}.h5ad" for i in range(2)]
    for i, X in enumerate(make_batches((60, 60))):
        as_anndata(X, str(i)).write_h5ad(paths[i])
    before = paths[1].read_bytes()
    run("correct", *paths, "--overwrite", f"-o{paths[1]}", status=2)
    assert "is the input" in capsys.readouterr().err
    assert paths[1].read_bytes() == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("Can't write data (errno = 28, error message = 'No space left')"), "No space left"),
        (MemoryError("none left"), "none left"),
    ],
)
def test_a_failure_leaves_the_older_file_and_nothing_else(inputs, tmp_path, monkeypatch, capsys, error, said):
    out = tmp_path / "out.h5ad"
    out.write_text("mine")

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(h5ad_writer, "write_blocks", failing)
    with pytest.raises(SystemExit) as ended:
        main(["correct", *map(str, inputs), "-k5", "-q", "--overwrite", f"-o{out}"])
    assert ended.value.code not in {0, None}
    assert said in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert [path.name for path in tmp_path.glob("out*")] == ["out.h5ad"]


def test_an_input_that_is_replaced_while_it_is_read_is_an_error(inputs, tmp_path, monkeypatch, capsys):
    write = h5ad_writer.write_blocks

    def replaced_after(*args):
        write(*args)
        as_anndata(sparse.csr_matrix(make_batches(seed=1)[0]), "0").write_zarr(inputs[0])

    monkeypatch.setattr(h5ad_writer, "write_blocks", replaced_after)
    run("correct", *inputs, "-k5", "-q", f"-o{tmp_path / 'out.h5ad'}", status=2)
    assert "changed" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_the_size_that_is_announced_is_not_a_compressed_one(inputs, tmp_path, capsys):
    run("correct", *inputs, "-k5", f"-o{tmp_path / 'out.h5ad'}")
    assert re.search(r"output: [^;]*, not compressed;", capsys.readouterr().err)


def test_results_in_python_can_be_written_so_too(inputs, tmp_path):
    result = mnn_correct(*inputs, k=5)[0]
    result.write_h5ad(tmp_path / "out.h5ad")
    assert ad.read_h5ad(tmp_path / "out.h5ad").shape == (180, 40)


def test_info_and_report_read_the_file(inputs, tmp_path, capsys):
    out = tmp_path / "out.h5ad"
    run("correct", *inputs, "-k5", "-q", f"-o{out}")
    run("info", out)
    assert "180 cells x 40 genes in 3 batches" in capsys.readouterr().out
    run("report", out, f"-o{tmp_path / 'report.html'}")
    assert (tmp_path / "report.html").stat().st_size > 10_000
