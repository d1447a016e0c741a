"""State of the process, such as filters of warnings: calls on threads at once leave it as it was."""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import dask
import numba
import numpy as np
import pandas as pd
import pytest
import zarr
from helpers import as_anndata, make_batches
from matplotlib.figure import Figure
from threadpoolctl import threadpool_info

from mnndask import MNNCorrector, _library_state, _threads, mnn_correct, write_zarr
from mnndask._library_state import exclusive, ignoring
from mnndask.cli.main import main
from mnndask.errors import InputError
from mnndask.metrics import agreement_by_label, embed, summarize
from mnndask.pl import pairs

N_THREADS = 8
A, B = make_batches((24, 30))
RECORDS = np.array([("a", 1.0)], dtype=[("name", "U3"), ("score", "f4")])  # zarr warns of their type


def state():
    """What code could change for the whole process."""
    settings = {name: getattr(ad.settings, name) for name in dir(ad.settings) if name[0] != "_"}
    return {
        "filters": list(warnings.filters),
        "showwarning": (warnings.showwarning, warnings.formatwarning, warnings._showwarnmsg_impl),
        "zarr": copy.deepcopy(zarr.config.config),
        "dask": copy.deepcopy(dask.config.config),
        "anndata": {name: value for name, value in settings.items() if not callable(value)},
        "pandas": pd.get_option("display.max_colwidth"),
        "blas": {pool["num_threads"] for pool in threadpool_info()},
        "numba": numba.get_num_threads(),
        "numpy": np.geterr(),
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "logging": [
            (logger.level, list(logger.handlers), list(logger.filters))
            for logger in map(logging.getLogger, (None, "mnndask", "mnndask._progress", "asyncio"))
        ],
    }


@exclusive()  # pandas and anndata change filters here, too
def plain(X, name):
    return as_anndata(X, name)


