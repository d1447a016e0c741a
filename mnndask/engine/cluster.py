"""The dask.distributed cluster that work runs on, if any. distributed need not be installed."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask

from mnndask._text import printable
from mnndask.errors import ClusterError, InputError, first_line, with_notes_of

logger = logging.getLogger(__name__)
SHARE_OF_WORKER = 0.6  # of a worker's memory: above it, distributed begins to spill
CONNECT_SECONDS = 20
NOISY = ("asyncio", "distributed", "tornado")


@dataclass(frozen=True)
class Workers:
    """Threads and memory of the processes that run tasks.

    Parameters
    ----------
    threads
        Largest number of threads of a process.
    memory
        Smallest usable memory of a process, in bytes; None, if unlimited, for that of this machine.
    """

    threads: int
    memory: int | None


def active_client() -> Any | None:
    """Return the client that dask computes with, or None."""
    distributed = sys.modules.get("distributed")  # not imported: no client
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None


def active_workers() -> Workers | None:
    """Return the resources of the active client's workers; None if work is done in this process."""
    client = active_client()
    if client is None:
        return None
    found = client.scheduler_info(n_workers=-1)["workers"].values()
    if not found:  # a cluster may start them on demand
        address = printable(client.scheduler.address)
        logger.warning("the cluster at %s has no workers yet: work waits for them", address)
        return Workers(1, None)
    limits = [worker["memory_limit"] for worker in found if worker["memory_limit"]]
    memory = int(SHARE_OF_WORKER * min(limits)) if limits else None
    return Workers(max(worker["nthreads"] for worker in found), memory)


def address_in_file(path: Path) -> str:
    """Return the address of the scheduler that wrote a file.

    Raises
    ------
    InputError
        If there is no such file, or it names no address.
    """
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["address"])
    except FileNotFoundError as error:
        what = f"The scheduler file {path} does not exist."
        raise InputError(what, "Start the scheduler first: dask scheduler --scheduler-file FILE.") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        what = f"The scheduler file {path} names no address: {first_line(error)}."
        raise InputError(what, "Give the file that dask scheduler --scheduler-file FILE writes.") from error


@contextmanager
def scheduled_by(address: str | None) -> Iterator[None]:
    """Make dask compute on the cluster at an address, or in this process for None.

    Connections, encrypted ones included, follow dask's configuration (``distributed.comm.tls``).

    Raises
    ------
    InputError
        If there is no scheduler at the address.
    ClusterError
        If the scheduler or too many workers are lost during the work.
    """
    if address is None:
        yield
        return
    try:
        import distributed
    except ImportError as error:
        what = "--scheduler needs dask.distributed, which is not installed."
        raise InputError(what, "Install it: pip install 'mnndask[cluster]'") from error
    before = dask.config.get("scheduler", None)
    with _quiet():
        try:
            client = distributed.Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TypeError) as error:  # TypeError if TLS is not configured
            dask.config.set(scheduler=before)  # a client that fails to connect leaves it changed
            what = f"No scheduler answers at {address}: {first_line(error)}."
            raise InputError(what, "Check the address: dask scheduler prints it when it starts.") from error
        with client, cluster_errors(address):
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Have distributed log nothing, nor the libraries under it: what matters is raised.

    Their messages about lost connections are tracebacks. Afterwards they stay quiet about a run that failed,
    of which tasks are left that log when they are collected.
    """
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in NOISY]
    loggers = [logging.getLogger(name) for name in {*names, *NOISY}]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    yield
    for logger, handlers, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def cluster_errors(address: str) -> Iterator[None]:
    """Turn the errors of a lost cluster into a :class:`ClusterError` that names the remedy."""
    from distributed import CancelledError as Cancelled
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        yield
    except KilledWorker as error:
        what = f"Workers died repeatedly while running the same task: {first_line(error)}."
        remedy = "Give them more memory, or a smaller --memory-limit."
        raise with_notes_of(error, ClusterError(what, remedy)) from error
    except (CancelledError, Cancelled, CommClosedError) as error:
        what = f"The scheduler at {address} was lost: {first_line(error)}."
        remedy = "Start it again, and continue with --resume."
        raise with_notes_of(error, ClusterError(what, remedy)) from error
