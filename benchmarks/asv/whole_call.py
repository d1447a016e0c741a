"""The whole call, in memory and from sparse zarr to zarr."""

from __future__ import annotations

import tempfile
from inspect import signature
from pathlib import Path
from typing import Any

from mnndask import mnn_correct
from mnndask.api.write import write_zarr
from mnndask.datasets.simulated import simulate


class Call:
    params = ([None, 50],)
    param_names = ("n_components",)
    n_cells, n_genes, timeout = 4000, 1000, 600

    def setup(self, n_components: int | None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        # Older commits know no other effect.
        effect = {"batch_effect": 0.45} if "batch_effect" in signature(simulate).parameters else {}
        batches = simulate([self.n_cells, self.n_cells], self.n_genes, 2, **effect)
        self.genes = list(batches[0].var_names)
        self.dense = [batch.X.toarray() for batch in batches]
        self.paths = [Path(self.folder.name) / f"{i}.zarr" for i in range(2)]
        for batch, path in zip(batches, self.paths, strict=True):
            batch.write_zarr(path)
        mnn_correct(*(X[:100] for X in self.dense))  # compiles

    def teardown(self, *_: Any) -> None:
        self.folder.cleanup()

    def time_in_memory(self, n_components: int | None) -> None:
        mnn_correct(*self.dense, n_components=n_components)

    def peakmem_in_memory(self, n_components: int | None) -> None:
        self.time_in_memory(n_components)

    def time_through_files(self, n_components: int | None) -> None:
        options = {"n_components": n_components, "sketch_size": self.n_cells // 4}
        result, _, _ = mnn_correct(*self.paths, var_subset=self.genes, **options)
        write_zarr(result, Path(self.folder.name) / "out.zarr", overwrite=True)

    def peakmem_through_files(self, n_components: int | None) -> None:
        self.time_through_files(n_components)
