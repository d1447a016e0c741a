"""What all pictures share: axes, colours, legends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mnndask.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette, told apart by colour-blind readers too; the lightest last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # the palette's next round has the next shape
GREY = "#B0B0B0"
BEFORE, AFTER = "#E69F00", "#0072B2"


def axes(ax: Axes | None, size: tuple[float, float] = (6.0, 4.2)) -> Axes:
    """The axes that were given, or new ones on a figure of their own.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        what = "Pictures need matplotlib, which is not installed."
        raise InputError(what, 'Install it: pip install "mnndask[plot]".') from error
    out: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return out


def style(i: int) -> dict[str, Any]:
    """Colour and shape of the i-th group."""
    return {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i // len(PALETTE) % len(MARKERS)]}


def legend(ax: Axes, title: str | None = None) -> None:
    """Put the legend beside the data, in as many columns as keep it within the axes' height."""
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        title=title,
        ncols=-(-len(handles) // 14),
        fontsize="small",
    )


def plain(ax: Axes) -> None:
    """Take away the frame's upper and right lines."""
    ax.spines[["top", "right"]].set_visible(False)


def short(names: Iterable[Any], most: int = 24) -> list[str]:
    """Names that fit beside a picture."""
    text = [str(name) for name in names]
    return [t if len(t) <= most else f"{t[: most - 1]}…" for t in text]
