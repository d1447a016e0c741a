"""Examples that are the same in every run, stores to spoil."""

import asyncio
import gc
import os
import shutil
import tempfile
import types

# Before numpy and scikit-learn are loaded, and for workers, which inherit it: they share the cores, so that
# loops have one thread each, and threads that wait do not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from cluster_fixtures import client, two_workers  # noqa: F401
from hypothesis import settings
from s3_fixtures import inputs_on_s3, s3, s3_command, s3_server, s3_write  # noqa: F401
from spoiling import A, B, stored

from mnndask.core.kernels import ahead

FOLDER = pytest.StashKey[str]()

# HYPOTHESIS_PROFILE=explore looks for new examples.
settings.register_profile("fixed", derandomize=True, database=None)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


IN_MEMORY, ENOUGH = "/dev/shm", 4 * 2**30


def pytest_configure(config):
    """Prepare the session, before workers start."""
    if not hasattr(config, "workerinput"):
        _compile()
    _keep_files_in_memory(config)


def _compile():
    """Compile once, not in each worker, and not in a command whose stages a test looks at.

    A process of its own takes half of the functions, as each function has its own index of what is compiled.
    """
    signatures = {}
    for dtype in (np.float32, np.float64):
        for loop, signature in ahead._needed(
            np.dtype(dtype), few=True, var_adj=True, sparse=True, refine=True
        ):
            signatures.setdefault(loop, {})[signature] = None
    child = os.fork() if hasattr(os, "fork") else None
    for i, (loop, own) in enumerate(signatures.items()):
        if child is None or i % 2 == (child == 0):
            for signature in own:
                loop.compile(signature)
    if child == 0:
        os._exit(0)
    if child is not None:
        os.waitpid(child, 0)


def _keep_files_in_memory(config):
    """Have temporary files in memory, where there is enough: thousands of small ones come and go."""
    if "TMPDIR" in os.environ or not os.path.isdir(IN_MEMORY) or shutil.disk_usage(IN_MEMORY).free < ENOUGH:
        return
    config.stash[FOLDER] = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="mnndask-tests-", dir=IN_MEMORY)
    os.chmod(os.environ["TMPDIR"], 0o711)  # as tests that act as another user pass through it
    tempfile.tempdir = None  # which may have been looked for already


def pytest_collection_finish():
    """Look for no garbage among what was imported, which takes most of a second each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session, exitstatus):
    """Free it, unless there are failures to look into."""
    if FOLDER in session.config.stash and exitstatus == 0:
        shutil.rmtree(session.config.stash[FOLDER], ignore_errors=True)


class _Inline(types.ModuleType):
    """asyncio, with no threads: a small file is read sooner than it is handed over to one."""

    def __getattr__(self, name):
        return getattr(asyncio, name)

    @staticmethod
    async def to_thread(function, /, *args, **kwargs):
        return function(*args, **kwargs)


@pytest.fixture(scope="session", autouse=True)
def _quick_stores():
    """Local stores read and write in the thread of zarr's event loop, rather than in threads of its pool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zarr.storage._local.asyncio", _Inline("asyncio"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_probes():
    """Fits on disk announce their time from one probe, rather than from as many as 0.2 s take.

    Requests that failed are made again at once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnndask.engine.fit_plan.PROBE_SECONDS", 1e-9)
        patch.setattr("mnndask.stores.retries.PAUSES", (0.01,) * 4)
        yield


@pytest.fixture
def short_record(monkeypatch):
    """Results record only their steps: to measure and to write all else takes most of a small run."""

    def short(fitted):
        return {"parameters": {}, "steps": fitted.record.steps}

    monkeypatch.setattr("mnndask.api.fitting.Fitted._measured", short)


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """Function that writes the two batches in some kind of store, once, and gives the folder."""
    folders = {}

    def write(kind, layout):
        if (kind, layout) not in folders:
            folders[kind, layout] = folder = tmp_path_factory.mktemp(f"{kind}-{layout}")
            for name, X in (("a", A), ("b", B)):
                stored(folder, X, kind, layout, name)
        return folders[kind, layout]

    return write


@pytest.fixture
def stores(sound, tmp_path):
    """Function that gives paths of two batches, which may be spoiled."""

    def copy(kind, layout="csr"):
        shutil.copytree(sound(kind, layout), tmp_path, dirs_exist_ok=True)
        return [next(tmp_path.glob(f"{name}.*")) for name in "ab"]

    return copy


@pytest.fixture
def scratch(tmp_path):
    """An empty folder, which has to be empty again in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    gc.collect()
    assert list(folder.iterdir()) == []
