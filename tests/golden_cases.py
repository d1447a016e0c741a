"""The reference implementation's outputs (tests/golden), and how each case is called."""

import json
from pathlib import Path

import numpy as np

from mnndask import mnn_correct

FOLDER = Path(__file__).parent / "golden"
CASES = {
    name: parameters
    for name, parameters in json.loads((FOLDER / "manifest.json").read_text()).items()
    if "merge_tree" not in parameters and "auto_merge" not in parameters
}


class Golden:
    def __init__(self, name):
        parameters = CASES[name]
        with np.load(FOLDER / f"{name}.npz") as stored:
            self.arrays = dict(stored)
        self.n_batches = parameters["n_batches"]
        self.batches = [self.arrays[f"batch{i}"] for i in range(self.n_batches)]
        self.subset = self.arrays.get("subset")
        self.restrict = (
            [self.arrays[f"restrict{i}"] for i in range(self.n_batches)]
            if "restrict0" in self.arrays
            else None
        )
        self.order = parameters.get("mnn_order", list(range(self.n_batches)))
        self.options = {
            key: parameters[key]
            for key in ("k", "sigma", "cos_norm_in", "cos_norm_out", "svd_dim", "var_adj")
        } | {"mnn_order": self.order, "restrict": self.restrict}

    def call(self, batches, **options):
        names = {}
        if self.subset is not None:
            names = {"var_index": range(batches[0].shape[1]), "var_subset": self.subset}
        return mnn_correct(*batches, **names, **self.options, **options)

    def error(self, corrected):
        """Largest deviation on decided cells, relative to the largest value."""
        apart = np.abs(corrected - self.arrays["corrected"])[~self.arrays["undecided"]]
        return apart.max() / np.abs(self.arrays["corrected"]).max()

    def pairs(self, step):
        """Pairs as (batch of the reference cell, its row, row of the new cell)."""
        starts = np.cumsum([0] + [len(b) for b in self.batches])
        ref, new = self.arrays[f"pairs{step}"].T
        batch = np.searchsorted(starts, ref, side="right") - 1
        return set(zip(batch, ref - starts[batch], new - starts[self.order[step + 1]], strict=True))


def found_pairs(table, golden):
    """The same, from the returned table, whose reference rows count batches in merge order."""
    sizes = [len(golden.batches[b]) for b in golden.order]
    start = dict(zip(golden.order, np.cumsum([0, *sizes]), strict=False))
    rows = table["ref cell"] - table["original batch"].map(start)
    return set(zip(table["original batch"], rows, table["new cell"], strict=True))
