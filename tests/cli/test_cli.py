"""The command, as a user types it."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr
from helpers import as_anndata, make_batches, told
from scipy import sparse

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.datasets.simulated import simulate
from mnndask.errors import without_warnings


@pytest.fixture
def files(tmp_path):
    """Three files of one experiment, flagged genes and cells in them."""
    out = []
    for i, X in enumerate(make_batches()):
        adata = as_anndata(X, f"c{i}_")
        adata.var["highly_variable"] = np.arange(40) < 25
        adata.obs["good"] = np.arange(len(X)) % 3 > 0
        out.append(tmp_path / f"plate{i}.h5ad")
        adata.write_h5ad(out[-1])
    return out


def run(*args):
    """Run the command in this process; its exit status."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in args])
    return end.value.code or 0


def test_output_equals_the_call(files, tmp_path, capsys):
    output = tmp_path / "out.zarr"
    assert run("correct", *files, "--hvg-key", "highly_variable", "-k", 7, "--sigma", 0.5, "-o", output) == 0
    assert "corrected 180 cells x 40 genes in 3 batches" in capsys.readouterr().out
    result, batches = ad.read_zarr(output), [ad.read_h5ad(f) for f in files]
    expected, mnns, _ = mnn_correct(*batches, var_subset=batches[0].var_names[:25], k=7, sigma=0.5)
    np.testing.assert_allclose(result.X, expected.X, atol=1e-10)
    assert list(result.obs["batch"].cat.categories) == ["plate0", "plate1", "plate2"]
    assert list(result.uns["mnn"]["steps"]["n_pairs"]) == [len(m) for m in mnns]
    assert result.obs_names[0] == "c0_0-plate0"
    assert not list(tmp_path.glob("*.partial"))


def test_every_option_reaches_the_call(files, tmp_path):
    genes = tmp_path / "genes.txt"
    genes.write_text("\n".join(f"g{i}" for i in range(0, 40, 2)) + "\n")
    output = tmp_path / "out.zarr"
    options = ["--var-subset", genes, "--restrict", "good", "--mnn-order", "plate2,plate0,plate1"]
    options += [
        "--no-cos-norm-in",
        "--no-cos-norm-out",
        "--no-var-adj",
        "--sigma",
        30,
        "--layer",
        "twice",
        "--save-raw",
    ]
    options += [
        "--svd-dim",
        2,
        "--svd-mode",
        "irlb",
        "--ncv",
        15,
        "--tol",
        0,
        "--compute-angle",
        "--random-state",
        3,
    ]
    options += ["--batch-key", "plate", "--index-unique", "", "--n-jobs", -1]
    assert run("correct", *files, *options, "-o", output) == 0
    result, batches = ad.read_zarr(output), [ad.read_h5ad(f) for f in files]
    expected, _, angles = mnn_correct(
        *batches,
        var_subset=[f"g{i}" for i in range(0, 40, 2)],
        restrict=[b.obs["good"].to_numpy() for b in batches],
        mnn_order=[2, 0, 1],
        cos_norm_in=False,
        cos_norm_out=False,
        var_adj=False,
        sigma=30,
        layer="twice",
        svd_dim=2,
        svd_mode="irlb",
        compute_angle=True,
        random_state=3,
        ncv=15,
        tol=0,
    )
    np.testing.assert_allclose(result.X, expected.X, atol=1e-8)
    np.testing.assert_allclose(result.obs["mnn_angle"][:130], np.concatenate(angles[:2]), atol=1e-6)
    assert result.obs["mnn_angle"][130:].isna().all()
    np.testing.assert_array_equal(result.raw.X, np.concatenate([b.layers["twice"] for b in batches]))
    assert result.obs_names[0] == "c0_0"
    assert list(result.obs["plate"].cat.categories) == ["plate0", "plate1", "plate2"]


def test_an_unfinished_output_is_not_removed_unasked(files, tmp_path, capsys, short_record):
    (tmp_path / "out.zarr.partial").mkdir()
    kept = tmp_path / "out.zarr.partial" / "mine"
    kept.write_text("")
    assert run("correct", *files, "-o", tmp_path / "out.zarr") == 2
    assert "out.zarr.partial" in capsys.readouterr().err
    assert kept.exists()
    assert run("correct", *files, "-o", tmp_path / "out.zarr", "--overwrite") == 0
    assert not kept.exists()


