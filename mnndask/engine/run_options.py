"""Options of the run, not of the method: threads, memory, scratch. They do not change results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from mnndask._progress import announcements
from mnndask._resources import FreeMemory, free_memory
from mnndask._threads import effective_n_jobs
from mnndask.core.parameters import check_bits, check_flag, is_whole
from mnndask.engine.memory_budget import GIVEN, Budget, parse_memory, warn_if_not_there
from mnndask.errors import InputError, InputNotFoundError, InputTypeError, ScratchError
from mnndask.stores.location import Location


@dataclass(frozen=True)
class RunOptions:
    """Options of a run. Each is described in :func:`mnndask.mnn_correct`.

    Raises
    ------
    InputError, InputTypeError, InputNotFoundError, ScratchError
        If a value cannot be used. The message names the option and the values it accepts.
    """

    n_jobs: int | None = None
    memory_limit: int | str | None = None
    scratch: str | os.PathLike[str] | None = None
    storage_options: Mapping[str, Any] | None = None
    show_progress: bool | None = None
    diagnostics: bool = True

    def __post_init__(self) -> None:
        check_bits("n_jobs", self.n_jobs, 32)
        check_bits("memory_limit", self.memory_limit)
        if self.n_jobs is not None and (not is_whole(self.n_jobs) or self.n_jobs == 0):
            what = f"n_jobs is {self.n_jobs!r}."
            raise InputError(what, "Give a number of threads, or None or -1 for all processors.")
        if not isinstance(self.show_progress, bool | np.bool_ | None):
            what = f"show_progress is {self.show_progress!r}."
            raise InputTypeError(what, "Give True, False, or None: shown in terminals and notebooks only.")
        check_flag("diagnostics", self.diagnostics)
        parse_memory(self.memory_limit)
        self._check_scratch()

    @cached_property
    def budget(self) -> Budget:
        """Memory budget of the call. Free memory is measured on first use."""
        budget = Budget.of(self.memory_limit, self.n_threads, self.free)
        if budget.source == GIVEN:
            warn_if_not_there(budget.limit, self.free)
        return budget

    def announce(self) -> None:
        """Log the memory limit and the number of threads, and where they come from."""
        n = self.budget.n_workers
        announcements.info("memory limit: %s, %d thread%s", self.budget, n, "" if n == 1 else "s")

    @cached_property
    def free(self) -> FreeMemory:
        """Memory that is free for this process, measured on first use."""
        return free_memory()

    @cached_property
    def n_threads(self) -> int:
        """Number of threads for work in memory."""
        return effective_n_jobs(self.n_jobs)

    @property
    def scratch_location(self) -> Location | None:
        """Folder for temporary files; None for the system's."""
        return None if self.scratch is None else Location.of(self.scratch, self.storage_options)

    def _check_scratch(self) -> None:
        folder = self.scratch
        if folder is None:
            return
        if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            what = f"scratch is {folder!r}."
            raise InputTypeError(what, "Give the path of a folder, or None for the system's.")
        location = Location.of(folder, self.storage_options)
        if location.is_url:
            location.filesystem()  # checks the address; object stores have no folders that could be missing
            return
        try:
            exists = location.path.is_dir()
        except PermissionError as error:
            what = f"The scratch folder {folder} cannot be reached: permission denied."
            raise ScratchError(what, "Name one that can be written: scratch=...") from error
        if not exists:
            what = f"The scratch folder {folder} does not exist."
            raise InputNotFoundError(what, "Create it first, or leave scratch out.")


RUN_OPTIONS = frozenset(field.name for field in fields(RunOptions))
