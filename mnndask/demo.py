"""The demonstration: simulate, correct through files as the command does, measure, draw."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from mnndask.correct import mnn_correct
from mnndask.datasets import simulate
from mnndask.errors import InputError
from mnndask.kernels.cosine import cosine_lengths
from mnndask.metrics import embed, expected_same_batch, label_agreement, same_batch_fraction
from mnndask.output import write_zarr
from mnndask.pl.drawing import PALETTE


def run_demo(folder: Path, *, n_cells: int, seed: int) -> list[str]:
    """Run the demonstration in a folder; returns the lines to print.

    Raises
    ------
    InputError
        If matplotlib, which draws the picture, is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        what = "The demo draws a picture, and matplotlib is not installed."
        raise InputError(what, "Install it: pip install 'mnndask[plot]'.") from error
    mpl.use("Agg")

    folder.mkdir(parents=True, exist_ok=True)
    batches = simulate(n_cells=n_cells, n_genes=1000, n_batches=3, seed=seed)
    paths = []
    for batch in batches:
        paths.append(folder / f"{batch.obs['batch'].iloc[0]}.h5ad")
        batch.write_h5ad(paths[-1])
    subset = batches[0].var_names[batches[0].var["highly_variable"]]
    result, _, _ = mnn_correct(*paths, var_subset=subset)
    output = folder / "corrected.zarr"
    write_zarr(result, output, overwrite=True)

    corrected = ad.read_zarr(output)
    raw = ad.concat(batches).X.toarray()
    near = corrected.var_names.isin(subset)
    before = embed((raw / cosine_lengths(raw[:, near])[:, None])[:, near])
    after = embed(np.asarray(corrected.X)[:, near])
    batch, label = corrected.obs["batch"].to_numpy(), corrected.obs["cell_type"].to_numpy()
    picture = folder / "before-after.png"
    _draw(picture, {"before": before, "after": after}, {"batch": batch, "cell type": label})

    lines = [f"corrected {corrected.n_obs:,} cells x {corrected.n_vars:,} genes in 3 batches: {output}"]
    for what, measure, values in (
        ("batch mixing: neighbours of the same batch", same_batch_fraction, batch),
        ("biology:      neighbours of the same type ", label_agreement, label),
    ):
        old, new = (float(measure(e, values).mean()) for e in (before, after))
        lines.append(f"{what}  before {old:.3f}  after {new:.3f}")
    chance = np.nanmean(expected_same_batch(batch, label))
    lines.append(f"(cells of each type mixed at random would give {chance:.3f} for the first)")
    lines.append(f"picture: {picture}")
    return lines


def _draw(
    path: Path, embeddings: dict[str, NDArray[np.floating]], colours: dict[str, NDArray[np.object_]]
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 8), layout="constrained")
    axes = figure.subplots(len(colours), len(embeddings), squeeze=False)
    for row, (by, values) in zip(axes, colours.items(), strict=True):
        for ax, (when, points) in zip(row, embeddings.items(), strict=True):
            for i, value in enumerate(np.unique(values)):
                own = points[values == value]
                ax.scatter(
                    own[:, 0],
                    own[:, 1],
                    s=4,
                    color=PALETTE[i % len(PALETTE)],
                    label=value,
                    alpha=0.7,
                    lw=0,
                    rasterized=True,
                )
            ax.set(title=f"{when} correction, by {by}", xlabel="PC 1", ylabel="PC 2", xticks=[], yticks=[])
        row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=3, title=by)
    figure.savefig(path, dpi=120)
