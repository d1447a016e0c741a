"""Elements shared by all plots: axes, colours, legends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mnndask._text import printable
from mnndask.errors import InputError, OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Palette of Okabe & Ito, suitable for colour-blind readers; the lightest colour last.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # the next marker each time the palette repeats
GREY = "#B0B0B0"
PANEL, PANELS_PER_ROW = (6.0, 4.2), 4  # inches of a panel
ENDINGS = (".pdf", ".png", ".svg")
Save: TypeAlias = "bool | str | os.PathLike[str] | None"
PAIRS = "#D55E00"
BEFORE, AFTER = "#E69F00", "#0072B2"


def axes(ax: Axes | None, size: tuple[float, float] = PANEL) -> Axes:
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


def grid(ax: Axes | None, n: int, in_row: int) -> list[Axes]:
    """Return n axes on a new figure, so many in a row; up to four if there are no rows.

    Raises
    ------
    InputError
        If axes are given, which are only one, or matplotlib is not installed.
    """
    if ax is not None:
        what = "ax was given with a list of colours or of components."
        raise InputError(what, "Give one colour and one pair of components, or leave out ax.")
    check_matplotlib("Plots are drawn by matplotlib")
    import matplotlib.pyplot as plt

    columns = in_row if in_row > 1 else min(PANELS_PER_ROW, n)
    rows = -(-n // columns)
    figure = plt.figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    return [figure.add_subplot(rows, columns, i + 1) for i in range(n)]


def finished(ax: Axes, name: str, save: Save, show: bool | None) -> Axes:
    """Save and show the figure of a plot, as asked. Returns the axes.

    Raises
    ------
    InputError, OutputError
        If `save` is no name of a file, or the file cannot be written.
    """
    if save is not None and save is not False:
        file = _file(name, save)
        figure = ax.get_figure(root=True)
        assert figure is not None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, dpi=150, bbox_inches="tight")
        except OSError as error:
            what = f"The plot {file} cannot be written: {error.strerror or error}."
            raise OutputError(what, "Give a name in another folder.") from error
        except ValueError as error:  # of matplotlib, for types that it cannot write
            what = f"The plot {file} cannot be written: {error}."
            raise InputError(what, "Give a name that ends with .pdf, .png or .svg.") from error
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return ax


def _file(name: str, save: bool | str | os.PathLike[str]) -> Path:
    """Return the file for `save`: scanpy's convention, or a path with a folder."""
    if not isinstance(save, bool | str | os.PathLike):
        what = f"save is {save!r}."
        raise InputError(what, "Give True, text to append to the name of the file, or a path.")
    if isinstance(save, os.PathLike) or (isinstance(save, str) and Path(save).parent != Path()):
        return Path(save)
    text = "" if save is True else str(save)
    return Path("figures", f"{name}{text}" + ("" if Path(text).suffix or text in ENDINGS else ".pdf"))


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


MOST_BATCHES = 30  # drawn in one plot; of more, those that stand out


def among(n_shown: int, n: int, which: str) -> str:
    """Say in a title that a plot has only some of all batches."""
    return "" if n_shown == n else f"\n({n_shown} of {n:,} batches, {which})"


def legend(ax: Axes, title: str | None = None) -> None:
    """Place the legend beside the axes, in enough columns to stay within their height."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) > MOST_BATCHES:
        more = len(handles) - MOST_BATCHES
        handles, labels = handles[:MOST_BATCHES], labels[:MOST_BATCHES]
        handles.append(ax.scatter([], [], s=0))
        labels.append(f"and {more:,} more")
    ax.legend(
        handles,
        labels,
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
