"""The command's errors of use: one line on stderr, exit status 2, nothing written."""

from __future__ import annotations

import shutil
import signal

import anndata as ad
import h5py
import numpy as np
import pytest
from anndata.io import write_elem
from helpers import GENES, as_anndata, make_batches, told

from mnndask.api.write import write_zarr
from mnndask.cli.main import main

A, B = make_batches((24, 20))


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A folder with a.h5ad, b.h5ad and a.zarr, b.zarr, and two things that are no AnnData."""
    stores = tmp_path_factory.mktemp("stores")
    for name, X in (("a", A), ("b", B)):
        adata = as_anndata(X, name)
        adata.var["hvg"] = np.arange(40) < 30
        adata.var["score"] = 1.5
        adata.var["none"] = False
        adata.obs["used"] = np.arange(len(X)) >= 5
        adata.write_h5ad(stores / f"{name}.h5ad")
        adata.write_zarr(stores / f"{name}.zarr")
    (stores / "bare.h5ad").write_text("not HDF5")
    (stores / "plain").mkdir()
    return stores


@pytest.fixture
def folder(stores, tmp_path, monkeypatch):
    """A working folder with a copy of them."""
    shutil.copytree(stores, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, capsys, short_record):
    """Run ``mnndask correct`` on a line of words; gives status, output lines and error lines."""

    def run(line):
        with pytest.raises(SystemExit) as caught:
            main(["correct", "--k", "3", *line.split()])
        out, err = capsys.readouterr()
        return caught.value.code, out.splitlines(), told(err)

    return run


def refused(run, line, *words):
    status, out, err = run(line)
    assert status == 2
    assert out == []
    assert len(err) == 1
    assert err[0].startswith("mnndask: ")
    assert "Error" not in err[0]
    for word in words:
        assert word in err[0]


USES = {
    "no-input": ("-o out.zarr", "INPUT"),
    "no-output": ("a.h5ad b.h5ad", "--output"),
    "missing-input": ("a.h5ad nowhere.h5ad -o out.zarr", "nowhere.h5ad", "does not exist"),
    "missing-input-with-hvg": (
        "nowhere.h5ad b.h5ad --hvg-key hvg -o out.zarr",
        "nowhere.h5ad",
        "does not exist",
    ),
    "not-hdf5": ("a.h5ad bare.h5ad -o out.zarr", "bare.h5ad", "not an HDF5 file"),
    "not-anndata": ("a.h5ad plain -o out.zarr", "plain", ".zarr directories or .h5ad files"),
    "part-of-anndata": ("a.zarr b.zarr/obs -o out.zarr", "b.zarr/obs", "not an AnnData store"),
    "url": ("nosuch://bucket/a.zarr b.zarr -o out.zarr", "nosuch://bucket/a.zarr", "Protocol not known"),
    "not-zarr-output": ("a.h5ad b.h5ad -o out.loom", "out.loom", ".zarr"),
    "missing-folder": ("a.h5ad b.h5ad -o nowhere/out.zarr", "nowhere", "Create it first"),
    "wrong-option": ("a.h5ad b.h5ad -o out.zarr --colour", "--colour", "--help"),
    "wrong-number": ("a.h5ad b.h5ad -o out.zarr --sigma x", "--sigma", "'x'"),
    "wrong-choice": ("a.h5ad b.h5ad -o out.zarr --svd-mode lapack", "rsvd"),
    "bad-k": ("a.h5ad b.h5ad -o out.zarr --k 0", "k is 0", "at least 1"),
    "bad-jobs": ("a.h5ad b.h5ad -o out.zarr --n-jobs 0", "--n-jobs is 0"),
    "bad-seed": ("a.h5ad b.h5ad -o out.zarr --svd-dim 2 --random-state -1", "--random-state is -1"),
    "bad-lanczos": ("a.h5ad b.h5ad -o out.zarr --svd-dim 2 --svd-mode irlb --ncv 1", "ncv"),
    "lanczos-elsewhere": ("a.h5ad b.h5ad -o out.zarr --ncv 9", "ncv", "irlb"),
    "unknown-hvg-key": ("a.h5ad b.h5ad -o out.zarr --hvg-key x", "a.h5ad", "'x'", "hvg, score, none"),
    "hvg-key-not-boolean": ("a.h5ad b.h5ad -o out.zarr --hvg-key score", "a.h5ad", "'score'", "boolean"),
    "hvg-key-marks-none": ("a.h5ad b.h5ad -o out.zarr --hvg-key none", "'none'", "--var-subset"),
    "two-subsets": (
        "a.h5ad b.h5ad -o out.zarr --hvg-key hvg --var-subset g.txt",
        "--hvg-key",
        "--var-subset",
    ),
    "no-gene-list": ("a.h5ad b.h5ad -o out.zarr --var-subset g.txt", "g.txt", "No such file"),
    "folder-as-gene-list": (
        "a.h5ad b.h5ad -o out.zarr --var-subset plain",
        "plain",
        "one gene name per line",
    ),
    "binary-gene-list": ("a.h5ad b.h5ad -o out.zarr --var-subset a.h5ad", "a.h5ad", "one gene name per line"),
    "unknown-restrict": ("a.h5ad b.h5ad -o out.zarr --restrict x", "a.h5ad", "'x'", "depth, used"),
    "restrict-not-boolean": ("a.h5ad b.h5ad -o out.zarr --restrict depth", "a.h5ad", "'depth'", "boolean"),
    "unknown-layer": ("a.h5ad b.h5ad -o out.zarr --layer x", "a.h5ad", "'x'", "twice"),
    "unknown-order": ("a.h5ad b.h5ad -o out.zarr --mnn-order b,x", "mnn", "x", "a, b"),
    "short-order": ("a.h5ad b.h5ad -o out.zarr --mnn-order b", "mnn", "a, b"),
    "short-categories": (
        "a.h5ad b.h5ad -o out.zarr --batch-categories x",
        "batch",
        "1 name(s) for 2 batches",
    ),
    "one-input-without-key": ("a.h5ad -o out.zarr", "obs['batch']", "depth, used"),
    "same-stem": ("a.h5ad a.zarr -o out.zarr", "'a'", "--batch-categories"),
}


@pytest.mark.parametrize(("line", "words"), [(line, words) for line, *words in USES.values()], ids=USES)
def test_wrong_use(line, words, run, folder):
    before = contents(folder)
    refused(run, line, *words)
    assert contents(folder) == before


def test_names_of_batches_give_the_order(run, folder):
    status, _, err = run("a.h5ad b.h5ad -o out.zarr --mnn-order b,a")
    assert (status, err) == (0, [])
    steps = ad.read_zarr(folder / "out.zarr").uns["mnn"]["steps"]
    assert list(steps["batch"]) == ["b", "a"]


def test_gene_list_from_any_editor(run, folder):
    (folder / "genes.txt").write_bytes("\ufeffg1\r\n\r\n g2 \r\ng3".encode())
    assert run("a.h5ad b.h5ad -o out.zarr --var-subset genes.txt")[0] == 0
    assert list(ad.read_zarr(folder / "out.zarr").var_names) == GENES


def test_output_exists(run, folder):
    (folder / "out.zarr").mkdir()
    (folder / "file.zarr").write_text("precious")
    (folder / "link.zarr").symlink_to(folder / "out.zarr")
    before = contents(folder)
    for name in ("out.zarr", "file.zarr", "link.zarr", "plain/../out.zarr"):
        refused(run, f"a.h5ad b.h5ad -o {name}", name, "exists", "--overwrite")
    assert contents(folder) == before


@pytest.mark.parametrize("overwrite", ["", "--overwrite"])
def test_output_that_touches_an_input(overwrite, run, folder):
    (folder / "inner").mkdir()
    (folder / "other.zarr").symlink_to(folder / "a.zarr")
    (folder / "here").symlink_to(folder)
    (folder / "outer.zarr").mkdir()
    (folder / "a.h5ad").rename(folder / "outer.zarr" / "a.h5ad")
    before = contents(folder)
    for inputs, output, relation in [
        ("a.zarr b.zarr", "a.zarr", "is"),
        ("a.zarr b.zarr", "b.zarr/", "is"),
        ("a.zarr b.zarr", "inner/../a.zarr", "is"),
        ("a.zarr b.zarr", f"{folder}/./b.zarr", "is"),
        ("a.zarr b.zarr", "other.zarr", "is"),
        ("other.zarr b.zarr", "a.zarr", "is"),
        ("here/a.zarr b.zarr", "a.zarr", "is"),
        ("a.zarr b.zarr", "a.zarr/out.zarr", "is inside"),
        ("a.zarr b.zarr", "other.zarr/X/out.zarr", "is inside"),
        ("outer.zarr/a.h5ad b.h5ad", "outer.zarr", "contains"),
        ("outer.zarr/a.h5ad b.h5ad", "here/outer.zarr", "contains"),
    ]:
        refused(run, f"{inputs} -o {output} {overwrite}", "output", f" {relation} the input ", "another path")
    assert contents(folder) == before


def test_unfinished_output_that_is_an_input(run, folder):
    """The place in which the output grows is emptied first, so no input may lie there."""
    (folder / "a.zarr").rename(folder / "out.zarr.partial")
    before = contents(folder)
    refused(run, "out.zarr.partial b.zarr -o out.zarr", "out.zarr.partial", "another path")
    assert contents(folder) == before


def spoil_a_cell_that_is_not_fitted(folder):
    adata = ad.read_h5ad(folder / "b.h5ad")
    adata.X[2, 7] = np.nan
    adata.write_h5ad(folder / "b.h5ad")


def test_failure_while_writing(run, folder):
    spoil_a_cell_that_is_not_fitted(folder)
    before = contents(folder)
    refused(run, "a.h5ad b.h5ad --restrict used -o out.zarr", "batch 'b' contains NaN or infinity in row 2.")
    after = contents(folder)
    assert after.pop(folder / "out.zarr.run.json")
    assert {path: file for path, file in after.items() if ".partial" not in str(path)} == before
    for path in folder.glob("*.partial"):
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever anndata raises, it must not open
            ad.read_zarr(path)


def test_failure_while_overwriting(run, folder):
    assert run("a.h5ad b.h5ad -o out.zarr")[0] == 0
    older = contents(folder / "out.zarr")
    spoil_a_cell_that_is_not_fitted(folder)
    refused(run, "a.h5ad b.h5ad --restrict used --overwrite -o out.zarr", "row 2.")
    assert contents(folder / "out.zarr") == older


def test_overwrite_replaces(run, folder):
    (folder / "out.zarr").mkdir()
    (folder / "out.zarr" / "stale").write_text("old")
    status, out, err = run("a.h5ad b.h5ad --overwrite -o out.zarr")
    assert (status, err) == (0, [])
    assert "out.zarr" in out[-1]
    assert not (folder / "out.zarr" / "stale").exists()
    assert ad.read_zarr(folder / "out.zarr").shape == (44, 40)


def test_interrupt(run, folder, monkeypatch):
    (folder / "out.zarr").mkdir()
    (folder / "out.zarr" / "older").write_text("kept")
    before = contents(folder)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mnndask.cli.correct.mnn_correct", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    status, out, err = run("a.h5ad b.h5ad -o out.zarr --overwrite")
    signal.signal(signal.SIGINT, handler)
    assert status == 130
    assert out == []
    # after the line of the ^C
    assert [line for line in err if line] == ["mnndask: interrupted; nothing was written"]
    assert contents(folder) == before


def test_bug_is_not_taken_for_wrong_use(run, folder, monkeypatch):
    def broken(*_, **__):
        raise AssertionError

    before = contents(folder)
    monkeypatch.setattr("mnndask.cli.correct.mnn_correct", broken)
    status, _, err = run("a.h5ad b.h5ad -o out.zarr")
    assert status == 1
    assert err[0].startswith("Traceback")
    assert err[-1].startswith("mnndask: this is a bug")
    assert contents(folder) == before


def test_an_older_output_left_by_a_stopped_run_is_not_lost(run, folder):
    (folder / "out.zarr.replaced").mkdir()
    (folder / "out.zarr.replaced" / "older").write_text("kept")
    before = contents(folder)
    for overwrite in ("", "--overwrite"):
        refused(run, f"a.h5ad b.h5ad -o out.zarr {overwrite}", "out.zarr.replaced", "no complete store")
    assert contents(folder) == before


HOSTILE = "../../evil"


def test_a_file_cannot_make_the_command_write_outside_its_output(run, tmp_path):
    """Where it holds all batches, its uns is kept."""
    with h5py.File("a.h5ad", "a") as file:
        write_elem(file["uns"], "..", {"..": {"innocent": np.ones(3)}})
    before = contents(tmp_path)
    status, _, err = run("a.h5ad -o out.zarr --batch-key used")
    assert status == 0
    assert "uns['..'] becomes 'unnamed'" in err[0]
    assert {path for path in contents(tmp_path) if "out.zarr" not in str(path)} == set(before)
    assert [list(kept) for name, kept in ad.read_zarr("out.zarr").uns.items() if name != "mnn"] == [
        ["unnamed"]
    ]


def test_names_that_no_store_can_hold(tmp_path):
    for slot, value in [("layers", np.ones((3, 2))), ("obsm", np.ones((3, 2))), ("uns", 1), ("obs", 1)]:
        adata = ad.AnnData(np.ones((3, 2)))
        getattr(adata, slot)[HOSTILE] = value
        with pytest.warns(UserWarning, match=rf"{slot}\['../../evil'\] becomes '.._.._evil'"):
            write_zarr(adata, tmp_path / "out.zarr", overwrite=True)
        assert not list(tmp_path.parent.rglob("evil*"))
        assert ".._.._evil" in getattr(ad.read_zarr(tmp_path / "out.zarr"), slot)
