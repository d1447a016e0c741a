"""Memory and processors that control groups (cgroups) leave to this process: versions 1 and 2, nested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

PROCESS = Path("/proc/self")
V1, V2 = "cgroup", "cgroup2"  # types of file system


@dataclass(frozen=True)
class Group:
    """A control group that this process is in, directly or through a group below it.

    Parameters
    ----------
    version
        Type of its file system.
    name
        Its path in the hierarchy.
    folder
        Where its files are.
    """

    version: str
    name: str
    folder: str

    def limits(self) -> list[int]:
        """Return the limits of its memory, in bytes."""
        if self.version == V1:  # of this group and those above it, mounted here or not
            limit = self._statistic("hierarchical_memory_limit")
            return [] if limit is None else [limit]
        found = [_number(self._text(file)) for file in ("memory.max", "memory.high")]
        return [limit for limit in found if limit is not None]

    def used(self) -> int:
        """Return the bytes that it uses, without cached files that are not in use: they make way."""
        file, cached = (
            ("memory.usage_in_bytes", "total_inactive_file")
            if self.version == V1
            else ("memory.current", "inactive_file")
        )
        return (_number(self._text(file)) or 0) - (self._statistic(cached) or 0)

    def quota(self) -> int | None:
        """Return how many processors it may use, rounded up; None if it has no quota."""
        texts = (
            [self._text("cpu.cfs_quota_us"), self._text("cpu.cfs_period_us")]
            if self.version == V1
            else self._text("cpu.max").split()
        )
        numbers = [number for text in texts if (number := _number(text))]
        return ceil(numbers[0] / numbers[1]) if len(numbers) == 2 else None

    def _statistic(self, key: str) -> int | None:
        found = re.search(rf"^{key} (\d+)$", self._text("memory.stat"), re.MULTILINE)
        return None if found is None else int(found[1])

    def _text(self, file: str) -> str:
        try:
            with open(f"{self.folder}/{file}") as opened:
                return opened.read()
        except OSError:  # the controller is not on here, or this is the root
            return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None  # not "max", and not -1


def memory_left(below: int, process: Path = PROCESS) -> Iterator[tuple[int, str]]:
    """Yield how many bytes each group leaves, and its name. Limits from `below` on count as none."""
    unlimited = False
    for group in groups("memory", process):
        if unlimited and group.version == V1:
            continue
        if limits := [limit for limit in group.limits() if limit < below]:
            yield min(limits) - group.used(), group.name
        else:
            unlimited = group.version == V1  # then those above it have no limit either


def processors(process: Path = PROCESS) -> Iterator[int]:
    """Yield how many processors the quota of each group allows."""
    for group in groups("cpu", process):
        if quota := group.quota():
            yield quota


def groups(controller: str, process: Path = PROCESS) -> tuple[Group, ...]:
    """Return the groups that this process is in, from its own up, which a controller could limit.

    Parameters
    ----------
    controller
        Its name, such as ``"memory"``.
    process
        Folder that describes the process.
    """
    with suppress(OSError), open(f"{process}/cgroup") as file:  # which only Linux has
        return _groups(controller, file.read(), process)
    return ()


@cache
def _groups(controller: str, membership: str, process: Path) -> tuple[Group, ...]:
    """Return the groups of a process with this membership; mounts are read once for each."""
    mounts = list(_mounts(process / "mountinfo", controller))
    return tuple(
        group
        for version, path in _paths(membership, controller)
        for mounted, root, point in mounts
        if version == mounted
        for group in _upwards(version, path, root, point)
    )


def _paths(membership: str, controller: str) -> Iterator[tuple[str, str]]:
    """Yield version and path of each group that the process is in itself."""
    for line in membership.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield V2, path
        elif controller in controllers.split(","):
            yield V1, path


def _mounts(file: Path, controller: str) -> Iterator[tuple[str, str, str]]:
    """Yield version, root and mount point of each hierarchy that the controller may be in."""
    for line in file.read_text().splitlines():
        before, _, after = line.partition(" - ")
        version, *options = re.split("[ ,]", after)
        if version == V2 or (version == V1 and controller in options):
            root, point = (re.sub(r"\\([0-7]{3})", _unescaped, text) for text in before.split()[3:5])
            yield version, root.rstrip("/"), point


def _unescaped(code: re.Match[str]) -> str:
    return chr(int(code[1], 8))


def _upwards(version: str, path: str, root: str, point: str) -> Iterator[Group]:
    """Yield the group at a path and those above it, down to the root of what is mounted.

    If the path is elsewhere, only the root: in a container, paths may be those outside of it.
    """
    below = path.removeprefix(root) if f"{path}/".startswith(f"{root}/") and "/.." not in path else ""
    parts = [part for part in below.split("/") if part]
    for n in range(len(parts), -1, -1):
        below = "".join(f"/{part}" for part in parts[:n])
        yield Group(version, f"{root}{below}" or "/", f"{point}{below}")
