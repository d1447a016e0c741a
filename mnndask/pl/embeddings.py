"""Plots of cells in two dimensions, before and after correction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.errors import InputError
from mnndask.io.record import merged
from mnndask.pl.coloring import Coloring, batch_styles, coloring
from mnndask.pl.coordinates import Layout, When, dimensions_of, recorded_layout, stored_layout
from mnndask.pl.drawing import GREY, PAIRS, Save, axes, finished, grid, legend, literal, remove_frame, short

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRAME_MARGIN = 0.05  # of the range of the cells
PARTS = 40  # drawn one after the other


@exclusive()
def embedding(  # noqa: PLR0913
    data: AnnData | RecordedCells,
    when: When = "after",
    *,
    color: str | Sequence[str | None] | None = None,
    method: Literal["pca", "umap"] = "pca",
    basis: str | None = None,
    components: str | Sequence[str] = "1,2",
    ax: Axes | None = None,
    save: Save = None,
    show: bool | None = None,
) -> Axes | list[Axes]:
    """Draw cells before or after the correction, both on the same principal components.

    Two components can look mixed where cells are not: look at others, too.

    Parameters
    ----------
    data
        Corrected AnnData.
    when
        State to draw.
    color
        Column of obs, groups or numbers, or gene to colour by; None for batches; or a list of these, each
        drawn on axes of its own. Values of genes are those of ``raw``, if there is one, else of ``X``.
        Groups have the colours of ``uns["<column>_colors"]``, as scanpy stores them.
    method
        ``"pca"``: recorded components. ``"umap"``: UMAP of all recorded components, if umap-learn is
        installed, of both states together, so that they can be compared.
    basis
        Name in obsm of coordinates to draw instead, e.g. ``"umap"`` for ``obsm["X_umap"]``, of all cells.
    components
        Numbers of the two components, from 1, as in scanpy: ``"1,2"``; or a list of such pairs.
    ax
        Axes to draw on; None creates new ones.
    save
        True or text, as in scanpy: saves ``figures/embedding<text>``, as PDF unless the text ends with
        another type (``".png"``). A path with a folder is the file itself.
    show
        Whether to show the figure at once (``matplotlib.pyplot.show``).

    Returns
    -------
    The axes; a list if there are several colours or pairs of components.

    Raises
    ------
    InputError, InputKeyError
        If nothing is recorded, there is no such column, gene or coordinates, or a library is not installed.
    OutputError
        If the file of `save` cannot be written.

    Notes
    -----
    A picture is no measure. Over-correction looks best mixed, and distances and densities in a UMAP are
    distorted: see :func:`mnndask.metrics.summarize`. In a result without ``raw``, a gene of ``X`` has
    corrected values (unless `layer_added` kept the input's), which do not show expression. A gene of a lazy
    result is computed for all cells, and so are lazy coordinates of `basis`; without these, only recorded
    cells are read.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.embedding(corrected, "before").get_title()
    'Cells before correction, by batch'
    >>> len(mnndask.pl.embedding(corrected, color=["batch", "0"], components=["1,2", "3,4"]))
    4
    """
    cells = RecordedCells.of(data)
    layout = recorded_layout(cells, when, method) if basis is None else stored_layout(data, basis, when)
    several = not isinstance(color, str | None) or not isinstance(components, str)
    colors = [color] if isinstance(color, str | None) else list(color)
    if not colors:
        what = "color is an empty list."
        raise InputError(what, "Give columns of obs or genes, or None for batches.")
    state = f"{when} correction" if basis is None else f"in {basis}"
    if basis is not None:
        cells = cells.all_cells()
        colors = [cells.batch_key if one is None else one for one in colors]
    dimensions = dimensions_of(components, layout.cells.shape[1])
    drawn = list(product(colors, dimensions))
    found = {one: coloring(data, cells, one) for one in colors}  # errors come before figures
    panels = grid(ax, len(drawn), len(dimensions)) if several else [axes(ax)]
    for panel, (one, dims) in zip(panels, drawn, strict=True):
        _draw(panel, layout, dims, found[one])
        panel.set_title(f"Cells {state}, by {literal(found[one].name)}")
    finished(panels[0], "embedding", save, show)
    return panels if several else panels[0]


def _draw(ax: Axes, layout: Layout, dims: tuple[int, int], by: Coloring) -> None:
    shown, frame, names = layout.pair(*dims)
    if by.numbers is not None:
        size = _size(len(shown))
        drawn = ax.scatter(
            shown[:, 0], shown[:, 1], s=size, lw=0, c=by.numbers, cmap="viridis", rasterized=True
        )
        ax.figure.colorbar(drawn, ax=ax, label=literal(by.name))
    else:
        _groups(ax, shown, by)
        legend(ax, title=literal(by.name))
    _label(ax, names, frame)


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


def _groups(ax: Axes, shown: NDArray[Any], by: Coloring) -> None:
    """Draw cells in the colours of their groups, in random order, so that no group hides the others."""
    from matplotlib.colors import to_rgba_array

    codes = by.groups.codes
    order = np.random.default_rng(0).permutation(len(shown))
    size, colors = _size(len(shown)), to_rgba_array([style["color"] for style in by.styles])
    markers = np.array([style["marker"] for style in by.styles])
    for part in np.array_split(order, max(1, min(PARTS, len(order) // 250))):
        for marker in np.unique(markers[codes[part]]):  # groups share markers
            own = part[markers[codes[part]] == marker]
            x, y = shown[own].T
            ax.scatter(x, y, s=size, lw=0, alpha=0.8, rasterized=True, c=colors[codes[own]], marker=marker)
    for i, name in enumerate(short(by.groups.categories)):
        if (codes == i).any():
            ax.scatter([], [], s=30, lw=0, label=name, **by.styles[i])


@exclusive()
def pairs(  # noqa: PLR0913
    data: AnnData | RecordedCells,
    batch: str | None = None,
    *,
    when: When = "before",
    n_pairs: int = 300,
    components: str = "1,2",
    ax: Axes | None = None,
    save: Save = None,
    show: bool | None = None,
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
    components
        Numbers of the two components, from 1.
    ax
        Axes to draw on; None creates new ones.
    save, show
        As in :func:`embedding`.

    Returns
    -------
    The axes that were drawn on.

    Raises
    ------
    InputError
        If nothing is recorded, or the batch was not merged into another.
    OutputError
        If the file of `save` cannot be written.

    Notes
    -----
    Lines are some of the pairs between recorded cells: their number means nothing.
    ``uns["mnn"]["steps"]["n_pairs"]`` counts all pairs. Lines that look parallel on two components may differ
    on others, so look at these, too.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.pairs(corrected, "1").get_title()
    'Pairs of 1, before correction'
    """
    record = RecordedCells.of(data)
    order, moved = list(record.batches.categories), list(map(str, merged(record.steps)["batch"]))
    batch = moved[0] if batch is None else str(batch)
    if batch not in moved:
        what = f"Batch {batch!r} was not merged into another."
        raise InputError(what, f"Give one of these batches: {', '.join(moved)}.")
    sample, codes = record.sample, record.batches.codes
    number = order.index(batch)
    is_new, is_ref = codes == number, codes < number
    layout, corrected = (recorded_layout(record, state, "pca") for state in (when, "after"))
    [dims] = dimensions_of([components], layout.cells.shape[1])
    state, frame, axes_names = layout.pair(*dims)
    shown = np.where(is_new[:, None], state, corrected.pair(*dims)[0])
    new, ref = (np.asarray(sample[key]) for key in ("pair_new", "pair_reference"))
    of_batch = np.flatnonzero(codes[new] == number)
    drawn = of_batch[:: max(1, -(-len(of_batch) // n_pairs))]
    size, ax = _size(int(is_new.sum() + is_ref.sum())), axes(ax)
    own = {"color": batch_styles(record)[number]["color"]}
    ax.scatter(shown[is_ref, 0], shown[is_ref, 1], s=size, lw=0, color=GREY, rasterized=True)
    ax.scatter(shown[is_new, 0], shown[is_new, 1], s=size, lw=0, alpha=0.8, rasterized=True, **own)
    for line in shown[np.stack([new[drawn], ref[drawn]], axis=1)]:
        ax.plot(line[:, 0], line[:, 1], lw=0.5, alpha=0.5, color=PAIRS, rasterized=True)
    ax.scatter([], [], s=30, lw=0, color=GREY, label="batches before it" if number > 1 else short(order)[0])
    ax.scatter([], [], s=30, lw=0, **own, label=short([batch])[0])
    ax.plot([], [], lw=1.5, color=PAIRS, label=f"pair ({len(drawn):,} shown)")
    legend(ax)
    _label(ax, axes_names, frame)
    ax.set_title(f"Pairs of {short([batch])[0]}, {when} correction")
    return finished(ax, "pairs", save, show)


def _size(n: int) -> float:
    """Return the area of a marker, smaller for more cells."""
    return float(np.clip(20_000 / max(1, n), 2, 30))


def _label(ax: Axes, names: tuple[str, str], frame: NDArray[Any]) -> None:
    low, high = frame.min(axis=0), frame.max(axis=0)
    margin = FRAME_MARGIN * np.where(high > low, high - low, 1)
    (left, bottom), (right, top) = low - margin, high + margin
    ax.set(xlabel=names[0], ylabel=names[1], xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))
    remove_frame(ax)
