"""Named dask tasks, computed together, with progress."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import dask
from dask.delayed import Delayed
from dask.system import CPU_COUNT

from mnndask._progress import Line, current_line
from mnndask._threads import effective_n_jobs, single_threaded_blas
from mnndask.engine.cluster import active_client
from mnndask.engine.waiting import waiting_for_workers

T = TypeVar("T")


def threads(n_jobs: int | None) -> dict[str, int]:
    """Translate `n_jobs` into arguments of dask; None leaves the threads to dask's configuration.

    Unless that says how many, there are no more than processors that this process may use: dask does not
    know of all limits, and memory is shared out to no more.
    """
    if n_jobs is None and dask.config.get("num_workers", None) is not None:
        return {}
    n = effective_n_jobs(n_jobs)
    return {} if n_jobs is None and n >= CPU_COUNT else {"num_workers": n}


def named_tasks(stage: str) -> Callable[..., Delayed]:
    """Return a function that creates tasks whose keys contain the name of their stage.

    The called function, with all data that it refers to, is in the graph once for all of its tasks.
    """
    token = uuid.uuid4().hex
    functions: dict[int, tuple[Any, Delayed]] = {}  # by id, with the object, so that its id is not reused

    def task(function: Callable[..., Any], *args: Any) -> Delayed:
        if id(function) not in functions:
            name = f"mnn-function-{token}-{uuid.uuid4().hex}"
            functions[id(function)] = function, dask.delayed(function, name=name, traverse=False)
        key = f"mnn-{stage}-{token}-{uuid.uuid4().hex}"
        on_one_thread = dask.delayed(_on_one_thread, pure=False)
        out: Delayed = on_one_thread(functions[id(function)][1], *args, dask_key_name=key)
        return out

    return task


def _on_one_thread(function: Callable[..., T], *args: Any) -> T:
    with single_threaded_blas():
        return function(*args)


def compute(tasks: list[Delayed], n_jobs: int | None, counts: float) -> list[Any]:
    """Compute tasks. On a cluster they advance the current progress line, by `counts` in total."""
    with single_threaded_blas(), watched([task.key for task in tasks], counts), waiting_for_workers():
        return list(dask.compute(*tasks, **threads(n_jobs)))


POLL_SECONDS = 0.2  # between checks of what a cluster has finished


@contextmanager
def watched(tasks: Sequence[Any], n: float) -> Iterator[None]:
    """Advance the current progress line as a cluster finishes dask tasks.

    Parameters
    ----------
    tasks
        Keys of tasks of about equal size.
    n
        Total by which they advance the line.
    """
    client, line = active_client(), current_line()
    if client is None or line is None or not line.shown or not tasks:
        yield
        return
    ended = threading.Event()
    keys = set(tasks)
    thread = threading.Thread(target=_follow, args=(client, keys, n / len(keys), line, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(client: Any, keys: set[Any], each: float, line: Line, ended: threading.Event) -> None:
    """Poll the states of tasks that the client has already received from the scheduler."""
    while not ended.wait(POLL_SECONDS):
        states = {key: client.futures.get(key) for key in keys}
        finished = {key for key, state in states.items() if state is not None and state.status == "finished"}
        keys = keys - finished
        if finished:
            line.advance(each * len(finished))
