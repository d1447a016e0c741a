"""What code could change for the whole process."""

from __future__ import annotations

import copy
import logging
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager
from functools import partial

import anndata as ad
import dask
import numba
import numpy as np
import pandas as pd
import zarr
from threadpoolctl import threadpool_info

from mnndask import _threads

ANNDATA_SETTINGS = ("auto_shard_zarr_v3", "remove_unused_categories", "check_uniqueness")


@contextmanager
def two_blas_threads():
    """Have BLAS use two threads, where tests have one, so that a limit is seen, and seen to be lifted.

    The thread that limits BLAS in calls sets this, too: threadpoolctl lets no other change it then.
    """
    limits = []
    limit = partial(_threads._controller().limit, limits=2, user_api="blas")
    _threads._blas_limit._run(lambda: limits.append(limit()))
    try:
        yield
    finally:
        _threads._blas_limit._run(limits[0].restore_original_limits)


def state():
    """What code could change for the whole process."""
    return {
        "filters": list(warnings.filters),
        "showwarning": (warnings.showwarning, warnings.formatwarning, warnings._showwarnmsg_impl),
        "zarr": copy.deepcopy(zarr.config.config),
        "dask": copy.deepcopy(dask.config.config),
        "anndata": {name: getattr(ad.settings, name, None) for name in ANNDATA_SETTINGS},
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
