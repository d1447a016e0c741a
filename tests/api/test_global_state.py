"""State of the process, such as filters of warnings: calls on threads at once leave it as it was."""

from __future__ import annotations

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches
from matplotlib.figure import Figure
from process_state import state, two_blas_threads

from mnndask import MNNCorrector, _library_state, _threads, mnn_correct, write_zarr
from mnndask._library_state import exclusive
from mnndask.cli.main import main
from mnndask.errors import InputError
from mnndask.metrics import agreement_by_label, embed, summarize
from mnndask.pl import pairs

N_THREADS = 8
A, B = make_batches((24, 30))
RECORDS = np.array([("a", 1.0)], dtype=[("name", "U3"), ("score", "f4")])  # zarr warns of their type


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
    """Load what is loaded at the first call, such as libraries of BLAS; give those several threads."""
    mnn_correct(A, B, k=5)
    with two_blas_threads():
        yield


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
        for i in range(max(2, n // 3)):
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
