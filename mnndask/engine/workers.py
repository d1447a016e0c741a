"""What the workers of a cluster see and have, looked at before the work: files, folders, versions."""

from __future__ import annotations

import socket
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import dask.array as da

from mnndask._version import __version__
from mnndask.engine.cluster import active_client
from mnndask.engine.waiting import waiting_for_workers
from mnndask.errors import ClusterError, MNNError, ScratchError, warn
from mnndask.stores.lazy_matrix import files_read
from mnndask.stores.local_files import SHARE_IT, unseen
from mnndask.stores.location import Location

COMPARED = ("anndata", "dask", "distributed", "numba", "numpy", "scipy", "zarr")
NOT_INSTALLED = ("ImportError", "ModuleNotFoundError", "AttributeError")  # the last: another mnndask
Seen: TypeAlias = tuple[int, int] | str  # size and time of a file, or why it is not seen


def look(paths: Iterable[str]) -> dict[str, Any]:
    """Describe this process: its host, versions, and the files that it sees. Runs on workers."""
    return {
        "host": socket.gethostname(),
        "versions": _versions(),
        "seen": {path: _seen(Path(path)) for path in paths},
    }


def _versions() -> dict[str, str]:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"mnndask": __version__, "Python": python} | {name: _version(name) for name in COMPARED}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _seen(path: Path) -> Seen:
    try:
        status = path.stat()
    except OSError as error:
        return error.strerror or type(error).__name__
    # The times of a folder differ between machines as its members come and go.
    return (0, 0) if path.is_dir() else (status.st_size, int(status.st_mtime))


@dataclass(frozen=True)
class _Worker:
    """One worker's answer.

    Parameters
    ----------
    name
        Its address and host.
    versions, seen
        See :func:`look`.
    """

    name: str
    versions: Mapping[str, str]
    seen: Mapping[str, Seen]


def check_workers(arrays: Iterable[da.Array], scratch: Location | None) -> None:
    """Check, before a fit, that the workers of the active cluster can do it.

    Parameters
    ----------
    arrays
        Lazy inputs.
    scratch
        Folder for temporary files; None for the system's.

    Raises
    ------
    ClusterError
        If mnndask is not installed on a worker.
    InputReadError, ScratchError
        If a worker does not see an input, or the scratch folder. The message names the worker.
    """
    client = active_client()
    if client is None:
        return
    labels = {str(file): (label, path) for X in arrays for label, path, file in files_read(X)}
    if not client.nthreads():  # the first may still be queued, or started on demand
        with waiting_for_workers():
            client.submit(look, [], pure=False).result()
    workers = _looked(client, labels)
    _compare_versions(workers)
    here = look(labels)["seen"]
    for worker in workers:
        for file, (label, path) in labels.items():
            if worker.seen[file] != here[file]:
                raise unseen(label, path, worker.name, _problem(worker.seen[file]))
    if scratch is None or not scratch.is_url:
        folder = Path(tempfile.gettempdir()) if scratch is None else scratch.path.absolute()
        remedy = "Name a folder that all machines share, or a URL: scratch=... (--scratch)."
        _check_folder(client, folder, ScratchError, f"The scratch folder {folder}", remedy)


def check_output_folder(output: Location) -> None:
    """Check, before any work, that the workers of the active cluster see the folder of an output."""
    client = active_client()
    if client is not None and not output.is_url:
        folder = output.path.absolute().parent
        _check_folder(client, folder, ClusterError, f"The folder of the output {output}", SHARE_IT)


def _check_folder(client: Any, folder: Path, kind: type[MNNError], name: str, remedy: str) -> None:
    with _marked(folder) as marker:
        if marker is None:  # whoever writes there says why
            return
        for worker in _looked(client, [str(marker)]):
            if isinstance(problem := worker.seen[str(marker)], str):
                what = f"{name} is not shared: {worker.name} does not see what is written there ({problem})."
                raise kind(what, remedy)


@contextmanager
def _marked(folder: Path) -> Iterator[Path | None]:
    """Yield a new file in a folder; None if there cannot be one."""
    marker = folder / f".mnndask-{uuid.uuid4().hex}"
    try:
        marker.touch()
    except OSError:
        yield None
        return
    try:
        yield marker
    finally:
        with suppress(OSError):
            marker.unlink()


def _looked(client: Any, paths: Iterable[str]) -> list[_Worker]:
    """Have all workers look at paths; those that die meanwhile are left out."""
    workers = []
    for address, answer in client.run(look, list(paths), on_error="return").items():
        if _is_import_error(answer):
            what = f"The worker {address} cannot import mnndask {__version__}: {answer}."
            raise ClusterError(what, f"Install it on all machines: pip install mnndask=={__version__}")
        if isinstance(answer, dict):
            workers.append(
                _Worker(f"worker {address} on {answer['host']}", answer["versions"], answer["seen"])
            )
    return workers


def _is_import_error(answer: Any) -> bool:
    """Whether a worker cannot import this module; a scheduler reports that as text in an exception."""
    kind = str(answer).split("(")[0] if type(answer) is Exception else type(answer).__name__
    return kind in NOT_INSTALLED


def _compare_versions(workers: Iterable[_Worker]) -> None:
    ours = _versions()
    different: dict[str, list[str]] = {}
    for worker in workers:
        others = {name: other for name, other in worker.versions.items() if other != ours[name]}
        if others:
            listed = ", ".join(f"{name} {other} (here {ours[name]})" for name, other in others.items())
            different.setdefault(listed, []).append(worker.name)
    if different:
        parts = [
            f"{names[0]} has {listed}"
            if len(names) == 1
            else f"{names[0]} and {len(names) - 1} more have {listed}"
            for listed, names in different.items()
        ]
        warn(
            f"Workers have other versions than this process: {'; '.join(parts)}.",
            "Install the same versions on all machines if something fails, or results must be the same.",
        )


def _problem(seen: Seen) -> str:
    return seen if isinstance(seen, str) else "another file is there, or a copy with another time"
