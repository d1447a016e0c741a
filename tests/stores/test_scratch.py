"""The folder that a fit on disk works in: it comes, and always goes."""

import gc
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path

import dask.array as da
import forked
import numpy as np
import pytest
from helpers import as_anndata, make_batches

from mnndask import MNNCorrector, mnn_correct
from mnndask.core import fit
from mnndask.engine import fit_batches
from mnndask.errors import InputError, InputNotFoundError, InputTypeError, NonFiniteError, ScratchError

pytestmark = pytest.mark.usefixtures("short_record")
ON_DISK = {"k": 6, "memory_limit": 300_000, "n_jobs": 1}


def lazily(batches=None, rows=37):
    return [da.from_array(X, chunks=(rows, -1)) for X in batches or make_batches()]


# ---------------------------------------------------------------- the folder comes and goes


def test_the_folder_goes_with_a_result_in_memory(scratch, monkeypatch):
    seen = []
    run = fit_batches.fit

    def spying(*args, **options):
        seen.extend(scratch.iterdir())
        return run(*args, **options)

    monkeypatch.setattr(fit_batches, "fit", spying)
    mnn_correct(*make_batches(), scratch=scratch, **ON_DISK)
    gc.collect()
    assert [path.name[:8] for path in seen] == ["mnndask-"]
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("kind", ["matrix", "anndata"])
def test_the_folder_lives_as_long_as_a_lazy_result(scratch, kind):
    expected = mnn_correct(*make_batches(), k=6)[0]
    given = lazily() if kind == "matrix" else [as_anndata(X, f"b{i}") for i, X in enumerate(lazily())]
    corrected = mnn_correct(*given, scratch=scratch, **ON_DISK)[0]
    X = corrected if kind == "matrix" else corrected.X
    del corrected
    gc.collect()  # the corrector is gone, too
    assert len(list(scratch.iterdir())) == 1
    np.testing.assert_allclose(X.compute(), expected, atol=1e-10)
    part = X[:70, :5]
    del X
    gc.collect()
    np.testing.assert_allclose(part.compute(), expected[:70, :5], atol=1e-10)
    del part
    gc.collect()
    assert not list(scratch.iterdir())


def test_the_folder_lives_as_long_as_an_estimator(scratch):
    corrector = MNNCorrector(scratch=scratch, **ON_DISK).fit(lazily())
    gc.collect()
    corrector.transform(make_batches())
    assert len(list(scratch.iterdir())) == 1
    corrector.set_params(memory_limit=None).fit(make_batches())
    gc.collect()
    assert not list(scratch.iterdir())


def test_other_genes_alone_may_be_on_disk(scratch):
    batches = make_batches()
    options = {"k": 6, "var_index": range(40), "var_subset": range(2)}
    options |= {"cos_norm_in": False, "cos_norm_out": False}
    limit = {"memory_limit": 24_000, "n_jobs": 1}
    corrector = MNNCorrector(**options, **limit, scratch=scratch).fit(batches)
    step = corrector.model_.steps[0]
    assert isinstance(step.near_vectors, np.ndarray)
    assert not isinstance(step.rest_vectors, np.ndarray)
    expected = mnn_correct(*batches, **options)[0]
    np.testing.assert_allclose(corrector.transform(batches), expected, atol=1e-10)


def test_a_batch_that_cannot_be_read_to_its_end_leaves_nothing(scratch):
    batches = make_batches()
    batches[1][61, 3] = np.nan
    with pytest.raises(NonFiniteError, match="batch '1' contains NaN or infinity in row 61"):
        mnn_correct(*lazily(batches, rows=10), scratch=scratch, **ON_DISK | {"n_jobs": 2})
    assert not list(scratch.iterdir())


