"""How far cells of each batch were moved, and how much farther than smoothing alone would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnndask.diagnostics import LENGTHENED
from mnndask.pl.drawing import axes, plain, short, style
from mnndask.recorded import Recorded

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def correction_length(data: AnnData | Recorded, *, ax: Axes | None = None) -> Axes:
    """Draw how far the cells of each batch were moved.

    A box spans the middle half of the batch's cells, a line across it the median, whiskers 5 to 95 %. A batch
    of much longer corrections than others differs more; one with a long upper whisker holds cells that were
    dragged far, often kinds that no other batch has.

    Parameters
    ----------
    data
        Corrected AnnData.
    ax
        Axes to draw on; None for new ones.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.correction_length(corrected).get_title()
    'How far cells were moved'
    """
    record, ax = Recorded.of(data), axes(ax)
    _boxes(ax, record, np.asarray(record.sample["length"], float))
    unit = "cosine-normalised expression" if _is_normalised(record) else "units of expression"
    ax.set(title="How far cells were moved", ylabel=f"length of correction\n({unit})")
    ax.set_ylim(bottom=0, top=1.08 * ax.get_ylim()[1])
    return ax


def variance_factor(data: AnnData | Recorded, *, ax: Axes | None = None) -> Axes:
    """Draw by how much variance adjustment lengthened the corrections of each batch.

    A factor of 1 is a correction as smoothing left it. Boxes and whiskers as in :func:`correction_length`, of
    the cells whose factor is more than 1; the share of these is written above.

    Parameters
    ----------
    data
        Corrected AnnData.
    ax
        Axes to draw on; None for new ones.

    Examples
    --------
    >>> import anndata as ad, numpy as np, mnndask
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.random((50, 20)) + shift) for shift in (0, rng.random(20)))
    >>> corrected, _, _ = mnndask.mnn_correct(a, b)
    >>> mnndask.pl.variance_factor(corrected).get_title()
    "Corrections lengthened to keep cells' ranks"
    """
    record, ax = Recorded.of(data), axes(ax)
    factors = np.asarray(record.sample["factor"], float)
    _boxes(ax, record, np.where(factors > LENGTHENED, factors, np.nan))
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
    return ax


def _is_normalised(record: Recorded) -> bool:
    return bool(record.uns["parameters"].get("cos_norm_out", True))


def _boxes(ax: Axes, record: Recorded, values: NDArray[np.float64]) -> None:
    """A box for each batch but the reference, which stays as it is."""
    codes, names = record.batches.codes, list(record.batches.categories)
    own = [values[(codes == i) & ~np.isnan(values)] for i in range(1, len(names))]
    drawn = ax.boxplot(
        [part if len(part) else [np.nan] for part in own],
        positions=range(len(own)),
        whis=(5, 95),
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for i, box in enumerate(drawn["boxes"]):
        box.set_facecolor(style(i + 1)["color"])
        box.set_alpha(0.8)
    many = len(names) > 5 or max(map(len, names)) > 10
    ax.set_xticks(range(len(own)), short(names[1:]))
    if many:
        ax.tick_params(axis="x", rotation=40)
        for text in ax.get_xticklabels():
            text.set(ha="right")
    ax.set_xlabel(f"batch (the reference, {short(names)[0]}, is not moved)")
    plain(ax)
