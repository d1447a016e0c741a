"""The kernels, each on one block of cells, as a thread of the library processes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mnndask.core.arrays import Points
from mnndask.core.cosine import cosine_lengths
from mnndask.core.distances import bits_of
from mnndask.core.kernels.exponential import exp_in_place
from mnndask.core.kernels.quantiles import weighted_quantiles
from mnndask.core.neighbors import Smallest, nearest, smallest_both_ways
from mnndask.core.smoothing import density, smooth
from mnndask.core.variance import Lines, variance_factors


class Block:
    """A block of cells of a batch, with the sketched cells of the batch and of the reference."""

    params = ([50, 2000], ["float32", "float64"])
    param_names = ("n_dims", "dtype")
    n_cells, n_sketched, n_anchors = 512, 5000, 2000

    def setup(self, n_dims: int, dtype: str) -> None:
        rng = np.random.default_rng(0)
        shape = (self.n_cells + 2 * self.n_sketched, n_dims)
        X = rng.normal(0, n_dims**-0.5, shape).astype(dtype)
        self.cells, self.new, self.ref = map(
            Points.of, np.split(X, [self.n_cells, self.n_cells + self.n_sketched])
        )
        self.anchors = self.new[: self.n_anchors]
        self.log_density = np.log(density(self.anchors, 0, self.anchors, 1.0))
        self.vectors = rng.normal(size=(self.n_anchors, n_dims)).astype(dtype)
        self.moves = self.vectors[: self.n_cells] + self.vectors[0]
        self.values = rng.normal(size=(self.n_cells, self.n_sketched)).astype(dtype)
        self.weights = np.abs(self.values)
        self.time_variance(), self.time_smooth(), self.time_neighbours_both_ways()  # compile

    def time_lengths(self, *_: Any) -> None:
        cosine_lengths(self.cells.X)

    def time_exponentials(self, *_: Any) -> None:
        exp_in_place(-self.weights, bits_of(self.weights))

    def time_quantiles(self, *_: Any) -> None:
        weighted_quantiles(self.values, self.weights, np.full(self.n_cells, 0.3))

    def time_smooth(self, *_: Any) -> None:
        smooth(self.cells, self.anchors, self.log_density, [self.vectors], 1.0)

    def time_variance(self, *_: Any) -> None:
        variance_factors(Lines.of(self.cells, self.moves, 1.0, 1.0), self.new, self.ref)

    def time_neighbours(self, *_: Any) -> None:
        nearest(self.cells, self.ref, 20, np.full(self.n_cells, 1e-10))

    def time_neighbours_both_ways(self, *_: Any) -> None:
        kept = [Smallest.empty(len(side), 21, self.cells.squared.dtype) for side in (self.cells, self.ref)]
        smallest_both_ways(self.cells, self.ref, [slice(0, self.n_cells)], *kept)

    def peakmem_variance(self, *_: Any) -> None:
        self.time_variance()

    def peakmem_smooth(self, *_: Any) -> None:
        self.time_smooth()
