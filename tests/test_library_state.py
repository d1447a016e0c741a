"""Library code that changes state of the process: one thread at a time, and undone whatever happens."""

from __future__ import annotations

import os
import threading
import warnings

import dask
import pytest
import zarr
from helpers import make_batches
from process_state import state, two_blas_threads

from mnndask import _library_state, mnn_correct
from mnndask._library_state import exclusive, ignoring

A, B = make_batches((24, 30))


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    """Load what is loaded at the first call, such as libraries of BLAS; give those several threads."""
    mnn_correct(A, B, k=5)
    with two_blas_threads():
        yield


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
