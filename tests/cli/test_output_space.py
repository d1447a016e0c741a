"""The size of the output is announced, and the space for it checked, before the fit."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from dask.utils import parse_bytes
from helpers import make_batches, told

from mnndask.cli.main import main
from mnndask.io import anndata_writer

SIZES, N_GENES = (300, 320, 280), 300
OUTPUT = re.compile(
    r"mnndask: output: (.+?) dense, about (.+?) compressed(?:, of which (.+?) are written)?; .+"
)
MB = 1e6


def names(n, name):
    return [f"{name}{i}" for i in range(n)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Function that writes batches of a kind once, and gives their paths."""
    folder = tmp_path_factory.mktemp("inputs")

    def write(kind="plain"):
        paths = [folder / f"{kind}{i}.zarr" for i in range(len(SIZES))]
        for path, X in zip(paths, make_batches(SIZES, N_GENES), strict=True):
            if not path.exists():
                X = X.astype(np.float32) if kind == "single" else X
                X[:, np.arange(N_GENES) % 5 > 1] *= kind != "many genes unexpressed"
                obs, var = pd.DataFrame(index=names(len(X), "c")), pd.DataFrame(index=names(N_GENES, "g"))
                var["marked"] = np.arange(N_GENES) >= 150
                ad.AnnData(X, obs, var).write_zarr(path)
        return paths

    return write


@pytest.fixture
def run(inputs, tmp_path, capsys, monkeypatch):
    """Function that runs the command where so many bytes are free; gives status and stderr."""
    disk_usage = shutil.disk_usage

    def command(*words, free=None, kind="plain"):
        given = ["correct", *map(str, inputs(kind)), "-o", str(tmp_path / "out.zarr"), "-k", "5", *words]
        usage = disk_usage if free is None else lambda _: SimpleNamespace(free=int(free))
        monkeypatch.setattr("mnndask.stores.disk_space.shutil.disk_usage", usage)
        with pytest.raises(SystemExit) as ended:
            main(given)
        return ended.value.code, capsys.readouterr().err

    return command


def announced(err):
    """Sizes in the announcement: dense, compressed, and what is written."""
    found = [OUTPUT.fullmatch(line) for line in err.splitlines() if "output:" in line]
    assert len(found) == 1, err
    return [parse_bytes(size or "0 B") for size in found[0].groups()]


def stored(folder):
    folders = [folder / "out.zarr" / name for name in ("X", "obsm/X_mnn")]
    return sum(file.stat().st_size for one in folders for file in one.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("plain", ()),
        ("single", ("--hvg-key", "marked")),
        ("many genes unexpressed", ("--n-components", "8")),
    ],
)
def test_the_announced_size_is_that_of_the_output(kind, options, run, tmp_path):
    status, err = run("--no-diagnostics", *options, kind=kind)
    assert status == 0
    dense, compressed, written = announced(err)
    n_columns = N_GENES + (8 if options[:1] == ("--n-components",) else 0)
    assert dense == pytest.approx(sum(SIZES) * n_columns * (4 if kind == "single" else 8), rel=0.01)
    assert compressed == pytest.approx(stored(tmp_path), rel=0.1)
    assert written == 0
    if kind == "many genes unexpressed":
        assert compressed < 0.5 * dense


def test_an_embedding_alone_is_announced(run, tmp_path):
    status, err = run("--n-components", "8", "--genes", "none", "--no-diagnostics")
    assert status == 0
    dense, compressed, _ = announced(err)
    assert dense == compressed == pytest.approx(sum(SIZES) * 8 * 8, rel=0.01)
    assert compressed == pytest.approx(stored(tmp_path), rel=0.1)


def test_fewer_genes_make_it_smaller(run):
    status, err = run("--hvg-key", "marked", "--genes", "subset", "--no-diagnostics")
    assert status == 0
    assert announced(err)[0] == pytest.approx(sum(SIZES) * N_GENES / 2 * 8, rel=0.01)


@pytest.mark.parametrize("options", [(), ("--hvg-key", "marked")])
def test_without_space_there_is_one_line_before_the_fit(options, run, tmp_path):
    status, err = run(*options, free=MB)
    assert status == 2
    assert "finding pairs" not in err
    assert list(tmp_path.iterdir()) == []
    (line,) = told(err)
    fewer = ", or write fewer genes: --genes subset" if options else ""
    said = (
        r"mnndask: The output takes 2\.06 MiB dense, about [\d.]+ MiB compressed, but only 0\.95 MiB are "
        rf"free in {re.escape(str(tmp_path))}\. Free some space there, or write to another folder{fewer}\."
    )
    assert re.fullmatch(said, line)


def test_what_only_fits_compressed_is_written(run, tmp_path):
    """No error, and no warning: unexpressed genes take no space."""
    status, err = run("--no-diagnostics", free=1.1 * MB, kind="many genes unexpressed")
    assert announced(err)[0] > 1.1 * MB
    assert (status, told(err)) == (0, [])
    assert 0.6 * MB < stored(tmp_path) < 1.1 * MB


def test_what_may_just_fit_is_written_with_a_warning(run):
    _, compressed, _ = announced(run("--no-diagnostics")[1])
    status, err = run("--no-diagnostics", "--overwrite", free=0.95 * compressed)
    assert status == 0
    (line,) = told(err)
    assert re.match(
        "mnndask: warning: The output takes .* beside the older one, which stays until then, but", line
    )
    assert "It may not fit" in line


@pytest.fixture
def unfinished(run, monkeypatch):
    """Leave an output of which half of the cells is written; gives how large it will be."""
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 200 * N_GENES * 8)
    put, done = anndata_writer._put, []

    def until_half(array, start, block):
        if sum(done) >= sum(SIZES) / 2:
            raise OSError(28, "No space left on device")
        put(array, start, block)
        done.append(len(block))

    with monkeypatch.context() as patched:
        patched.setattr(anndata_writer, "_put", until_half)
        status, err = run("--no-diagnostics", "--n-jobs", "1")
    assert (status, "--resume continues it" in err) == (2, True)
    return announced(err)[1]


def test_a_resumed_run_needs_space_for_what_is_missing(unfinished, run, tmp_path):
    status, err = run("--no-diagnostics", "--resume", free=0.2 * unfinished)
    assert status == 2
    written = announced(err)[2]
    assert 0.2 * unfinished < written < 0.8 * unfinished
    status, err = run("--no-diagnostics", "--resume", free=1.2 * (unfinished - written))
    assert status == 0, err
    assert zarr.open_group(tmp_path / "out.zarr", mode="r")["X"].shape == (sum(SIZES), N_GENES)


def test_an_unfinished_output_makes_way_for_the_one_that_replaces_it(unfinished, run):
    status, err = run("--no-diagnostics", "--overwrite", free=0.8 * unfinished)
    assert status == 0, err
    assert announced(err)[2] == 0
