"""Plots of cells in two dimensions, before and after correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.errors import InputError
from mnndask.pl.drawing import GREY, axes, legend, literal, remove_frame, short, style

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

When = Literal["before", "after"]
FRAME_MARGIN = 0.05  # of the range of the cells


@exclusive()
def embedding(
    data: AnnData | RecordedCells,
    when: When = "after",
    *,
    color: str | None = None,
    method: Literal["pca", "umap"] = "pca",
    ax: Axes | None = None,
) -> Axes:
    """Draw cells before or after the correction, both on the same principal components.

    Parameters
    ----------
    data
        Corrected AnnData.
    when
        State to draw.
    color
        Column of obs to colour by, groups or numbers; None for batches.
    method
        ``"pca"``: the first two components. ``"umap"``: UMAP of all recorded components, if umap-learn is
        installed, of both states together, so that they can be compared.
    ax
        Axes to draw on; None creates new ones.

    Raises
    ------
    InputError, InputKeyError
        If nothing is recorded, there is no such column, or a library is not installed.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.embedding(corrected, "before").get_title()
    'Cells before correction, by batch'
    """
    record, ax = RecordedCells.of(data), axes(ax)
    shown, frame, names = _coordinates(record, when, method)
    if color is not None and record.is_measure(color):
        numbers, size = record.numbers(color), _size(len(shown))
        drawn = ax.scatter(shown[:, 0], shown[:, 1], s=size, lw=0, c=numbers, cmap="viridis", rasterized=True)
        ax.figure.colorbar(drawn, ax=ax, label=literal(color))
    else:
        _groups(ax, shown, record.batches if color is None else record.column(color))
        legend(ax, title=literal(color or "batch"))
    _label(ax, names, frame)
    ax.set_title(f"Cells {when} correction, by {literal(color or 'batch')}")
    return ax


def before_and_after(data: AnnData | RecordedCells, colors: Sequence[str | None]) -> Figure:
    """Draw cells before and after the correction, with one row per colour of :func:`embedding`."""
    from matplotlib.figure import Figure

    cells, states = RecordedCells.of(data), get_args(When)
    figure = Figure(figsize=(10.5, 4 * len(colors)), layout="constrained")
    rows = figure.subplots(len(colors), len(states), squeeze=False)
    for row, color in zip(rows, colors, strict=True):
        for ax, when in zip(row, states, strict=True):
            embedding(cells, when, color=color, ax=ax)
    return figure


def _groups(ax: Axes, shown: NDArray[Any], groups: Any) -> None:
    """Draw cells in the colours of their groups, in random order, so that no group hides the others."""
    order = np.random.default_rng(0).permutation(len(shown))
    size = _size(len(shown))
    for part in np.array_split(order, max(1, len(order) // 250)):
        for i in np.unique(groups.codes[part]):
            x, y = shown[part[groups.codes[part] == i]].T
            ax.scatter(x, y, s=size, lw=0, alpha=0.8, rasterized=True, **style(int(i)))
    for i, name in enumerate(short(groups.categories)):
        if (groups.codes == i).any():
            ax.scatter([], [], s=30, lw=0, label=name, **style(i))


@exclusive()
def pairs(
    data: AnnData | RecordedCells,
    batch: str | None = None,
    *,
    when: When = "before",
    n_pairs: int = 300,
    ax: Axes | None = None,
) -> Axes:
    """Draw the pairs between cells of a batch and cells of the batches before it.

    The method assumes parallel lines, from each cell type to the same type. Lines from one cluster to several
    are pairs of unlike cells.

    Parameters
    ----------
    data
        Corrected AnnData.
    batch
        Name of the batch; None for the second in merge order.
    when
        State in which the cells of the batch are drawn. Cells of the batches before it are always drawn
        corrected, as they were when the pairs were found.
    n_pairs
        Largest number of pairs to draw.
    ax
        Axes to draw on; None creates new ones.

    Raises
    ------
    InputError
        If nothing is recorded, or the batch was not merged into another.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.pairs(corrected, "1").get_title()
    'Pairs of 1, before correction'
    """
    record, ax = RecordedCells.of(data), axes(ax)
    order = list(record.batches.categories)
    batch = order[1] if batch is None else str(batch)
    if batch not in order[1:]:
        what = f"Batch {batch!r} was not merged into another."
        raise InputError(what, f"Give one of these batches: {', '.join(order[1:])}.")
    sample, codes = record.sample, record.batches.codes
    number = order.index(batch)
    is_new, is_ref = codes == number, codes < number
    state, frame, axes_names = _coordinates(record, when, "pca")
    shown = np.where(is_new[:, None], state, _coordinates(record, "after", "pca")[0])
    new, ref = (np.asarray(sample[key]) for key in ("pair_new", "pair_reference"))
    of_batch = np.flatnonzero(codes[new] == number)
    drawn = of_batch[:: max(1, -(-len(of_batch) // n_pairs))]
    size = _size(int(is_new.sum() + is_ref.sum()))
    ax.scatter(shown[is_ref, 0], shown[is_ref, 1], s=size, lw=0, color=GREY, rasterized=True)
    ax.scatter(
        shown[is_new, 0], shown[is_new, 1], s=size, lw=0, alpha=0.8, rasterized=True, color=style(0)["color"]
    )
    for line in shown[np.stack([new[drawn], ref[drawn]], axis=1)]:
        ax.plot(line[:, 0], line[:, 1], lw=0.5, alpha=0.5, color=style(5)["color"], rasterized=True)
    ax.scatter([], [], s=30, lw=0, color=GREY, label="batches before it" if number > 1 else short(order)[0])
    ax.scatter([], [], s=30, lw=0, color=style(0)["color"], label=short([batch])[0])
    ax.plot([], [], lw=1.5, color=style(5)["color"], label=f"pair ({len(drawn):,} shown)")
    legend(ax)
    _label(ax, axes_names, frame)
    ax.set_title(f"Pairs of {short([batch])[0]}, {when} correction")
    return ax


def _size(n: int) -> float:
    """Return the area of a marker, smaller for more cells."""
    return float(np.clip(20_000 / max(1, n), 2, 30))


def _coordinates(
    record: RecordedCells, when: When, method: str
) -> tuple[NDArray[Any], NDArray[Any], tuple[str, str]]:
    """Return coordinates of cells in one state and in both (to share a frame), and names of the axes."""
    if when not in ("before", "after"):
        what = f"when is {when!r}."
        raise InputError(what, "Give 'before' or 'after'.")
    states = [np.asarray(record.sample[state]) for state in ("before", "after")]
    if method == "umap":
        frame = _umap(np.concatenate(states))
        return np.split(frame, 2)[when == "after"], frame, ("UMAP 1", "UMAP 2")
    if method != "pca":
        what = f"method is {method!r}."
        raise InputError(what, "Give 'pca' or 'umap'.")
    frame = np.concatenate(states)[:, :2]
    frame = np.pad(frame, ((0, 0), (0, 2 - frame.shape[1])))  # if there is only one component
    return np.split(frame, 2)[when == "after"], frame, ("PC 1", "PC 2")


def _umap(cells: NDArray[Any]) -> NDArray[Any]:
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        what = "method='umap' needs umap-learn, which is not installed."
        raise InputError(what, "Install it (pip install umap-learn), or give method='pca'.") from error
    out: NDArray[Any] = UMAP(random_state=0, n_jobs=1).fit_transform(cells)
    return out


def _label(ax: Axes, names: tuple[str, str], frame: NDArray[Any]) -> None:
    low, high = frame.min(axis=0), frame.max(axis=0)
    margin = FRAME_MARGIN * np.where(high > low, high - low, 1)
    (left, bottom), (right, top) = low - margin, high + margin
    ax.set(xlabel=names[0], ylabel=names[1], xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))
    remove_frame(ax)
