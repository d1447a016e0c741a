"""What workers do not see or have is named before the fit; paths hold wherever workers were started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import zarr
from cluster_fixtures import BATCHES, run
from helpers import as_anndata
from scipy import sparse

from mnndask import mnn_correct, write_zarr
from mnndask.errors import ClusterError, InputReadError, OutputError, ScratchError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.usefixtures("short_record")]

OPTIONS = {"k": 5, "sketch_size": 100}
HERE = "/proc/self/cwd"  # another folder in each process, as on machines that share nothing
other_folders = pytest.mark.skipif(not Path(HERE).exists(), reason="no folder that differs between processes")


@pytest.fixture
def folder(client, tmp_path, monkeypatch):
    """The working directory of this process, which no worker has, with two inputs."""
    monkeypatch.chdir(tmp_path)
    as_anndata(sparse.csr_matrix(BATCHES[0]), "a").write_zarr("a.zarr")
    as_anndata(BATCHES[1], "b").write_h5ad("b.h5ad")
    (tmp_path / "scratch").mkdir()
    assert tmp_path not in {Path(cwd) for cwd in client.run(os.getcwd).values()}
    return tmp_path


@pytest.fixture(scope="module")
def expected():
    return mnn_correct(*BATCHES[:2], k=5, sketch_size=100)[0]


def unseen_by_all(client, path):
    """Whether a path that exists is seen by no worker."""
    assert Path(path).exists()
    return not any(client.run(os.path.exists, path).values())


# ---------------------------------------------------------------- relative paths


def test_relative_paths_of_the_command(folder, two_workers, expected):
    names = as_anndata(BATCHES[0], "a").var_names
    (folder / "genes.txt").write_text("\n".join(names))
    words = [
        "-k",
        "5",
        "--sketch-size",
        "100",
        "-o",
        "out.zarr",
        "--scratch",
        "scratch",
        "--var-subset",
        "genes.txt",
    ]
    assert run(["a.zarr", "b.h5ad", *words, "--scheduler", two_workers.address]) == 0
    np.testing.assert_allclose(ad.read_zarr("out.zarr").X, expected, atol=1e-10)


def test_a_fit_on_disk_in_a_relative_scratch_folder(folder, client):
    options = {"k": 5, "sketch_size": 60, "memory_limit": 250_000, "scratch": "scratch"}
    result = mnn_correct("a.zarr", "b.h5ad", **options)[0]
    assert list((folder / "scratch").iterdir())
    np.testing.assert_allclose(
        result.X.compute(), mnn_correct(*BATCHES[:2], k=5, sketch_size=60)[0], atol=1e-10
    )


@pytest.mark.parametrize(
    "opened", [str, ad.experimental.read_lazy, lambda path: zarr.open(path, mode="r")["X"]]
)
def test_lazy_results_of_inputs_with_relative_paths(opened, folder, client, expected):
    as_anndata(BATCHES[1], "b").write_zarr("b.zarr")
    as_anndata(BATCHES[0], "a").write_zarr("dense.zarr")
    result = mnn_correct(*(opened(path) for path in ("dense.zarr", "b.zarr")), **OPTIONS)[0]
    X = getattr(result, "X", result)
    np.testing.assert_allclose(X.compute(), expected, atol=1e-10)


# ---------------------------------------------------------------- what workers do not see


@other_folders
@pytest.mark.parametrize(("name", "other"), [("a.zarr", "b.h5ad"), ("b.h5ad", "a.zarr")])
def test_an_input_that_workers_do_not_see_is_named_before_the_fit(
    name, other, folder, client, two_workers, capsys
):
    path = f"{HERE}/{name}"
    assert unseen_by_all(client, path)
    words = ["-k", "5", "-o", str(folder / "out.zarr"), "--scheduler", two_workers.address]
    assert run([path, str(folder / other), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mnndask: Worker tcp://127.0.0.1:")
    assert f"does not see batch 0 ({path}): No such file or directory." in line
    assert "all machines share" in line


@other_folders
def test_another_file_at_the_path_of_an_input(folder, client):
    (cwd,) = set(client.run(os.getcwd).values())
    path = Path(cwd) / "b.h5ad"
    path.write_bytes(b"another")
    try:
        with pytest.raises(InputReadError, match=r"does not see batch 0 .*: another file is there"):
            mnn_correct(f"{HERE}/b.h5ad", "a.zarr", **OPTIONS)
    finally:
        path.unlink()


@other_folders
def test_a_scratch_folder_that_workers_do_not_see_is_named_before_the_fit(folder, client):
    assert unseen_by_all(client, f"{HERE}/scratch")
    said = rf"The scratch folder {HERE}/scratch is not shared: worker tcp://\S+ on \S+ does .*\n.*--scratch"
    with pytest.raises(ScratchError, match=said):
        mnn_correct("a.zarr", "b.h5ad", **OPTIONS, scratch=f"{HERE}/scratch")
    assert list((folder / "scratch").iterdir()) == []


@other_folders
def test_a_folder_of_outputs_that_workers_do_not_see_is_named_before_any_work(
    folder, client, two_workers, capsys
):
    (folder / "out").mkdir()
    assert unseen_by_all(client, f"{HERE}/out")
    said = f"The folder of the output {HERE}/out/out.zarr is not shared: worker tcp://"
    words = ["-k", "5", "-o", f"{HERE}/out/out.zarr", "--scheduler", two_workers.address]
    assert run([str(folder / "a.zarr"), str(folder / "b.h5ad"), *words]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(ClusterError, match=said):
        write_zarr(ad.AnnData(da.ones((3, 2))), f"{HERE}/out/out.zarr")
    assert list((folder / "out").iterdir()) == []


@other_folders
@pytest.mark.parametrize("name", ["a.zarr", "b.h5ad"])
def test_a_worker_that_joined_later_and_sees_no_input_is_named(name, folder, client, monkeypatch):
    monkeypatch.setattr("mnndask.engine.fit_batches.check_workers", lambda *_: None)  # it was not there
    with pytest.raises(InputReadError, match=rf"Worker tcp://\S+ on \S+ does not see batch 0 .*{name}"):
        mnn_correct(f"{HERE}/{name}", folder / "a.zarr", **OPTIONS)


@other_folders
def test_a_worker_that_joined_later_and_sees_no_scratch_folder_is_named(folder, client, monkeypatch):
    monkeypatch.setattr("mnndask.engine.fit_batches.check_workers", lambda *_: None)
    lazy = [da.from_array(X, chunks=(100, -1)) for X in BATCHES]
    result = mnn_correct(*lazy, **OPTIONS, scratch=f"{HERE}/scratch")[0]
    with pytest.raises(ScratchError, match=r"The fitted model was not found at \S+ by worker tcp://\S+ on"):
        result.compute()
    with pytest.raises(ScratchError, match=r"is gone, or worker tcp://\S+ on \S+ does not see it"):
        mnn_correct(*lazy, k=5, sketch_size=60, memory_limit=250_000, scratch=f"{HERE}/scratch")


@other_folders
def test_a_worker_that_joined_later_and_sees_no_output_is_named(folder, client, monkeypatch):
    monkeypatch.setattr("mnndask.api.write.check_output_folder", lambda *_: None)
    lazy = da.from_array(BATCHES[0], chunks=(100, -1))
    with pytest.raises(OutputError, match=r"The unfinished output is gone, or worker tcp://\S+ on \S+ does"):
        write_zarr(ad.AnnData(lazy), f"{HERE}/out.zarr")
    for cwd in set(client.run(os.getcwd).values()):
        assert not list(Path(cwd).glob("out.zarr*"))


# ---------------------------------------------------------------- what workers have


def pretend(function):
    """Have a worker tell another version of zarr; None: the right one."""
    import mnndask.engine.workers

    mnndask.engine.workers.version = function


def test_versions_that_differ_are_said(client, expected):
    from importlib.metadata import version

    first, second = sorted(client.scheduler_info(n_workers=-1)["workers"])
    lazy = [da.from_array(X, chunks=(100, -1)) for X in BATCHES[:2]]
    client.run(pretend, lambda name: "3.0.9" if name == "zarr" else version(name), workers=[first])
    try:
        with pytest.warns(UserWarning, match="Workers have other versions") as caught:
            result = mnn_correct(*lazy, **OPTIONS)[0]
    finally:
        client.run(pretend, version)
    (warning,) = caught
    assert f"worker {first} on " in str(warning.message)
    assert f" has zarr 3.0.9 (here {zarr.__version__})." in str(warning.message)
    assert second not in str(warning.message)
    np.testing.assert_allclose(result.compute(), expected, atol=1e-10)


def test_a_worker_without_mnndask_is_named(client):
    first = min(client.scheduler_info(n_workers=-1)["workers"])
    module = "mnndask.engine.workers"
    client.run(lambda: sys.modules.__setitem__(module, None), workers=[first])  # importing it fails
    try:
        with pytest.raises(ClusterError, match=f"The worker {first} cannot import mnndask"):
            mnn_correct(*(da.from_array(X, chunks=(100, -1)) for X in BATCHES), **OPTIONS)
    finally:
        client.run(lambda: sys.modules.pop(module), workers=[first])
