"""``mnndask demo``: simulate batches, correct them through files, measure and plot the result."""

from __future__ import annotations

from pathlib import Path

import anndata as ad

from mnndask.api.correct import mnn_correct
from mnndask.api.write import write_zarr
from mnndask.datasets.simulated import simulate
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.pl.drawing import draw_to_files
from mnndask.pl.embeddings import before_and_after


def run_demo(folder: Path, *, n_cells: int, seed: int) -> list[str]:
    """Run the demonstration in a folder. Return the lines to print.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    draw_to_files("The demo draws a plot")
    folder.mkdir(parents=True, exist_ok=True)
    batches = simulate(n_cells=n_cells, n_genes=1000, n_batches=3, batch_effect=0.45, seed=seed)
    paths = []
    for batch in batches:
        paths.append(folder / f"{batch.obs['batch'].iloc[0]}.h5ad")
        batch.write_h5ad(paths[-1])
    subset = batches[0].var_names[batches[0].var["highly_variable"]]
    result, _, _ = mnn_correct(*paths, var_subset=subset)
    output, picture = folder / "corrected.zarr", folder / "before-after.png"
    write_zarr(result, output, overwrite=True)

    corrected = ad.read_zarr(output)
    before_and_after(corrected, [None, "cell_type"]).savefig(picture, dpi=120)
    overall, _ = RecordedCells.of(corrected).by_label("cell_type")
    lines = [f"corrected {corrected.n_obs:,} cells x {corrected.n_vars:,} genes in 3 batches: {output}"]
    for what, measure in (
        ("batch mixing: neighbours of the same batch", "same_batch"),
        ("biology:      neighbours of the same type ", "label_agreement"),
    ):
        before, after = overall.loc[[measure], ["before", "after"]].to_numpy(float)[0]
        lines.append(f"{what}  before {before:.3f}  after {after:.3f}")
    ideal = float(overall.loc[["same_batch"], ["ideal"]].to_numpy(float)[0, 0])
    lines.append(f"(with cells of each type mixed at random, the first would be {ideal:.3f})")
    lines.append(f"picture: {picture}")
    return lines
