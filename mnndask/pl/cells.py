"""Plots of correction lengths and variance factors by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask.diagnostics.measures import LENGTHENED
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.io.record import merged
from mnndask.pl.coloring import batch_styles
from mnndask.pl.drawing import MOST_BATCHES, Save, among, axes, finished, remove_frame, short

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


@exclusive()
def correction_length(
    data: AnnData | RecordedCells, *, ax: Axes | None = None, save: Save = None, show: bool | None = None
) -> Axes:
    """Draw how far the cells of each batch were moved.

    A box spans the middle half of a batch's cells, the line across it is the median, and whiskers extend from
    5 to 95 %. A batch with much longer corrections than others differs more. A long upper whisker shows cells
    that were moved far, often of types that no other batch has.

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
    A long correction is no fault, and a short one no proof of a small batch effect: cells without a pair
    follow those that have one. Lengths are in the units of the corrected values, over the genes used for
    distances or their components. So compare them only between results of the same genes, `n_components` and
    `cos_norm_out`. Nothing lazy is computed.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.correction_length(corrected).get_title()
    'How far cells were moved'
    """
    record, ax = RecordedCells.of(data), axes(ax)
    lengths = np.asarray(record.sample["length"], float)
    shown = _shown(record, lengths)
    _box_per_batch(ax, record, lengths, shown)
    unit = "cosine-normalised expression" if _is_normalised(record) else "units of expression"
    some = among(len(shown), len(_moved(record)), "moved farthest")
    ax.set(title=f"How far cells were moved{some}", ylabel=f"length of correction\n({unit})")
    ax.set_ylim(bottom=0, top=1.08 * ax.get_ylim()[1])
    return finished(ax, "correction_length", save, show)


@exclusive()
def variance_factor(
    data: AnnData | RecordedCells, *, ax: Axes | None = None, save: Save = None, show: bool | None = None
) -> Axes:
    """Draw by how much variance adjustment lengthened the corrections of each batch.

    A factor of 1 leaves the smoothed correction unchanged. Boxes and whiskers, as in
    :func:`correction_length`, describe the cells with a factor above 1; their share is given at the top.

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
    Without variance adjustment (``var_adj=False``, as in :data:`mnndask.RECOMMENDED`), all factors are 1, and
    the plot is empty: it then says nothing of the correction. Factors are of recorded cells; nothing lazy is
    computed.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.variance_factor(corrected).get_title()
    "Corrections lengthened to keep cells' ranks"
    """
    record, ax = RecordedCells.of(data), axes(ax)
    factors = np.asarray(record.sample["factor"], float)
    lengthened = np.where(factors > LENGTHENED, factors, np.nan)
    shown, codes = _shown(record, lengthened), record.batches.codes
    _box_per_batch(ax, record, lengthened, shown)
    for at, i in enumerate(shown):
        share = (factors[codes == i] > LENGTHENED).mean() if (codes == i).any() else 0
        ax.text(
            at,
            0.98,
            f"{share:.0%} > 1",
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize="small",
        )
    ax.axhline(1, color="0.5", lw=1, ls="--")
    ax.set_ylim(bottom=0.95, top=max(1.2, ax.get_ylim()[1] * 1.06))
    some = among(len(shown), len(_moved(record)), "with the largest factors")
    ax.set(title=f"Corrections lengthened to keep cells' ranks{some}", ylabel="variance factor (times)")
    return finished(ax, "variance_factor", save, show)


def _is_normalised(record: RecordedCells) -> bool:
    return bool(record.record.parameters.get("cos_norm_out", True))


def _moved(record: RecordedCells) -> list[int]:
    """Numbers of the batches that were moved."""
    moved = set(map(str, merged(record.steps)["batch"]))
    return [i for i, name in enumerate(record.batches.categories) if str(name) in moved]


def _shown(record: RecordedCells, values: NDArray[np.float64]) -> list[int]:
    """Numbers of the batches to draw: those that were moved; of many, those with the largest medians."""
    moved, codes = _moved(record), record.batches.codes
    if len(moved) <= MOST_BATCHES:
        return moved
    own = [values[(codes == i) & ~np.isnan(values)] for i in moved]
    medians = np.array([np.median(part) if len(part) else -np.inf for part in own])
    return sorted(moved[i] for i in np.argsort(-medians, kind="stable")[:MOST_BATCHES])


def _box_per_batch(
    ax: Axes, record: RecordedCells, values: NDArray[np.float64], shown: Sequence[int]
) -> None:
    """Draw a box for each of some batches."""
    codes, names = record.batches.codes, list(record.batches.categories)
    by_batch = [values[(codes == i) & ~np.isnan(values)] for i in shown]
    drawn = ax.boxplot(
        [part if len(part) else [np.nan] for part in by_batch],
        positions=range(len(by_batch)),
        whis=(5, 95),
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    styles = batch_styles(record)
    for box, i in zip(drawn["boxes"], shown, strict=True):
        box.set_facecolor(styles[i]["color"])
        box.set_alpha(0.8)
    many = len(names) > 5 or max(map(len, names)) > 10
    ax.set_xticks(range(len(by_batch)), short(names[i] for i in shown))
    if many:
        ax.tick_params(axis="x", rotation=40)
        for text in ax.get_xticklabels():
            text.set(ha="right")
    still = [name for i, name in enumerate(names) if i not in _moved(record)]
    one = f"the reference, {short(still)[0]}, is not moved"
    ax.set_xlabel(f"batch ({one if len(still) == 1 else f'{len(still)} references are not moved'})")
    remove_frame(ax)
