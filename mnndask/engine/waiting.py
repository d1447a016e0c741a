"""Work that waits for workers which a cluster does not have: said, and ended if the user says so."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from dask.utils import parse_timedelta

from mnndask.engine.cluster import active_client
from mnndask.errors import ClusterError, InputError, with_notes_of

logger = logging.getLogger(__name__)
CHECK_SECONDS = 5.0  # between looks at how many workers there are
SAID_AFTER_SECONDS = 10.0  # without workers: nannies restart them in less
SAID_AGAIN_SECONDS = 300.0

_patience: ContextVar[float | None] = ContextVar("mnndask_worker_timeout", default=None)


@contextmanager
def patient_for(worker_timeout: str | None) -> Iterator[None]:
    """End work that waits for workers for longer than this, such as ``"10min"``; None lets it wait.

    Raises
    ------
    InputError
        If it is not a time.
    """
    token = _patience.set(None if worker_timeout is None else _seconds(worker_timeout))
    try:
        yield
    finally:
        _patience.reset(token)


@contextmanager
def waiting_for_workers() -> Iterator[None]:
    """Compute something on the active cluster; log from time to time that it waits for workers.

    Raises
    ------
    ClusterError
        If there are none for longer than the user is patient.
    """
    client = active_client()
    if client is None:
        yield
        return
    watch = _Watch(client, _patience.get())
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        yield
    except BaseException as error:
        if watch.given_up is None:
            raise
        raise with_notes_of(error, watch.given_up) from error
    finally:
        watch.ended.set()


def _seconds(worker_timeout: str) -> float:
    try:
        seconds = float(parse_timedelta(worker_timeout))
    except (ValueError, KeyError, IndexError, OverflowError):  # IndexError: an empty one
        seconds = -1.0
    if not seconds >= 0:
        what = f"--worker-timeout is {worker_timeout!r}."
        raise InputError(what, "Give a time such as 10min or 2h, or a number of seconds.")
    return seconds


class _Watch:
    """Looks at a cluster's workers until the work has ended.

    Parameters
    ----------
    client
        Client of the cluster.
    patience
        Seconds without workers after which the work is cancelled; None for no limit.
    """

    def __init__(self, client: Any, patience: float | None) -> None:
        self.client, self.patience = client, patience
        self.ended = threading.Event()
        self.given_up: ClusterError | None = None
        self.none_since: float | None = None
        self.n_said = 0

    def run(self) -> None:
        """Look until the work has ended, or nobody waits for it any more."""
        while self.given_up is None and not self.ended.wait(CHECK_SECONDS):
            with suppress(Exception):  # the scheduler is gone: the work itself ends with an error
                self._look()

    def _look(self) -> None:
        workers, now = self.client.nthreads(), time.monotonic()
        if workers or self.ended.is_set():
            self.none_since, self.n_said = None, 0
            return
        self.none_since = now if self.none_since is None else self.none_since
        waited = now - self.none_since
        if self.patience is not None and waited >= self.patience:
            self._give_up()
        elif waited >= SAID_AFTER_SECONDS + self.n_said * SAID_AGAIN_SECONDS:
            # The command prints each message once: the time makes it another one if workers are lost again.
            since = time.strftime("%H:%M:%S", time.localtime(time.time() - waited))
            so_far = f", for {waited / 60:.0f} min" if self.n_said else ""
            address = self.client.scheduler.address
            logger.warning("the cluster at %s has no workers; waiting since %s%s", address, since, so_far)
            self.n_said += 1

    def _give_up(self) -> None:
        from distributed import Future

        what = f"The cluster at {self.client.scheduler.address} had no workers for {self.patience:g} s."
        remedy = "Start some, and continue with --resume; or give a longer --worker-timeout."
        self.given_up = ClusterError(what, remedy)
        self.client.cancel([Future(key, self.client) for key in list(self.client.futures)])