def test_names_of_cells_called_batch_name_no_batches(files, tmp_path, short_record):
    """Files are told apart by their stems: names of cells are no column, whatever their index is called."""
    for path in files:
        adata = ad.read_h5ad(path)
        adata.obs.index.name = "batch"
        adata.write_h5ad(path)
    assert run("correct", *files, "-o", tmp_path / "out.zarr") == 0
    batches = ad.read_zarr(tmp_path / "out.zarr").obs["batch"]
    assert list(batches.cat.categories) == ["plate0", "plate1", "plate2"]


def test_a_table_that_does_not_tell_its_columns_is_named(files, tmp_path, capsys):
    with h5py.File(files[1], "a") as file:
        del file["obs"].attrs["column-order"]
    assert run("correct", *files, "-o", tmp_path / "out.zarr") == 2
    (line,) = told(capsys.readouterr().err)
    assert line.startswith(f"mnndask: batch 1 ({files[1]}) is damaged: obs cannot be read (KeyError")
    assert line.endswith("Copy or write it again.")


def test_one_file_is_split_by_its_batch_key(files, tmp_path, short_record):
    parts = [ad.read_h5ad(f) for f in files]
    whole = ad.concat(parts, keys=["x", "y", "z"], label="sample", merge="same")
    whole = whole[np.random.default_rng(0).permutation(whole.n_obs)].copy()
    whole.write_zarr(tmp_path / "whole.zarr")
    order = list(whole.obs["sample"].unique())
    for options in ([], ["--mnn-order", ",".join(order[::-1])], ["--restrict", "good"]):
        output = tmp_path / "out.zarr"
        assert (
            run(
                "correct",
                tmp_path / "whole.zarr",
                "--batch-key",
                "sample",
                *options,
                "-o",
                output,
                "--overwrite",
            )
            == 0
        )
        result = ad.read_zarr(output)
        assert list(result.obs_names) == list(whole.obs_names)
        call = {"mnn_order": [2, 1, 0]} if "--mnn-order" in options else {}
        if "--restrict" in options:
            call["restrict"] = [whole.obs["good"][whole.obs["sample"] == s].to_numpy() for s in order]
        with without_warnings():  # of genes that are marked but not used
            expected, _, _ = mnn_correct(whole, batch_key="sample", **call)
        np.testing.assert_allclose(result.X, expected.X, atol=1e-10)


# Each two of these together.
@pytest.mark.parametrize(
    ("layout", "save_raw", "n_files"),
    [
        (np.asarray, True, 1),
        (np.asarray, False, 2),
        (sparse.csr_matrix, True, 2),
        (sparse.csr_matrix, False, 1),
    ],
)
def test_raw_is_written(layout, save_raw, n_files, tmp_path, short_record):
    """Scanpy's usual files have a raw of their own; one of several files has no place for it."""
    paths = []
    for i, X in enumerate(make_batches()[:n_files]):
        adata = as_anndata(layout(X), f"c{i}_")
        adata.raw = adata.copy()
        adata.X = adata.X * 0.5
        adata.obs["batch"] = ["x", "y"] * 30 if n_files == 1 else f"b{i}"
        adata.uns = {"batch_colors": np.array(["red", "blue"], dtype=object), "table": adata.obs[["depth"]]}
        paths.append(tmp_path / f"{i}.h5ad")
        adata.write_h5ad(paths[-1])
    assert run("correct", *paths, *["--save-raw"] * save_raw, "-o", tmp_path / "out.zarr") == 0
    raw = ad.read_zarr(tmp_path / "out.zarr").raw
    stored = raw.X.toarray() if sparse.issparse(raw.X) else raw.X
    np.testing.assert_array_equal(stored, np.concatenate(make_batches()[:n_files]) * (0.5 if save_raw else 1))
    zarr_chunks = zarr.open_group(tmp_path / "out.zarr")["X"].chunks
    assert zarr_chunks == stored.shape