def test_writes_under_way_when_a_chunk_fails_leave_nothing(scratch):
    """One chunk holds NaN while another, which is being read, is still to be stored."""
    batches = make_batches()
    batches[0][0] = np.nan
    started, failed, stop, last = (threading.Event() for _ in range(4))

    def slow(block, block_info):
        at = block_info[0]["chunk-location"]
        if block.size and at == (0, 0):
            assert started.wait(30)
            failed.set()
        elif block.size and at == (1, 0):
            started.set()
            assert failed.wait(30)
            stop.wait(30)
            last.set()
        return block

    lazy = [X.map_blocks(slow, dtype=float) if i == 0 else X for i, X in enumerate(lazily(batches, rows=20))]
    with pytest.raises(NonFiniteError):
        mnn_correct(*lazy, scratch=scratch, **ON_DISK | {"n_jobs": 2})
    assert not list(scratch.iterdir())
    stop.set()
    assert last.wait(30)
    threading.Event().wait(0.2)  # for the task that goes on to store its chunk
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["find_pairs", "grown"])
def test_a_step_that_fails_leaves_nothing(scratch, monkeypatch, where, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(fit, where, fail)
    with pytest.raises(error):
        mnn_correct(*lazily(), scratch=scratch, **ON_DISK)
    assert not list(scratch.iterdir())


def test_angles_that_fail_leave_nothing(scratch, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr("mnndask.engine.fit_batches.angles_of_inputs", fail)
    with pytest.raises(RuntimeError):
        mnn_correct(*lazily(), scratch=scratch, compute_angle=True, **ON_DISK)
    assert not list(scratch.iterdir())


def test_the_folder_goes_when_the_process_exits(scratch):
    program = f"""
import os
import dask.array as da
from helpers import make_batches
from mnndask import mnn_correct
lazy = [da.from_array(X, chunks=(37, -1)) for X in make_batches()]
corrected, _, _ = mnn_correct(*lazy, scratch={str(scratch)!r}, **{ON_DISK!r})
print(len(os.listdir({str(scratch)!r})))
"""
    assert forked.run(program).stdout == "1\n"
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_folder_goes_when_the_process_is_killed(scratch, number):
    program = f"""
import os, signal
import dask.array as da
from helpers import make_batches
from mnndask import mnn_correct
lazy = [da.from_array(X, chunks=(37, -1)) for X in make_batches()]
corrected, _, _ = mnn_correct(*lazy, scratch={str(scratch)!r}, **{ON_DISK!r})
assert os.listdir({str(scratch)!r})
os.kill(os.getpid(), {int(number)})
"""
    assert forked.run(program, check=False).returncode == -number
    end = time.monotonic() + 20
    while list(scratch.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not list(scratch.iterdir())


def test_a_forked_process_leaves_the_folder_to_its_parent(scratch):
    program = f"""
import os, sys
import dask.array as da
from helpers import make_batches
from mnndask import mnn_correct
lazy = [da.from_array(X, chunks=(37, -1)) for X in make_batches()]
corrected, _, _ = mnn_correct(*lazy, scratch={str(scratch)!r}, **{ON_DISK!r})
child = os.fork()
if not child:
    sys.exit(0)
print(os.waitpid(child, 0)[1], len(os.listdir({str(scratch)!r})))
corrected[:5].compute()
"""
    done = forked.run(program)
    assert (done.stdout, done.returncode) == ("0 1\n", 0)
    assert "Traceback" not in done.stderr
    assert not list(scratch.iterdir())


def test_by_default_it_is_in_the_systems_temporary_folder(scratch, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    corrected = mnn_correct(*lazily(), **ON_DISK)[0]
    assert len(list(scratch.iterdir())) == 1
    del corrected


def test_results_outlive_a_change_of_the_working_directory(scratch, monkeypatch):
    monkeypatch.chdir(scratch.parent)
    corrected = mnn_correct(*lazily(), scratch="scratch", **ON_DISK)[0]
    monkeypatch.chdir("/")
    np.testing.assert_allclose(corrected.compute(), mnn_correct(*make_batches(), k=6)[0], atol=1e-10)


def test_a_result_whose_folder_was_removed_says_so(scratch):
    corrected = mnn_correct(*lazily(), scratch=scratch, **ON_DISK)[0]
    for folder in scratch.iterdir():
        shutil.rmtree(folder)
    with pytest.raises(ScratchError, match=r"in the scratch folder is gone\.\nFit again"):
        corrected.compute()


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("scratch", [3, b"/tmp", "", object(), ["/tmp"]])
def test_a_scratch_folder_is_a_path(scratch):
    with pytest.raises(InputTypeError, match=r"^scratch is .*\nGive the path of a folder"):
        mnn_correct(*make_batches(), scratch=scratch)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_scratch_folder_exists(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputNotFoundError, match="does not exist"):
        mnn_correct(*make_batches(), scratch=tmp_path / name)


def test_a_scratch_folder_can_be_written(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(ScratchError, match=r"Permission denied.*\nName one that can be written"):
        mnn_correct(*make_batches(), scratch=tmp_path, **ON_DISK)


@pytest.mark.parametrize(
    "limit", [0, -1, True, False, np.nan, np.inf, 0.5, "", "GB", "some", "-1GB", "5%", "nan", [1], b"1GB"]
)
def test_a_memory_limit_is_a_size(limit):
    with pytest.raises(InputError, match="memory_limit is"):
        mnn_correct(*make_batches(), memory_limit=limit)


@pytest.mark.parametrize("limit", ["1GB", "0.5 GiB", "1e9", 10**9, 1e9, np.int64(10**9), np.float32(1e9)])
def test_memory_limits_that_are_understood(limit):
    assert MNNCorrector(k=6, memory_limit=limit).fit(make_batches()).n_features_in_ == 40


def test_a_path_object_is_a_scratch_folder(scratch):
    assert mnn_correct(*make_batches(), scratch=Path(scratch), **ON_DISK)[0].shape == (180, 40)
