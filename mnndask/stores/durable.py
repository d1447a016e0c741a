"""What is to survive a power loss: files and folders synced to the disk, small files replaced atomically."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

AT_ONCE = 16  # files synced at the same time: file systems commit them together
EARLY_THREADS = 2
UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}  # by file systems that cannot sync


def sync_file(path: Path) -> None:
    """Sync a file to the disk, unless it has been removed."""
    with suppress(FileNotFoundError):
        _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk, where a system allows it."""
    if os.name != "nt":
        with suppress(FileNotFoundError):
            _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Sync all files below a folder, then all folders."""
    files, folders = [], []
    for folder, _, names in os.walk(path):
        folders.append(Path(folder))
        files += [Path(folder, name) for name in names]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mnndask-sync") as pool:
        _wait(pool.map(sync_file, files))
        _wait(pool.map(sync_folder, folders))


def _wait(results: Iterable[None]) -> None:
    for _ in results:
        pass


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that has either its old or its new content, whenever the process or the power ends."""
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_bytes(content)
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


class EarlySync:
    """Syncs large files soon after they are written, in threads of its own, so that little is left to do."""

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.started: list[Future[None]] = []

    def add(self, path: Path) -> None:
        """Sync a file some time soon."""
        if self.pool is None:
            self.pool = ThreadPoolExecutor(EARLY_THREADS, thread_name_prefix="mnndask-sync")
        self.started.append(self.pool.submit(sync_file, path))

    def wait(self) -> None:
        """Wait for all files; raise if the disk failed."""
        started, self.started = self.started, []
        _wait(future.result() for future in started)

    def end(self) -> None:
        """Stop: no more files are added."""
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