@pytest.mark.filterwarnings("ignore:Only one batch:UserWarning")
def test_one_batch_is_refused(files, tmp_path, capsys):
    adata = ad.read_h5ad(files[0])
    adata.obs["batch"] = "same"
    adata.write_zarr(tmp_path / "one.zarr")
    assert run("correct", tmp_path / "one.zarr", "-o", tmp_path / "out.zarr") == 2
    assert "contains only one batch" in capsys.readouterr().err
    assert not (tmp_path / "out.zarr").exists()


def test_overwrite_replaces_the_output(files, tmp_path, short_record):
    output = tmp_path / "out.zarr"
    assert run("correct", *files, "-o", output) == 0
    first = ad.read_zarr(output).X
    assert run("correct", *files, "-o", output) == 2
    assert run("correct", *files, "--sigma", 0.1, "-o", output, "--overwrite") == 0
    assert not np.array_equal(ad.read_zarr(output).X, first)


@pytest.mark.parametrize("command", [[], ["correct"], ["demo"], ["simulate"]])
def test_help_names_every_command_and_option(command, capsys):
    assert run(*command, "--help") == 0
    text = capsys.readouterr().out
    words = {
        "": ["correct", "demo", "simulate"],
        "correct": ["--mnn-order", "Examples:"],
        "demo": ["--seed"],
        "simulate": ["--n-cells", "--seed"],
    }
    for word in words["".join(command)]:
        assert word in text


def test_demo_prints_mixing_and_draws(tmp_path, capsys):
    assert run("demo", "-o", tmp_path / "demo", "--n-cells", 240) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    before, after = (
        float(part.split()[0])
        for part in lines[1].replace("before", "|").replace("after", "|").split("|")[1:]
    )
    assert before > 0.6
    assert after < before
    picture = Path(lines[-1].removeprefix("picture: "))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert ad.read_zarr(tmp_path / "demo" / "corrected.zarr").n_obs == 240


def test_simulated_batches_are_what_correct_takes(tmp_path, capsys, short_record):
    big = tmp_path / "big"
    asked = ["--n-cells", 300, "--n-genes", 60, "--n-batches", 2, "--n-types", 3, "--counts-per-gene", 2]
    assert run("simulate", "-o", big, *asked, "--seed", 3, "--batch-effect", 0.3) == 0
    assert "simulated 300 cells x 60 genes in 2 batches" in capsys.readouterr().out
    stored = [ad.read_zarr(big / f"batch{b}.zarr") for b in range(2)]
    for a, b in zip(
        stored,
        simulate([171, 129], 60, 2, n_types=3, counts_per_gene=2, batch_effect=0.3, seed=3),
        strict=True,
    ):
        np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    assert run("correct", *sorted(big.glob("*.zarr")), "-o", tmp_path / "out.zarr") == 0
    assert list(ad.read_zarr(tmp_path / "out.zarr").obs["batch"].cat.categories) == ["batch0", "batch1"]


def test_simulate_leaves_what_is_there_unless_told(tmp_path, capsys):
    (tmp_path / "batch7.zarr.partial").mkdir()
    asked = ["simulate", "-o", tmp_path, "--n-cells", 20, "--n-genes", 10, "--n-batches", 2]
    assert run(*asked) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["batch7.zarr.partial"]
    assert run(*asked, "--overwrite") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch0.zarr", "batch1.zarr"]
    assert run("simulate", "-o", tmp_path / "none", "--n-cells", 1) == 2
    capsys.readouterr()
    assert run("simulate", "-o", tmp_path / "none", "--batch-effect", "nan") == 2
    assert capsys.readouterr().err.startswith("mnndask: Cannot simulate with batch_effect=nan. Give a number")
    assert not (tmp_path / "none").exists()


def test_installed_command_fails_in_one_line(tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name("mnndask"), "correct", "nowhere.h5ad", "b.h5ad", "-o", "out.zarr"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere.h5ad" in done.stderr
    assert not any(tmp_path.iterdir())


def test_installed_command_looks_for_garbage(tmp_path):
    """It does not while its libraries load."""
    program = "import atexit, gc; atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0))"
    program += "; from mnndask.__main__ import main; main()"
    words = [sys.executable, "-c", program, "info", str(tmp_path / "missing.zarr")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.splitlines() == ["True True"]
