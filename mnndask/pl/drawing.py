"""Elements shared by all plots: axes, colours, legends."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mnndask._text import printable
from mnndask.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Palette of Okabe & Ito, suitable for colour-blind readers; the lightest colour last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # the next marker each time the palette repeats
GREY = "#B0B0B0"
BEFORE, AFTER = "#E69F00", "#0072B2"


def axes(ax: Axes | None, size: tuple[float, float] = (6.0, 4.2)) -> Axes:
    """Return the given axes, or new ones on a new figure.

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
        what = "Plots need matplotlib, which is not installed."
        raise InputError(what, 'Install it: pip install "mnndask[plot]".') from error
    out: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return out


def check_matplotlib(why: str) -> None:
    """Check that matplotlib is installed, without loading it.

    Raises
    ------
    InputError
        If it is not. The message begins with `why`, the reason it is needed.
    """
    if find_spec("matplotlib") is None:
        what = f"{why}, but matplotlib is not installed."
        raise InputError(what, "Install it: pip install 'mnndask[plot]'.")


def draw_to_files(why: str) -> None:
    """Make matplotlib draw to files instead of a screen. Raises as :func:`check_matplotlib`."""
    check_matplotlib(why)
    import matplotlib as mpl

    mpl.use("Agg")


def style(i: int) -> dict[str, Any]:
    """Return the colour and marker of the i-th group."""
    return {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i // len(PALETTE) % len(MARKERS)]}


def legend(ax: Axes, title: str | None = None) -> None:
    """Place the legend beside the axes, in enough columns to stay within their height."""
    handles, _ = ax.get_legend_handles_labels()
    ax.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        title=title,
        ncols=-(-len(handles) // 14),
        fontsize="small",
    )


def remove_frame(ax: Axes) -> None:
    """Hide the upper and right lines of the frame."""
    ax.spines[["top", "right"]].set_visible(False)


def short(names: Iterable[Any], most: int = 24) -> list[str]:
    """Shorten names to fit beside a plot."""
    text = [printable(name) for name in names]
    return [literal(t if len(t) <= most else f"{t[: most - 1]}…") for t in text]


def literal(name: Any) -> str:
    """Return a name as matplotlib shows it as it is: printable, and no formula between dollar signs."""
    return printable(name).replace("$", r"\$")