@exclusive()
def with_awkward_parts(X, name):
    """An AnnData of which library code warns: repeated names, records, nullable values, lists."""
    adata = as_anndata(X, name)
    adata.uns["rank_genes_groups"] = RECORDS
    adata.obs["maybe"] = pd.array([1, None] * (len(X) // 2), dtype="Int64")
    adata.obs_names = ["same", "same", *adata.obs_names[2:]]
    return adata


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    """Load what is loaded at the first call, such as libraries of BLAS."""
    mnn_correct(A, B, k=5)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    for name, X in (("a", A), ("b", B)):
        as_anndata(X, name).write_zarr(folder / f"{name}.zarr")
    one = as_anndata(A, "a")
    one.obs["batch"] = "x"
    one.write_zarr(folder / "one.zarr")
    return folder / "a.zarr", folder / "b.zarr", folder / "one.zarr"


@pytest.fixture
def calls(paths, tmp_path):
    """Calls of several kinds; each takes a number, which no two of them share."""
    *two, one = paths

    def of_anndata(_):
        return mnn_correct(with_awkward_parts(A, "a"), with_awkward_parts(B, "b"), k=5, svd_dim=2)[0]

    def write(number):
        write_zarr(with_awkward_parts(A, "a"), tmp_path / f"{number}.zarr")

    def write_lazy(number):
        lazy = mnn_correct(*two, k=5, save_raw=True)[0]
        write_zarr(lazy, tmp_path / f"lazy-{number}.zarr")

    def fail(number):
        with pytest.raises(InputError):
            mnn_correct(plain(A, "a"), plain(B, "b"), k=0)
        with pytest.raises(InputError):
            write_zarr(plain(A, "a"), tmp_path / f"{number}.h5ad")

    def measure(_):
        cells, batches = embed(np.vstack([A, B]), 3), np.repeat(["a", "b"], [len(A), len(B)])
        summarize(cells, cells, batches, n_neighbors=5)
        agreement_by_label(cells, batches, np.arange(len(cells)) % 2, n_neighbors=5)

    corrected = mnn_correct(plain(A, "a"), plain(B, "b"), k=5)[0]

    def plot(_):
        pairs(corrected, ax=Figure().subplots())

    return {
        "arrays": lambda _: mnn_correct(A, B, k=5),
        "anndata": of_anndata,
        "one batch": lambda _: mnn_correct(one),
        "lazy": lambda _: mnn_correct(*two, k=5)[0].X.compute(),
        "write": write,
        "write lazy": write_lazy,
        "fail": fail,
        "measure": measure,
        "plot": plot,
        "html": lambda _: MNNCorrector(k=5).fit([A, B])._repr_html_(),
    }


def at_once(calls):
    """Run each call several times, all on threads at once that take turns often."""
    ready, interval = threading.Barrier(N_THREADS), sys.getswitchinterval()
    n = len(calls)

    def work(thread):
        ready.wait()
        for i in range(max(2, n // 2)):
            calls[(thread + i) % n](1000 * thread + i)

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(N_THREADS) as pool:
            for done in [pool.submit(work, thread) for thread in range(N_THREADS)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)


def test_calls_on_threads_at_once_leave_all_as_it_was(calls):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for call in calls.values():
            call(0)  # imports, compiles
        before = state()
        at_once(list(calls.values())[1:])
        after = state()
        for key, value in before.items():
            assert after[key] == value, key
        seen.clear()
        mnn_correct(A)
    assert [str(one.message).split(",")[0] for one in seen] == ["Only one batch was given"]


def test_warnings_of_calls_on_threads_at_once_are_all_seen(paths):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        at_once([lambda _: mnn_correct(A), lambda _: mnn_correct(paths[-1])])
    texts = [str(one.message) for one in seen if one.filename == __file__]
    assert len(texts) == 2 * N_THREADS
    assert all(text.startswith("Only one batch was given") for text in texts)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_library_code_that_changes_filters_runs_on_one_thread_at_a_time(calls, monkeypatch):
    for call in calls.values():
        call(0)
    entered, enter = set(), warnings.catch_warnings.__enter__

    def spied(self):
        if not _library_state._turn.lock._is_owned():
            frame = sys._getframe(1)
            while frame.f_back is not None and not frame.f_globals["__name__"].startswith("mnndask"):
                frame = frame.f_back
            entered.add(f"{frame.f_globals['__name__']}:{frame.f_lineno}")
        return enter(self)

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", spied)
    with ThreadPoolExecutor(1) as pool:  # not this thread, as pytest changes filters here
        for call in calls.values():
            pool.submit(call, 1).result()
    assert not entered, "\n".join(sorted(entered))


def held(ready, leave):
    """Hold the turn, with changes, until told to leave."""
    with ignoring(("", UserWarning)), exclusive() as changes:
        changes.enter_context(zarr.config.set({"array.write_empty_chunks": True}))
        ready.set()
        leave.wait(10)


@pytest.fixture
def other():
    """Another thread that holds the turn, and has changed the state."""
    ready, leave, before = threading.Event(), threading.Event(), state()
    thread = threading.Thread(target=held, args=(ready, leave))
    thread.start()
    assert ready.wait(10)
    assert state()["filters"] != before["filters"]
    assert state()["zarr"] != before["zarr"]
    yield before
    leave.set()
    thread.join()
    assert state() == before


def test_a_thread_that_waits_too_long_goes_on(other, monkeypatch):
    monkeypatch.setattr(_library_state, "PATIENCE_SECONDS", 0.01)
    mnn_correct(A, B, k=5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_meanwhile_has_the_state_as_it_was(other):
    child = os.fork()
    if child == 0:
        free = _library_state._turn.lock.acquire(blocking=False)
        os._exit(
            0 if free and state()["filters"] == other["filters"] and state()["zarr"] == other["zarr"] else 1
        )
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupt_inside_library_code_restores_the_filters():
    def interrupted():
        with exclusive():
            warnings.catch_warnings().__enter__()  # interrupted before it was noted
            warnings.simplefilter("ignore")
            raise KeyboardInterrupt

    before = state()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert state() == before
    assert _library_state._turn.lock.acquire(blocking=False)
    _library_state._turn.lock.release()


def test_filters_that_library_code_sets_for_good_stay():
    with warnings.catch_warnings():
        with ignoring(("", UserWarning)), exclusive():
            pass
        with exclusive():
            warnings.filterwarnings("ignore", "set when a library was imported")
        assert warnings.filters[0][1].pattern == "set when a library was imported"


def test_the_command_leaves_filters_and_signals_to_the_main_thread(tmp_path, monkeypatch):
    before, inside = state(), []
    monkeypatch.setattr("mnndask.cli.look.read_record", lambda *_: inside.append(state()) or 1 / 0)

    def run():
        with pytest.raises(SystemExit):
            main(["info", str(tmp_path)])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for key in ("filters", "showwarning", "signals"):
        assert inside[0][key] == before[key]
    assert state() == before


@pytest.mark.parametrize("kind", ["arrays", "anndata", "lazy", "write lazy"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_heavy_work_leaves_the_turn_to_others(calls, kind, monkeypatch):
    owned, enter = [], _threads._blas_limit.enter

    def spied():
        owned.append(_library_state._turn.lock._is_owned())
        enter()

    monkeypatch.setattr(_threads._blas_limit, "enter", spied)  # whatever is heavy limits BLAS
    calls[kind](1)
    assert owned
    assert not any(owned)


def test_work_with_the_turn_that_waits_for_threads_which_need_it_ends(monkeypatch):
    monkeypatch.setattr(_library_state, "PATIENCE_SECONDS", 0.05)
    before, inside = state(), []

    @dask.delayed
    def needs_it():
        with ignoring(("", UserWarning)):
            inside.append(warnings.filters[0][:3])

    with ignoring(("", FutureWarning)):
        dask.compute(needs_it(), needs_it(), scheduler="threads", num_workers=2)
    assert inside == [("ignore", None, UserWarning)] * 2
    assert state() == before


def test_a_thread_that_gave_up_waiting_leaves_all_as_it_was(monkeypatch):
    monkeypatch.setattr(_library_state, "PATIENCE_SECONDS", 0.05)
    before, entered, leave = state(), threading.Event(), threading.Event()
    second = threading.Thread(target=held, args=(entered, leave))
    with ignoring(("", FutureWarning)), exclusive() as changes:
        changes.enter_context(zarr.config.set({"array.write_empty_chunks": True}))
        second.start()
        assert entered.wait(10)
    assert state() != before  # of the second, which began later and still works
    leave.set()
    second.join()
    assert state() == before
