"""Draw the figures of the explanations: ``make figures``. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from mnndask import mnn_correct

mpl.use("agg")
import matplotlib.pyplot as plt  # after the choice of a backend

FOLDER = Path(__file__).parent / "figures"
# Of Okabe and Ito, which colour-blind readers can tell apart.
COLORS = np.array(["#0072b2", "#e69f00", "#009e73", "#cc79a7"])
MARKERS = ("o", "^")
PLAIN = {"cos_norm_in": False, "cos_norm_out": False, "var_adj": False}


def _cells(rng: np.random.Generator, centers: Any, n_each: int) -> tuple[NDArray[Any], NDArray[Any]]:
    types = np.repeat(np.arange(len(centers)), n_each)
    return np.asarray(centers)[types] + rng.normal(scale=0.35, size=(len(types), 2)), types


def _show(axes: Any, batches: Any, types: Any, title: str) -> None:
    for X, own, marker in zip(batches, types, MARKERS, strict=True):
        axes.scatter(*X.T, c=COLORS[own], marker=marker, s=26, alpha=0.75, linewidths=0)
    axes.set_title(title, fontsize=11)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])


def method() -> plt.Figure:
    """Draw pairs, their differences, the smoothed corrections, and the corrected cells."""
    rng = np.random.default_rng(3)
    reference, types = _cells(rng, [(0, 0), (4, 1)], 20)
    new, types_new = _cells(rng, [(0, 0), (4, 1), (8, -1)], 20)
    new += (0.4, 2.4)
    both, mnns, _ = mnn_correct(reference, new, k=8, sigma=2.0, **PLAIN)
    corrected = both[len(reference) :]
    pairs = mnns[1]
    at_new, at_reference = pairs["new cell"].to_numpy(), pairs["ref cell"].to_numpy()
    figure, grid = plt.subplots(2, 2, figsize=(9, 4.4), sharex=True, sharey=True, layout="constrained")
    axes, shown = grid.ravel(), (types, types_new)
    for ax, title in zip(axes[:3], ("pairs", "their differences", "corrections"), strict=True):
        _show(ax, (reference, new), shown, title)
    _show(axes[3], (reference, corrected), shown, "corrected cells")
    for i, j in zip(at_new, at_reference, strict=True):
        axes[0].plot(*np.stack([new[i], reference[j]]).T, color="0.45", linewidth=0.6, zorder=0)
    anchors = np.unique(at_new)
    means = np.stack([(reference[at_reference[at_new == a]] - new[a]).mean(axis=0) for a in anchors])
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "color": "0.3"}
    axes[1].quiver(*new[anchors].T, *means.T, **arrows)
    axes[2].quiver(*new.T, *(corrected - new).T, **arrows)
    return figure


def over_under() -> plt.Figure:
    """Draw the same two batches corrected too little, well, and too much."""
    rng = np.random.default_rng(5)
    reference, types = _cells(rng, [(0, 0), (4, 0)], 30)  # types 0 and 1
    new, types_new = _cells(rng, [(0, 0), (2.4, 3.2)], 30)  # types 0 and 2
    types_new = np.where(types_new == 1, 2, types_new)
    effect = np.array([0.5, 2.4])
    new = new + effect
    onto_other = reference[types == 0].mean(axis=0) - new[types_new == 2].mean(axis=0)
    too_far = np.where((types_new == 2)[:, None], onto_other, -effect)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharex=True, sharey=True, layout="constrained")
    shown = (types, types_new)
    _show(axes[0], (reference, new - 0.25 * effect), shown, "under-corrected")
    _show(axes[1], (reference, new - effect), shown, "as it should be")
    _show(axes[2], (reference, new + too_far), shown, "over-corrected")
    return figure


FIGURES: dict[str, Callable[[], plt.Figure]] = {"method": method, "over-under": over_under}


def main() -> None:
    """Draw all figures, as ``docs/figures/NAME.png``."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw()
        figure.savefig(FOLDER / f"{name}.png", dpi=150, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
