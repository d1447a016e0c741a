"""``mnn_correct``: the function with scanpy's signature."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Unpack, overload

import pandas as pd

from mnndask._choices import Genes, SketchMethod, SvdMode
from mnndask.api.corrector import MNNCorrector

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from anndata import AnnData

    from mnndask.api.options import Options
    from mnndask.io.input_kinds import DaskArray, InMemory, LazyMatrix, OfAnnData

Result = TypeVar("Result")
Corrected: TypeAlias = tuple[Result, list[pd.DataFrame], list[Any] | None]


@overload
def mnn_correct(
    *datas: OfAnnData, do_concatenate: Literal[True] = ..., **options: Unpack[Options]
) -> Corrected[AnnData]: ...
@overload
def mnn_correct(
    *datas: OfAnnData, do_concatenate: Literal[False], **options: Unpack[Options]
) -> Corrected[list[AnnData]]: ...
@overload
def mnn_correct(
    *datas: InMemory, do_concatenate: Literal[True] = ..., **options: Unpack[Options]
) -> Corrected[np.ndarray]: ...
@overload
def mnn_correct(
    *datas: InMemory, do_concatenate: Literal[False], **options: Unpack[Options]
) -> Corrected[list[np.ndarray]]: ...
@overload
def mnn_correct(
    *datas: LazyMatrix, do_concatenate: Literal[True] = ..., **options: Unpack[Options]
) -> Corrected[DaskArray]: ...
@overload
def mnn_correct(
    *datas: LazyMatrix, do_concatenate: Literal[False], **options: Unpack[Options]
) -> Corrected[list[DaskArray]]: ...
@overload
def mnn_correct(
    *datas: xr.DataArray, do_concatenate: Literal[True] = ..., **options: Unpack[Options]
) -> Corrected[xr.DataArray]: ...
@overload
def mnn_correct(
    *datas: xr.DataArray, do_concatenate: Literal[False], **options: Unpack[Options]
) -> Corrected[list[xr.DataArray]]: ...
@overload
def mnn_correct(*datas: Any, do_concatenate: bool, **options: Unpack[Options]) -> Corrected[Any]: ...
def mnn_correct(  # noqa: PLR0913
    *datas: Any,
    var_index: Sequence[Hashable] | None = None,
    var_subset: Sequence[Hashable] | None = None,
    batch_key: str | Sequence[str] = "batch",
    index_unique: str | None = "-",
    batch_categories: Sequence[Hashable] | None = None,
    within: str | None = None,
    protect: str | None = None,
    k: int = 20,
    sigma: float = 1.0,
    cos_norm_in: bool = True,
    cos_norm_out: bool = True,
    svd_dim: int | None = None,
    var_adj: bool = True,
    compute_angle: bool = False,
    refine: bool = False,
    pair_averaging: int | None = None,
    repair_sigmas: Sequence[float] | None = None,
    shrinkage: float = 1.0,
    mnn_order: Sequence[Any] | str | None = None,
    svd_mode: SvdMode = "rsvd",
    do_concatenate: bool = True,
    save_raw: bool = False,
    keep_derived: bool = False,
    layer_added: str | None = None,
    genes: Genes = "all",
    n_jobs: int | None = None,
    layer: str | None = None,
    restrict: Sequence[Any] | Mapping[str, Any] | str | None = None,
    sketch_size: int | Literal["auto"] | None = "auto",
    sketch_method: SketchMethod = "mixed",
    n_components: int | None = None,
    random_state: int = 0,
    memory_limit: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    show_progress: bool | None = None,
    diagnostics: bool = True,
    **kwargs: Any,
) -> Corrected[Any]:
    """Remove batch effects by matching mutual nearest neighbours.

    Finds pairs of cells, one in each batch, that are among each other's nearest neighbours. Takes the
    differences between paired cells as the batch effect, smooths them over the batch, and adds them. Batches
    merge one by one into the first. The signature is that of ``scanpy.external.pp.mnn_correct``.

    Data in memory is corrected at once. The call reads from lazy data the cells that the correction is fitted
    on (all, a sketch, or those of `restrict`). The corrected matrix is lazy: each of its chunks reads and
    corrects its own cells when it is computed.

    Parameters
    ----------
    *datas
        Batches, each of shape ``(n_cells, n_genes)``, with the same genes in the same order, usually
        log-transformed. All of one kind: AnnData (in memory, backed or lazy), :class:`numpy.ndarray`, SciPy
        sparse, dask array of dense or sparse chunks, zarr array, :class:`xarray.DataArray` (first dimension
        cells), the path of a ``.zarr`` or ``.h5ad``, or the URL of a ``.zarr``. Or **one** AnnData (or path)
        that contains all batches and distinguishes them in ``obs[batch_key]``; batches then count in order of
        appearance. Never modified.
    var_index
        Names of the genes, if `datas` are matrices. Needed only with `var_subset`.
    var_subset
        Names of the genes used for distances, usually the highly variable ones. All genes are corrected.
        Default: all.
    batch_key
        Column of ``obs`` that distinguishes the batches. If every input already has it, constant within each
        input and distinct between inputs, its values name the batches. Otherwise it is added. Several
        columns, from the outermost, are nested batches: with ``["study", "donor"]``, the donors of each study
        merge first, then the studies. The result names such batches in a column ``study_donor``, by values
        like ``A_1``.
    index_unique
        Separator between a cell's name and its batch's name, which keeps names unique. None leaves names
        unchanged. One AnnData that contains all batches keeps its names.
    batch_categories
        Names of the batches, in input order. Default: ``"0"``, ``"1"``, ...
    within
        Column of ``obs`` with groups of batches, such as tissues, that are corrected apart: only pairs inside
        a group count. Principal components are of all cells, so that all groups have one embedding. The
        column must be constant in each batch; a donor's cells of two tissues are two batches with
        ``batch_key=["tissue", "donor"]``.
    protect
        Column of ``obs`` that must not be taken for batch, such as a condition. If it is constant in each
        batch and differs between batches that merge, the correction may remove its effect, and nothing in the
        data can tell: a warning says so, and so does the report.
    k
        Number of neighbours, among the cells used for fitting. A larger `k` gives more pairs. Without
        `refine`, a large one in components (100) also moves random parts of one batch, which should stay.
        With `refine`, pairs are found again with as many more neighbours among the larger side's cells as it
        has more cells.
    sigma
        Divisor of the squared distance in the Gaussian weights that smooth corrections, in units of squared
        distance. With `cos_norm_in`, distances are between cells of length 1. A smaller `sigma` is more
        local. Without `refine`, a small one in genes (0.1) follows noise: random parts of one batch, which
        should stay, move by about the distance between neighbouring cells.
    cos_norm_in
        Whether to divide each cell by its length before computing distances.
    cos_norm_out
        Whether to divide each cell by its length (over the genes used for distances) in the result. Corrected
        values are then not on the log scale of the input, and of use for distances between cells only. False
        gives corrected values on the scale of the input.
    svd_dim
        Number of dimensions of biological variation along which cells are not corrected. They are computed
        for the reference and for the new batch. Default: none.
    var_adj
        Whether to adjust the variance: lengthen corrections so that cells keep their rank along them.
    compute_angle
        Whether to compute the angles between corrections and the reference's two leading directions.
    refine
        Whether to find pairs again after the batch has moved by them, to average both sides of a pair over
        their nearest cells, and to shrink vectors by their own noise. Batches then mix better, and random
        parts of one batch stay as they are. Results no longer equal the published method's. A batch is
        compared with at most five times as many cells of the reference, or 1,000 if that is more, drawn at
        random. See :data:`mnndask.RECOMMENDED` for the settings that go with it. AnnData results then have
        ``obs["mnn_support"]``, which shows cells whose type the reference may lack; see Returns.
    pair_averaging
        With `refine`, number of nearest cells of its own side, itself included, whose mean stands for a cell
        of a pair; all, if the side has fewer. 1 averages nothing. Default: a hundredth of the smaller side's
        cells, at least 10, and of the larger side as many more as it has more cells; at most 50.
    repair_sigmas
        With `refine`, values of `sigma`, from wide to narrow, with which the batch is moved and pairs are
        found again, one after the other; for cells of length 1, as `sigma` is. Default: 1.0, 0.3, and 0.15 if
        both sides have at least 2,000 cells.
    shrinkage
        With `refine`, how much of their noise vectors are shrunk by: a vector whose noise is a share x of its
        squared length is multiplied by ``1 - shrinkage * x``, and by 0 if that is negative. 0 shrinks none.
    mnn_order
        Order in which batches merge, as positions or names; the first is the reference. Default: input order.
        Nested lists are trees: of ``[["a", "b"], ["c", "d"]]``, b merges into a, d into c, and both of these
        into the first two. ``"auto"``, ``"share"`` and ``"tree"`` choose by mutual pairs: next, the two sides
        with most of them (batchelor's ``auto.merge``); next, the batch with the largest share of cells in a
        pair with the reference, beginning with the largest batch; a tree by average linkage of numbers of
        pairs. Of many cells, pairs are counted among some, so that counting takes no longer than merging.
    svd_mode
        Solver for `svd_dim` and `compute_angle`. ``"svd"`` is exact. ``"irlb"`` is implicitly restarted
        Lanczos, as exact. ``"rsvd"`` is randomised: where singular values fall slowly, its result differs by
        up to some thousandths of the largest value.
    do_concatenate
        Whether to return one object rather than a list in input order.
    save_raw
        Whether to keep the uncorrected values in ``raw`` of AnnData results.
    keep_derived
        Whether results keep what their inputs' expression values determined: PCA, UMAP, t-SNE, diffusion map
        and force-directed graph in ``obsm``, with their entries of ``varm`` and ``uns``; graphs of
        neighbours; ranked genes, dendrograms and PAGA. They describe the uncorrected cells, and scanpy would
        go on with them. By default they are left out, and a warning names them.
    layer_added
        Name of a new layer of AnnData results for the corrected values. ``X`` is then that of the inputs.
        Default: the corrected values replace ``X``.
    genes
        Genes of the result: ``"all"``, or ``"subset"`` for those of `var_subset`, in their order in the data.
        ``"none"`` gives the corrected cells in `n_components` components alone, in less time and space:
        AnnData without ``X``, layers and ``raw``, whose ``obsm["X_mnn"]`` they are; or a matrix of shape
        ``(n_cells, n_components)``, of a DataArray with ``"component"`` as its second dimension.
    n_jobs
        Number of threads for the fit and for correction in memory. Default, and -1: all processors that this
        process may use, by its affinity, the quotas of its control groups (cgroups), and
        ``SLURM_CPUS_PER_TASK``. With an active ``distributed.Client``, its workers read lazy data, fit on
        disk and compute lazy results.
    layer
        Layer of AnnData that contains the expression. Default: ``X``. The result is in ``X`` either way.
    restrict
        Cells to fit on, one entry per batch: row numbers, a boolean mask, or None for all. Or a column of
        ``obs``: the name of a boolean one, or a column and its value or values,
        ``{"condition": "control"}``. Or, for one AnnData, a mask over its ``obs``. All cells are corrected.
        Not allowed together with a number as `sketch_size`.
    sketch_size
        Maximum number of cells of each batch to fit on. Larger batches are represented by a sketch, which
        gives exactly the result that the same cells give as `restrict`. None means all cells. ``"auto"``
        means the cells of `restrict`, if given. Otherwise it means all cells while the fit takes up to about
        a minute on a laptop, and beyond that 200,000 cells in all, but 800 to 5,000 of each batch, with a
        warning. The limit is 5e11 multiply-adds: the sum over steps of new cells × (reference + new cells) ×
        genes used for distances, e.g. twice 11,000 cells × 2,000 genes.
    sketch_method
        How sketched cells are drawn. ``"random"``: with equal probability, without reading the data.
        ``"geometric"``: evenly over the space that cells occupy, so that rare types are represented
        (geometric sketching; Hie et al. 2019). ``"mixed"``: half at random, the other half from the gaps that
        these leave. The last two read lazy data once, and some of its chunks twice, before they read the
        sketched cells.
    n_components
        Number of principal components in which to compute distances, find pairs, smooth and adjust the
        variance, as in fastMNN. Genes are corrected all the same. The components are those of the cells used
        for fitting, cosine-normalised, with equal weight for each batch, or for each cell with `refine`. None
        uses the genes themselves, as does a number that is not below the numbers of cells and of genes. 50 is
        usual: it is much faster and, at `sigma` = 1, gives about the same result. AnnData results then have
        ``obsm["X_mnn"]``: the corrected cells in the components.
    random_state
        Seed of the sketch, of the components and of the iterative solvers.
    memory_limit
        Memory that the work may take in addition to what the process already uses: bytes, or a string such
        as ``"2GB"``. It determines the sizes of chunks, blocks and tiles, for `n_jobs` threads. dask computes
        a lazy result with more threads unless set otherwise (``dask.config.set(num_workers=...)``). If the
        cells used for fitting do not fit into half of it, the fit works on disk, and finds singular vectors
        by Lanczos regardless of `svd_mode`. Default: the memory that is free for this process, which is the
        least of what the machine, its control groups (cgroups), limits of the shell (``ulimit -v``, ``-d``)
        and the memory of a SLURM job leave. The log says how much that is, and what limits it.
    scratch
        Folder for data that does not fit in memory, and for the model where other processes need it. On a
        cluster of several machines, name a folder that all of them can reach. What mnndask writes there is
        removed with the result, on failure, and at exit. A model that other processes have used is removed
        only at exit, as they may need it again. Default: the system's folder for temporary files.
    storage_options
        Options that fsspec needs to reach `datas` given as URLs, such as ``{"key": ..., "secret": ...}``.
        Default: the settings of the environment. Never recorded or shown.
    show_progress
        Whether to show a live line on stderr for each stage of the work, or a bar in a notebook. None shows
        them only if stderr is a terminal, or in a notebook. Each finished stage is logged in any case (logger
        ``mnndask``, level INFO).
    diagnostics
        Whether to measure the correction on a sample of its cells, in seconds. Without the measures,
        ``uns["mnn"]`` contains parameters and merge steps only, there are no plots and no report, and nothing
        warns of batches of which few cells found a pair.
    **kwargs
        Options of the Lanczos solver (``svd_mode="irlb"``): ``ncv``, ``tol``, ``maxiter``, ``v0``; see
        :func:`scipy.sparse.linalg.svds`.

    Returns
    -------
    corrected
        The kind of object that came in: AnnData, array, or DataArray; in memory or lazy. Corrected values are
        dense. The reference batch equals its (normalised) input. They are for PCA, neighbours, embeddings and
        clusters, not for differential expression, dot plots or anything that needs counts: use the
        uncorrected values there. With `n_components`, AnnData results have ``obsm["X_mnn"]``: the corrected
        cells in the space in which the fit compares them, with those of the reference unmoved. It is lazy for
        lazy data; a graph of neighbours is the next step: ``sc.pp.neighbors(result, use_rep="X_mnn")``.
        AnnData results have ``uns["mnn"]``, ``obs["mnn_sample"]`` (by which plots
        and reports find the cells that were measured), ``var["mnn_variance_removed"]`` and
        ``var["mnn_correlation"]`` (what the correction did to each gene: the share of its variance that is
        gone, and the correlation with its uncorrected values within batches), and only annotations that both
        file formats can store. A warning before the fit names what is renamed, converted or left out for
        that. With `refine`,
        ``obs["mnn_support"]`` is the share of cells with a pair among the 20 nearest fitted cells of a cell's
        own batch, from 0 to 1. Below 0.5, its type may be absent from the reference: a hint only, as types
        that are shifted far, or of which the reference has far fewer cells, have little support, too. It is
        NaN in the reference, and in lazy results for cells that the fit did not use (those that
        ``mnndask correct`` writes all have a value).
    mnns
        One table of pairs per batch in input order, with columns ``"new cell"`` (row of the batch),
        ``"ref cell"`` (row of the reference: the batches that it merges into, stacked in merge order) and
        ``"original batch"`` (position of the batch that ``"ref cell"`` is from). Empty for the reference.
    angles
        None, or one array per batch in input order, in degrees, of shape ``(n_cells,)``; None for the
        reference. NaN where a cell is not moved. Lazy for lazy data.

    Raises
    ------
    InputError, GenesError, NonFiniteError
        (:class:`ValueError`) for values that cannot be used. NaN or infinity in cells that the fit does not
        read is found when a lazy result is computed.
    InputTypeError
        (:class:`TypeError`) for kinds of input that cannot be used, and for unknown options.
    InputKeyError
        (:class:`KeyError`) for names that do not exist in the input.
    InputReadError
        (:class:`OSError`) for stores that are damaged, or that have changed since the call, also when a lazy
        result is computed. Sizes and times of files (tags of objects) are compared.
    ResultTooLargeError
        (:class:`MemoryError`) if the result for in-memory data would not fit in memory.

    Notes
    -----
    The first call after installation compiles inner loops, which takes up to 20 s and is a stage of its own.
    numba keeps the code beside the package, or else in the user's cache. If the environment variable
    ``NUMBA_CACHE_DIR`` names a folder, it is kept there. Where none of them can be written, every process
    compiles anew, with a warning.

    Do not correct batches that share no cell types: batch effect and biology cannot be told apart there. Good
    mixing alone does not show that a correction is right, as merging unlike cells mixes best: look at known
    types, too. Do not correct corrected values again, and do not rank genes by them.

    References
    ----------
    Haghverdi, L., Lun, A. T. L., Morgan, M. D. & Marioni, J. C. Batch effects in single-cell RNA-sequencing
    data are corrected by matching mutual nearest neighbors. Nature Biotechnology 36, 421-427 (2018). Methods.

    Hie, B., Cho, H., DeMeo, B., Bryson, B. & Berger, B. Geometric sketching compactly summarizes the
    single-cell transcriptomic landscape. Cell Systems 8, 483-493 (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask import mnn_correct
    >>> rng = np.random.default_rng(0)
    >>> cells = rng.normal(size=(60, 10)) + 5 * np.eye(10)[rng.integers(3, size=60)] + 2
    >>> shifted = cells[30:] + rng.normal(size=10)
    >>> corrected, mnns, angles = mnn_correct(cells[:30], shifted, k=5)
    >>> corrected.shape
    (60, 10)
    >>> mnns[1].columns.tolist()
    ['new cell', 'ref cell', 'original batch']

    In two components, without the genes:

    >>> mnn_correct(cells[:30], shifted, k=5, n_components=2, genes="none")[0].shape
    (60, 2)
    """
    corrector = MNNCorrector(
        var_index=var_index,
        var_subset=var_subset,
        batch_key=batch_key,
        index_unique=index_unique,
        batch_categories=batch_categories,
        within=within,
        protect=protect,
        k=k,
        sigma=sigma,
        cos_norm_in=cos_norm_in,
        cos_norm_out=cos_norm_out,
        svd_dim=svd_dim,
        var_adj=var_adj,
        compute_angle=compute_angle,
        refine=refine,
        pair_averaging=pair_averaging,
        repair_sigmas=repair_sigmas,
        shrinkage=shrinkage,
        mnn_order=mnn_order,
        svd_mode=svd_mode,
        do_concatenate=do_concatenate,
        save_raw=save_raw,
        keep_derived=keep_derived,
        layer_added=layer_added,
        genes=genes,
        n_jobs=n_jobs,
        layer=layer,
        restrict=restrict,
        sketch_size=sketch_size,
        sketch_method=sketch_method,
        n_components=n_components,
        random_state=random_state,
        memory_limit=memory_limit,
        scratch=scratch,
        storage_options=storage_options,
        show_progress=show_progress,
        diagnostics=diagnostics,
        svd_options=kwargs,
    )
    corrected = corrector.fit_transform(datas)
    return corrected, corrector.mnns_, corrector.angles_
