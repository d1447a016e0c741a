"""Plots of measures by batch and by merge step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mnndask._library_state import exclusive
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.errors import InputError
from mnndask.io.record import merged
from mnndask.pl.drawing import (
    AFTER,
    BEFORE,
    GREY,
    MOST_BATCHES,
    Save,
    among,
    axes,
    finished,
    legend,
    literal,
    remove_frame,
    short,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

ROW, TALLEST = 0.34, 12.0  # inches per batch, and of a plot


@exclusive()
def mixing(
    data: AnnData | RecordedCells,
    *,
    label: str | None = None,
    ax: Axes | None = None,
    save: Save = None,
    show: bool | None = None,
) -> Axes:
    """Draw the share of neighbours from the same batch, by batch, before and after.

    The vertical mark is the share expected by chance, which a mixed batch reaches; a separate batch is at
    100 %.

    Parameters
    ----------
    data
        Corrected AnnData.
    label
        Column of obs with cell types, if batches differ in composition: the share expected by chance is then
        that within each cell type.
    ax
        Axes to draw on; None creates new ones.
    save, show
        As in :func:`embedding`.

    Returns
    -------
    The axes that were drawn on.

    Raises
    ------
    InputError, InputKeyError
        If nothing is recorded, there are too few cells, or there is no such column.
    OutputError
        If the file of `save` cannot be written.

    Notes
    -----
    Mixing alone is no proof of a right correction: a type that was moved wholly onto another type counts as
    mixed, and over-correction mixes best. The share by chance depends on the sizes of batches, so compare a
    batch with its own mark. `label` should not come from clusters of the corrected cells. Only recorded cells
    are measured; nothing lazy is computed.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.mixing(corrected).get_xlabel()
    'neighbours of the same batch (%)'
    """
    record = RecordedCells.of(data)
    if record.record.mixing is None:
        what = "There are too few cells to measure how batches mix."
        raise InputError(what, "Use mnndask.pl.embedding instead.")
    table = record.mixing(label)
    n_batches = len(table)
    if n_batches > MOST_BATCHES:
        least = (table["expected"] - table["after"]).to_numpy().argsort(kind="stable")
        table = table.iloc[least[:MOST_BATCHES]]
    ax = axes(ax, (6.0, 1.6 + ROW * len(table)))
    at = np.arange(len(table))
    ax.hlines(at, 100 * table["before"], 100 * table["after"], color=GREY, lw=2, zorder=1)
    ax.scatter(100 * table["before"], at, s=55, color=BEFORE, marker="o", label="before", zorder=3)
    ax.scatter(100 * table["after"], at, s=55, color=AFTER, marker="D", label="after", zorder=3)
    ax.scatter(
        100 * table["expected"], at, s=220, lw=2, color="black", marker="|", label="by chance", zorder=2
    )
    ax.set_yticks(at, short(table.index))
    ax.set(xlim=(-3, 103), ylim=(len(table) - 0.5, -0.5), ylabel="batch")
    ax.set_xlabel("neighbours of the same batch (%)")
    within = f", within each {literal(label)}" if label else ""
    ax.set_title(f"Mixing of batches{within}{among(len(table), n_batches, 'the least mixed')}")
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    legend(ax)
    remove_frame(ax)
    return finished(ax, "mixing", save, show)


@exclusive()
def merge_overview(
    data: AnnData | RecordedCells, *, ax: Axes | None = None, save: Save = None, show: bool | None = None
) -> Axes:
    """Draw the merge order, and the share of cells with a pair on each side of each step.

    Few paired cells mean that a batch has little in common with the batches before it, and that most of its
    cells follow a few.

    Parameters
    ----------
    data
        Corrected AnnData.
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
        If nothing is recorded, matplotlib is not installed, or `save` is no name of a file.
    OutputError
        If the file of `save` cannot be written.

    Notes
    -----
    Many paired cells are no proof of a right correction: unlike cells find pairs, too, if the other side
    lacks their type. The shares grow with `k` and depend on the number of fitted cells, so compare only
    results that agree in these. Nothing lazy is computed.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.merge_overview(corrected).get_title()
    'Merging into 0: cells with a pair'
    """
    record = RecordedCells.of(data)
    steps = merged(record.steps)
    n_batches, numbers = len(steps), np.arange(1, len(steps) + 1)
    if n_batches > MOST_BATCHES:
        fewest = np.sort(steps["paired"].to_numpy().argsort(kind="stable")[:MOST_BATCHES])
        steps, numbers = steps.iloc[fewest], numbers[fewest]
    ax = axes(ax, (6.0, min(TALLEST, 1.6 + 1.6 * ROW * len(steps))))
    at = np.arange(len(steps))
    for shift, column, colour, name in (
        (-0.2, "paired", AFTER, "cells of the batch"),
        (0.2, "paired_reference", GREY, "cells it is merged into"),
    ):
        shares = 100 * steps[column].to_numpy(float)
        ax.barh(at + shift, shares, height=0.38, color=colour, label=name)
        for y, share in zip(at + shift, shares, strict=True):
            text = f"{share:.0f} %"
            ax.annotate(text, (share, y), (3, 0), textcoords="offset points", va="center", size="small")
    names = [f"{name}\n{n:,} pairs" for name, n in zip(short(steps["batch"]), steps["n_pairs"], strict=True)]
    ax.set_yticks(at, [f"{i}. {text}" for i, text in zip(numbers, names, strict=True)])
    ax.set(xlim=(0, 112), ylim=(len(steps) - 0.5, -0.5), xlabel="cells with a pair (%)")
    ax.set_xticks(range(0, 101, 20))
    ax.set_ylabel("merged in this order")
    some = among(len(steps), n_batches, "with the fewest paired")
    ax.set_title(f"Merging into {short(record.steps['batch'].iloc[:1])[0]}: cells with a pair{some}")
    legend(ax)
    remove_frame(ax)
    return finished(ax, "merge_overview", save, show)
