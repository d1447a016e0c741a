"""Simulate data sets of any size, in memory or streamed to files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from mnndask._threads import effective_n_jobs, single_threaded_blas
from mnndask.core.parameters import as_float, check_bits
from mnndask.datasets.simulation import (
    BATCH_EFFECT,
    SimulatedBatch,
    Tissue,
    batch_sizes,
    simulated_batch,
    simulated_tissue,
)
from mnndask.datasets.streamed import write_csr_blocks
from mnndask.engine.run_options import RunOptions
from mnndask.errors import InputError, OutputError, OutputExistsError
from mnndask.stores.local_target import partial_of
from mnndask.stores.location import Location
from mnndask.stores.removal import remove_tree

MOST_COUNTS = 1_000_000  # of a gene in a cell, on average
MOST_EFFECT = 5.0  # genes of one batch then differ 150-fold from those of another


def simulate(  # noqa: PLR0913
    n_cells: int | Sequence[int] = 2000,
    n_genes: int = 1000,
    n_batches: int = 3,
    *,
    n_types: int = 6,
    counts_per_gene: float = 3.0,
    batch_effect: float = BATCH_EFFECT,
    seed: int = 0,
    n_jobs: int | None = None,
) -> list[AnnData]:
    """Simulate batches of one tissue in memory.

    Types form families, and families form lineages; members of a group share most of its marker genes. Counts
    are Poisson, with a rate that is the product of the type's profile, the batch effect on each gene (a small
    part of it specific to the lineage), the state of the cell and its depth. Types differ in frequency, and
    proportions vary between batches. With three or more batches, about a quarter of them lack every third
    type, and the last batch always lacks the rarest. With eight or more types, the last two make up 0.4 % and
    0.2 % of the batches that contain them.

    Parameters
    ----------
    n_cells
        Total number of cells, of which the first batch gets about twice as many as the last; or the number
        of cells of each batch.
    n_genes
        Number of genes.
    n_batches
        Number of batches.
    n_types
        Number of cell types.
    counts_per_gene
        Mean counts per cell and gene; with fewer counts, types are harder to distinguish.
    batch_effect
        Standard deviation, over genes, of the natural logarithm of a batch's effect on expression; the part
        that is specific to a lineage adds about a quarter of it. 0: batches differ in composition and depth
        only. With the default of 0.15, two batches overlap as real ones do before correction (:func:`lisi
        <mnndask.metrics.lisi>` of 1.1 to 2.0). At 0.45 they are wholly apart: an easy task for MNN pairs,
        and too hard for methods that cluster the cells of all batches together, so it compares nothing.
    seed
        Random seed; equal seeds give equal data.
    n_jobs
        Number of threads. Default, and -1: all processors.

    Returns
    -------
    One AnnData per batch: ``X`` is ``log1p`` of counts per 10,000 (CSR, float32), ``obs["cell_type"]`` the
    true type, ``obs["batch"]`` the batch, ``var["highly_variable"]`` the genes that may differ between types
    (60 % of all, at most 2,000).

    Raises
    ------
    InputError
        If any number is too small.

    See Also
    --------
    simulate_to_zarr : write the same data to files, for data larger than memory.

    Notes
    -----
    Simulated types are clear and batch effects simple: one factor for each gene, with a small part by
    lineage. There are no doublets, no ambient RNA and no gradual transitions between types. So success here
    says little of real data, and does not rank methods. ``X`` is log-normalised: do not normalise it again.

    Examples
    --------
    >>> from mnndask.datasets.simulated import simulate
    >>> [batch.shape for batch in simulate(300, 50, 3)]
    [(120, 50), (100, 50), (80, 50)]
    >>> [batch.n_obs for batch in simulate([70, 80], 50, 2)]
    [70, 80]
    """
    RunOptions(n_jobs=n_jobs)  # checks it
    sizes = _checked_sizes(n_cells, n_genes=n_genes, n_batches=n_batches, n_types=n_types, seed=seed)
    levels = _checked_levels(counts_per_gene, batch_effect)
    tissue = simulated_tissue(n_genes, n_types, seed)
    out = []
    for b in range(n_batches):
        batch = simulated_batch(tissue, b, sizes, **levels, seed=seed)
        X = sparse.vstack(list(_in_order(batch, n_jobs)), format="csr")
        out.append(AnnData(X, obs=_obs(batch, n_types), var=_var(tissue)))
    return out


def simulate_to_zarr(  # noqa: PLR0913
    folder: str | os.PathLike[str],
    n_cells: int | Sequence[int] = 1_000_000,
    n_genes: int = 2000,
    n_batches: int = 4,
    *,
    n_types: int = 18,
    counts_per_gene: float = 0.25,
    batch_effect: float = BATCH_EFFECT,
    seed: int = 0,
    overwrite: bool = False,
    n_jobs: int | None = None,
) -> list[Path]:
    """Simulate batches of one tissue and stream them to ``folder/batch0.zarr``, ``batch1.zarr``, ...

    Except for ``obs``, memory does not grow with the number of cells. The values equal those of
    :func:`simulate` with the same parameters. By default the data are as sparse as real data: about one value
    in eight is nonzero.

    Parameters
    ----------
    folder
        Folder to write to; created if missing. Each batch is written to ``<name>.partial`` and renamed when
        complete. On failure the partial store is removed, and the batches before it are kept.
    n_cells, n_genes, n_batches, n_types, counts_per_gene, batch_effect, seed
        As in :func:`simulate`.
    overwrite
        Whether to remove all batches that `folder` contains before the first is written.
    n_jobs
        As in :func:`simulate`.

    Returns
    -------
    Paths of the batches, AnnData zarr stores (format 3) with ``X`` in CSR.

    Raises
    ------
    InputError
        If any number is too small.
    OutputExistsError
        If `folder` contains complete or partial batches, and `overwrite` is false.
    OutputError
        If the folder cannot be created, or a batch cannot be written.

    Notes
    -----
    The data are for trying out sizes, speed and memory. As in :func:`simulate`, types are clear and effects
    simple, so success here says little of real data. With `overwrite`, all batches in `folder` are removed,
    also those of numbers that this call does not write.

    Examples
    --------
    >>> import tempfile
    >>> import anndata as ad
    >>> from mnndask.datasets.simulated import simulate_to_zarr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = simulate_to_zarr(folder, n_cells=300, n_genes=50, n_batches=2)
    ...     print([path.name for path in paths], ad.read_zarr(paths[0]).shape)
    ['batch0.zarr', 'batch1.zarr'] (171, 50)
    """
    RunOptions(n_jobs=n_jobs)  # checks it
    sizes = _checked_sizes(n_cells, n_genes=n_genes, n_batches=n_batches, n_types=n_types, seed=seed)
    levels = _checked_levels(counts_per_gene, batch_effect)
    folder = Path(folder)
    _clear(folder, overwrite=overwrite)
    tissue = simulated_tissue(n_genes, n_types, seed)
    paths = []
    for b in range(n_batches):
        batch = simulated_batch(tissue, b, sizes, **levels, seed=seed)
        paths.append(folder / f"batch{b}.zarr")
        write_csr_blocks(_in_order(batch, n_jobs), _obs(batch, n_types), _var(tissue), paths[-1])
    return paths


def _checked_sizes(
    n_cells: int | Sequence[int], *, n_genes: int, n_batches: int, n_types: int, seed: int
) -> list[int]:
    """Check the whole numbers and return the number of cells of each batch."""
    numbers = {"n_genes": n_genes, "n_batches": n_batches, "n_types": n_types, "seed": seed}
    for name, number in numbers.items():
        check_bits(name, number)
    for number in n_cells if isinstance(n_cells, Sequence) else [n_cells]:
        check_bits("n_cells", number)
    sizes = batch_sizes(n_cells, n_batches) if n_batches > 0 else []
    if min(n_genes, n_batches, n_types) < 1 or len(sizes) != n_batches or min(sizes) < 1:
        what = f"Cannot simulate {n_cells} cells x {n_genes} genes of {n_types} types in {n_batches} batches."
        raise InputError(what, "Give at least one gene, type and batch, and one cell per batch.")
    if seed < 0:
        what = f"Cannot simulate with seed={seed}."
        raise InputError(what, "Give a seed of 0 or more.")
    return sizes


def _checked_levels(counts_per_gene: float, batch_effect: float) -> dict[str, float]:
    """Check the levels of counts and of the batch effect, and return them as floats, by name."""
    counts, effect = _number(counts_per_gene), _number(batch_effect)
    if not 0 < counts <= MOST_COUNTS:
        what = f"Cannot simulate with counts_per_gene={_shown(counts_per_gene)}."
        raise InputError(what, f"Give a positive number of counts, up to {MOST_COUNTS:,}.")
    if not 0 <= effect <= MOST_EFFECT:
        what = f"Cannot simulate with batch_effect={_shown(batch_effect)}."
        remedy = f"Give a number from 0, for no effect, to {MOST_EFFECT:g}; {BATCH_EFFECT} is realistic."
        raise InputError(what, remedy)
    return {"counts_per_gene": counts, "batch_effect": effect}


def _number(given: object) -> float:
    """Return a float: NaN, which is in no range, of anything but a number."""
    return as_float(given) if isinstance(given, Real) and not isinstance(given, bool) else np.nan


def _shown(given: object) -> str:
    """Return what to call a value in a message; integers may have thousands of digits."""
    return str(as_float(given)) if isinstance(given, Real) and not isinstance(given, bool) else repr(given)


def _clear(folder: Path, *, overwrite: bool) -> None:
    """Create the folder. Remove the batches in it, or raise unless `overwrite` is true."""
    if Location.of(folder).is_url:
        what = f"The output {folder} is a URL, but only local paths can be written."
        raise InputError(what, "Give a local folder, and copy the stores from there.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"The folder {folder} cannot be created: {error.strerror or error}."
        raise OutputError(what, "Choose another folder.") from error
    # All batches, also those that would not be overwritten: a data set is all batches of its folder.
    batches = Path("batch[0-9]*.zarr")
    taken = sorted({*folder.glob(str(batches)), *folder.glob(str(partial_of(batches)))})
    if taken and not overwrite:
        what = f"{folder} already contains {taken[0].name}{' and others' if len(taken) > 1 else ''}."
        raise OutputExistsError(what, "Choose another folder, or replace all its batches with --overwrite.")
    for path in taken:
        remove_tree(path)


def _in_order(batch: SimulatedBatch, n_jobs: int | None) -> Iterator[sparse.csr_matrix]:
    """Yield groups of cells in order; threads create only a few groups ahead of the consumer."""
    n_threads = effective_n_jobs(n_jobs)
    with single_threaded_blas(), ThreadPoolExecutor(n_threads) as pool:
        ahead: deque[Future[sparse.csr_matrix]] = deque()
        for group in range(len(batch.groups)):
            ahead.append(pool.submit(batch.cells, group))
            if len(ahead) > 2 * n_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _obs(batch: SimulatedBatch, n_types: int) -> pd.DataFrame:
    name, n_cells = f"batch{batch.number}", len(batch.types)
    columns = {
        "cell_type": pd.Categorical.from_codes(batch.types, pd.Index([f"type{t}" for t in range(n_types)])),
        "batch": pd.Categorical.from_codes(np.zeros(n_cells, np.int8), pd.Index([name])),
    }
    return pd.DataFrame(columns, index=[f"{name}-cell{i}" for i in range(n_cells)])


def _var(tissue: Tissue) -> pd.DataFrame:
    names = [f"gene{i}" for i in range(len(tissue.variable))]
    return pd.DataFrame({"highly_variable": tissue.variable}, index=names)
