"""Plots of correction lengths and variance factors by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask.diagnostics.measures import LENGTHENED
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.pl.coloring import batch_styles
from mnndask.pl.drawing import Save, axes, finished, remove_frame, short

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
    _box_per_batch(ax, record, np.asarray(record.sample["length"], float))
    unit = "cosine-normalised expression" if _is_normalised(record) else "units of expression"
    ax.set(title="How far cells were moved", ylabel=f"length of correction\n({unit})")
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
    _box_per_batch(ax, record, np.where(factors > LENGTHENED, factors, np.nan))
    codes = record.batches.codes
    for i in range(1, len(record.batches.categories)):
        share = (factors[codes == i] > LENGTHENED).mean()
        ax.text(
            i - 1,
            0.98,
            f"{share:.0%} > 1",
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize="small",
        )
    ax.axhline(1, color="0.5", lw=1, ls="--")
    ax.set_ylim(bottom=0.95, top=max(1.2, ax.get_ylim()[1] * 1.06))
    ax.set(title="Corrections lengthened to keep cells' ranks", ylabel="variance factor (times)")
    return finished(ax, "variance_factor", save, show)


def _is_normalised(record: RecordedCells) -> bool:
    return bool(record.record.parameters.get("cos_norm_out", True))


def _box_per_batch(ax: Axes, record: RecordedCells, values: NDArray[np.float64]) -> None:
    """Draw a box for each batch but the reference, which is not moved."""
    codes, names = record.batches.codes, list(record.batches.categories)
    by_batch = [values[(codes == i) & ~np.isnan(values)] for i in range(1, len(names))]
    drawn = ax.boxplot(
        [part if len(part) else [np.nan] for part in by_batch],
        positions=range(len(by_batch)),
        whis=(5, 95),
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for box, own in zip(drawn["boxes"], batch_styles(record)[1:], strict=True):
        box.set_facecolor(own["color"])
        box.set_alpha(0.8)
    many = len(names) > 5 or max(map(len, names)) > 10
    ax.set_xticks(range(len(by_batch)), short(names[1:]))
    if many:
        ax.tick_params(axis="x", rotation=40)
        for text in ax.get_xticklabels():
            text.set(ha="right")
    ax.set_xlabel(f"batch (the reference, {short(names)[0]}, is not moved)")
    remove_frame(ax)
