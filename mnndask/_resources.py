"""Memory and processors that this process may use: the machine's, or what a job, group or shell leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mnndask._cgroups import PROCESS, memory_left, processors

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # of SLURM; without one, megabytes


@dataclass(frozen=True, order=True)
class FreeMemory:
    """Memory that this process may still take.

    Parameters
    ----------
    size
        Number of bytes, at least 1.
    limited_by
        What limits it, in words.
    """

    size: int
    limited_by: str


def free_memory(process: Path = PROCESS, environment: Mapping[str, str] = os.environ) -> FreeMemory:
    """Return the memory that is free for this process now: the least that anything leaves it.

    The machine, control groups, limits of the shell (``ulimit -v``, ``-d``), and a SLURM job.
    """
    machine = psutil.virtual_memory()
    left = [(int(machine.available), "free memory")]
    left += [(size, f"cgroup {name}") for size, name in memory_left(int(machine.total), process)]
    size, limited_by = min([*left, *_limits_left(), *_job_left(environment)])
    return FreeMemory(max(size, 1), limited_by)


def _limits_left() -> Iterator[tuple[int, str]]:
    """Yield what the limits that a shell sets leave."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for limit, option, used in (("RLIMIT_AS", "-v", "vms"), ("RLIMIT_DATA", "-d", "data")):
        if (kind := getattr(resource, limit, None)) is None:
            continue
        most = resource.getrlimit(kind)[0]
        now = getattr(psutil.Process().memory_info(), used, None) if most != resource.RLIM_INFINITY else None
        if now is not None:
            yield most - now, f"ulimit {option}"


def _job_left(environment: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield what a SLURM job leaves, whether or not SLURM enforces it."""
    if "SLURM_JOB_ID" not in environment:
        return
    used = int(psutil.Process().memory_info().rss)
    if per_node := _megabytes(environment.get("SLURM_MEM_PER_NODE", "")):
        yield per_node - used, "SLURM_MEM_PER_NODE"
    per_cpu, cpus = _megabytes(environment.get("SLURM_MEM_PER_CPU", "")), _cpus_of_job(environment)
    if per_cpu and cpus:
        number, name = cpus
        yield number * per_cpu - used, f"SLURM_MEM_PER_CPU x {name}"


def _megabytes(text: str) -> int:
    """Bytes of a size as SLURM gives it, in megabytes unless it has a unit; 0 if it is none, or no limit."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "M")
    return int(number) * UNITS.get(unit, 0) if number.isdecimal() else 0


def _cpus_of_job(environment: Mapping[str, str], first: str = "SLURM_CPUS_ON_NODE") -> tuple[int, str] | None:
    """Return the processors of a SLURM job on this machine, and the variable that says so."""
    for name in (first, "SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):
        if (text := environment.get(name, "")).isdecimal() and int(text):
            return int(text), name
    return None


def usable_processors(process: Path = PROCESS, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processors this process may use, at least 1.

    Its affinity, quotas of control groups, and a SLURM job limit them.
    """
    found = [os.cpu_count() or 1, *processors(process)]
    with suppress(AttributeError, OSError):  # not on Linux
        found.append(len(os.sched_getaffinity(0)))
    if "SLURM_JOB_ID" in environment and (cpus := _cpus_of_job(environment, "SLURM_CPUS_PER_TASK")):
        found.append(cpus[0])
    return max(1, min(found))
