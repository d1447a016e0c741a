"""Coordinates of cells to draw: recorded components of both states, UMAP of these, or any ``obsm``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.errors import InputError, InputKeyError

When = Literal["before", "after"]


@dataclass(frozen=True)
class Layout:
    """Coordinates of cells.

    Parameters
    ----------
    cells
        Coordinates, shape ``(n_cells, n_dims)``.
    frame
        All coordinates that share a frame with them, e.g. of both states.
    axis
        Name of an axis, which its number follows.
    """

    cells: NDArray[Any]
    frame: NDArray[Any]
    axis: str

    def pair(self, first: int, second: int) -> tuple[NDArray[Any], NDArray[Any], tuple[str, str]]:
        """Return two dimensions (from 0) of the cells and the frame, and names of the axes."""
        dims = [first, second]
        names = f"{self.axis} {first + 1}", f"{self.axis} {second + 1}"
        return self.cells[:, dims], self.frame[:, dims], names


def recorded_layout(record: RecordedCells, when: str, method: str) -> Layout:
    """Return coordinates of the recorded cells in one state.

    Raises
    ------
    InputError
        If `when` or `method` is unknown, or umap-learn is needed and not installed.
    """
    check_when(when)
    states = [np.asarray(record.sample[state]) for state in ("before", "after")]
    if method == "umap":
        frame = _umap(np.concatenate(states))
        return Layout(np.split(frame, 2)[when == "after"], frame, "UMAP")
    if method != "pca":
        what = f"method is {method!r}."
        raise InputError(what, "Give 'pca' or 'umap', or basis='...' for coordinates in obsm.")
    frame = np.concatenate(states)
    frame = np.pad(frame, ((0, 0), (0, max(0, 2 - frame.shape[1]))))  # if there is only one component
    return Layout(np.split(frame, 2)[when == "after"], frame, "PC")


def check_when(when: str) -> None:
    """Raise InputError unless `when` is a state."""
    if when not in ("before", "after"):
        what = f"when is {when!r}."
        raise InputError(what, "Give 'before' or 'after'.")


def stored_layout(data: AnnData | RecordedCells, basis: str, when: str) -> Layout:
    """Return coordinates of all cells in ``obsm[basis]`` or ``obsm["X_" + basis]``, as scanpy names them.

    Raises
    ------
    InputError, InputKeyError
        If there are no such coordinates, or they are not those of numbers in two dimensions or more; if the
        uncorrected state is asked for.
    """
    check_when(when)
    if when == "before":
        what = f"when='before' was given with basis={basis!r}, but obsm has one state only."
        raise InputError(what, "Leave out when, or leave out basis to see the recorded cells before.")
    obsm = {} if isinstance(data, RecordedCells) else data.obsm
    key = next((key for key in (basis, f"X_{basis}") if key in obsm), None)
    if key is None:
        what = f"There is no {basis!r} or {'X_' + basis!r} in obsm."
        known = ", ".join(map(str, obsm)) or "nothing"
        raise InputKeyError(what, f"It has: {known}. For UMAP: sc.pp.pca, sc.pp.neighbors and sc.tl.umap.")
    cells = obsm[key]
    cells = np.asarray(cells.compute() if hasattr(cells, "compute") else cells)
    if cells.ndim != 2 or cells.shape[1] < 2 or cells.dtype.kind not in "fiu":
        what = f"obsm[{key!r}] has shape {cells.shape} and type {cells.dtype}: no coordinates to draw."
        raise InputError(what, "Give coordinates in two dimensions or more.")
    name = key.removeprefix("X_")
    return Layout(cells, cells, {"pca": "PC"}.get(name, name.upper() if name in ("umap", "tsne") else name))


def dimensions_of(components: str | Sequence[str], n_dims: int) -> list[tuple[int, int]]:
    """Return pairs of dimensions, from 0, for components as scanpy takes them: ``"1,2"`` or a list of such.

    Raises
    ------
    InputError
        If they are not two numbers from 1 to the number of dimensions.
    """
    out = []
    for given in [components] if isinstance(components, str) else list(components):
        numbers = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", given) if isinstance(given, str) else None
        pair = [int(number) - 1 for number in numbers.groups()] if numbers else []
        if not pair or not all(0 <= one < n_dims for one in pair):
            what = f"components is {given!r}."
            raise InputError(what, f"Give two numbers from 1 to {n_dims}, such as components='1,2'.")
        out.append((pair[0], pair[1]))
    if not out:
        what = "components is empty."
        raise InputError(what, "Give two numbers, such as components='1,2', or a list of these.")
    return out


def _umap(cells: NDArray[Any]) -> NDArray[Any]:
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        what = "method='umap' needs umap-learn, which is not installed."
        raise InputError(what, "Install it (pip install umap-learn), or give method='pca'.") from error
    out: NDArray[Any] = UMAP(random_state=0, n_jobs=1).fit_transform(cells)
    return out
