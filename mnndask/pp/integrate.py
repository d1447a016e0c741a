"""``mnn_integrate``: correct one AnnData in place, with the recommended settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from anndata import AnnData

from mnndask._choices import RECOMMENDED
from mnndask.api.correct import mnn_correct
from mnndask.api.options import Options
from mnndask.errors import InputError, InputTypeError
from mnndask.io.inputs import matrix_of
from mnndask.io.record import COLUMNS, EMBEDDING_KEY, meaning_of_values
from mnndask.pp.basis import Basis
from mnndask.pp.checks import check_arguments, labels_of, masked_genes, with_design

# Options of mnn_correct that this call determines, or whose results it has no place for.
OWN = {
    *("var_index", "var_subset", "batch_key", "index_unique", "batch_categories", "genes", "save_raw"),
    *("keep_derived", "layer_added", "n_components", "compute_angle", "storage_options"),
}


def mnn_integrate(  # noqa: PLR0913
    adata: AnnData,
    key: str,
    *,
    basis: str | None = None,
    n_components: int = 50,
    mask_var: str | Sequence[bool] | None = "highly_variable",
    key_added: str = EMBEDDING_KEY,
    layer_added: str | None = None,
    copy: bool = False,
    **options: Any,
) -> AnnData | None:
    """Correct the batches of an AnnData in place, with the recommended settings.

    Adds the corrected cells in principal components to ``obsm``, from which graphs of neighbours, clusters
    and pictures are made: ``sc.pp.neighbors(adata, use_rep="X_mnn")``. ``X`` stays as it is. The settings are
    those of :data:`mnndask.RECOMMENDED`: refined pairs, in components.

    Parameters
    ----------
    adata
        All batches: log-transformed values in memory, backed or lazy.
    key
        Column of ``obs`` that distinguishes the batches. They merge in order of appearance; see `mnn_order`
        of :func:`mnndask.mnn_correct`.
    basis
        Element of ``obsm`` to correct instead of expression: principal components, latent semantic indexing
        (LSI) of ATAC data, 40 protein markers. It is first centred and multiplied by one number, so that the
        median squared distance of cells to their mean is 0.15, and divided by it afterwards: `sigma` is for
        cells of that size. It is that of cosine-normalised cells in 50 components: 0.19 for the five cell
        lines of scmixology (0.09 on all genes), 0.20 for blood cells, 0.07 to 0.13 for simulated cells. Ten
        times the basis gives ten times the result. Default: ``X``, cosine-normalised.
    n_components
        Number of principal components, unless there is a `basis`.
    mask_var
        Genes used for distances: a boolean column of ``var``, a mask of shape ``(n_genes,)``, or None for
        all. All genes are used, too, if there is no column ``"highly_variable"``.
    key_added
        Element of ``obsm`` for the result. An existing one is replaced.
    layer_added
        Layer for corrected values of all genes, which are cosine-normalised unless ``cos_norm_out=False`` is
        given. An existing one is replaced. Default: none. Takes more time.
    copy
        Whether to return a copy rather than to change `adata`.
    **options
        Other options of :func:`mnndask.mnn_correct`, such as `k`, `sigma`, `mnn_order`, `within`, `protect`,
        `restrict`, `sketch_size` and `layer`. With ``diagnostics=True``, which takes seconds more, the
        correction is measured, for plots and reports.

    Returns
    -------
    None, or the copy. It has ``obsm[key_added]``, of shape ``(n_cells, n_components)``;
    ``layers[layer_added]``, if asked for; ``uns["mnn"]``, the record of the correction (if it was
    measured, also ``obs["mnn_sample"]``, by which plots find the measured cells); and
    ``obs["mnn_support"]``, low for cells whose type the reference may lack (see
    :func:`mnndask.mnn_correct`). Of backed and lazy data, obsm and layers are dask arrays, which read the
    data when they are computed. A `basis` is read and corrected at once.

    Raises
    ------
    InputError, InputTypeError, InputKeyError
        Before the work, for arguments that cannot be used, missing labels of batches, or one batch only.
    NonFiniteError
        For NaN or infinity in the values or the basis.

    Notes
    -----
    The result is for distances between cells, not for differential expression, dot plots or marker genes: use
    ``X`` there. Values in ``layers[layer_added]`` are not for these either. A `basis` that was corrected
    before is corrected twice. ``obs["mnn_support"]`` is a hint only, as types that are shifted far have
    little support, too.

    References
    ----------
    Haghverdi, L., Lun, A. T. L., Morgan, M. D. & Marioni, J. C. Batch effects in single-cell RNA-sequencing
    data are corrected by matching mutual nearest neighbors. Nature Biotechnology 36, 421-427 (2018). Methods.
    The settings differ: see `refine` of :func:`mnndask.mnn_correct`.

    Examples
    --------
    >>> import anndata as ad
    >>> import mnndask
    >>> import scanpy as sc  # doctest: +SKIP
    >>> adata = ad.concat(mnndask.datasets.simulate(600, 200, 2), label="batch", index_unique="-")
    >>> mnndask.pp.mnn_integrate(adata, "batch", n_components=20)
    >>> adata.obsm["X_mnn"].shape
    (600, 20)
    >>> sc.pp.neighbors(adata, use_rep="X_mnn")  # doctest: +SKIP

    Coordinates of cells that are there already, such as scanpy's ``X_pca``:

    >>> from sklearn.decomposition import PCA
    >>> adata.obsm["X_pca"] = PCA(20).fit_transform(adata.X.toarray())
    >>> mnndask.pp.mnn_integrate(adata, "batch", basis="X_pca")
    >>> sc.pp.neighbors(adata, use_rep="X_mnn")  # doctest: +SKIP
    """
    check_arguments(
        adata, key_added=key_added, layer_added=layer_added, copy=copy, layer=options.get("layer")
    )
    _check_options(options, basis, n_components, layer_added)
    labels = labels_of(adata, key)
    given = {**RECOMMENDED, "n_components": n_components, "diagnostics": False, **options}
    if basis is not None:
        given = {name: value for name, value in given.items() if name != "n_components"}
        found, layer, uns = _basis_corrected(adata, basis, labels, given)
    else:
        genes = masked_genes(adata, mask_var)
        found, layer, uns = _genes_corrected(adata, labels, given | {"var_subset": genes}, layer_added)
    embedding, columns = found
    target = adata.copy() if copy else adata
    target.obsm[key_added] = embedding
    if layer_added is not None:
        target.layers[layer_added] = layer
    uns["values"] = _meaning(uns, basis, key_added, layer_added)
    target.uns["mnn"] = uns
    for name in COLUMNS:
        if name in columns:
            target.obs[name] = columns[name]
        elif name in target.obs:  # of an earlier correction, whose record is gone
            del target.obs[name]
    return target if copy else None


def _genes_corrected(
    adata: AnnData, labels: pd.Series, options: Mapping[str, Any], layer_added: str | None
) -> tuple[tuple[Any, dict[str, Any]], Any, dict[str, Any]]:
    X = matrix_of(adata, options.get("layer"), str(labels.name))
    cells = AnnData(X, obs=with_design(adata, labels, options), var=pd.DataFrame(index=adata.var_names))
    genes = "none" if layer_added is None else "all"
    others = {name: value for name, value in options.items() if name != "layer"}
    result = _corrected(cells, batch_key=str(labels.name), genes=genes, **others)
    return (result.obsm[EMBEDDING_KEY], _columns(result)), result.X, result.uns["mnn"]


def _basis_corrected(
    adata: AnnData, basis: str, labels: pd.Series, options: Mapping[str, Any]
) -> tuple[tuple[Any, dict[str, Any]], None, dict[str, Any]]:
    of_basis = Basis.of(adata, basis)
    cells = AnnData(of_basis.scaled(), obs=with_design(adata, labels, options))
    plain = {"cos_norm_in": False, "cos_norm_out": False}
    result = _corrected(cells, batch_key=str(labels.name), **plain, **options)
    uns = result.uns["mnn"]
    uns["parameters"] = uns["parameters"] | {"basis": basis, "basis_factor": of_basis.factor}
    out = of_basis.moved(result.X - cells.X)
    return (out, _columns(result)), None, uns


def _columns(result: AnnData) -> dict[str, Any]:
    return {name: result.obs[name].to_numpy() for name in COLUMNS if name in result.obs}


def _corrected(cells: AnnData, **options: Any) -> AnnData:
    call: Any = mnn_correct
    return call(cells, **options)[0]


def _check_options(
    options: Mapping[str, Any], basis: str | None, n_components: int, layer_added: str | None
) -> None:
    unknown = [name for name in options if name in OWN or name not in Options.__annotations__]
    if unknown:
        what = f"mnn_integrate has no option {unknown[0]}."
        raise InputTypeError(what, "Leave it out, or call mnn_correct: it takes more, and returns new data.")
    if n_components is None:
        what = "n_components is None."
        raise InputError(what, "Give the number of components of the result, 50 say.")
    if basis is None:
        return
    if layer_added is not None:
        what = f"layer_added={layer_added!r} was given with basis={basis!r}, of which no genes are corrected."
        raise InputError(what, "Leave out one of them.")
    given = {"layer", "cos_norm_in", "cos_norm_out"} & options.keys()
    if given or n_components != RECOMMENDED["n_components"]:
        name = min(given, default="n_components")
        what = f"{name} was given with basis={basis!r}, which is corrected as it is."
        raise InputError(what, "Leave out one of them.")


def _meaning(
    uns: Mapping[str, Any], basis: str | None, key_added: str, layer_added: str | None
) -> dict[str, str]:
    """What is where, in the words of the record."""
    genes = {"genes": "none"} if layer_added is None else {"layer_added": layer_added}
    parameters = {"n_components": RECOMMENDED["n_components"], **uns["parameters"], **genes}
    out = meaning_of_values(parameters)
    if basis is not None:
        out["scale"] = f"obsm[{basis!r}], shifted by the correction"
    for name in ("where", "embedding"):
        if name in out:
            out[name] = out[name].replace(f"obsm[{EMBEDDING_KEY!r}]", f"obsm[{key_added!r}]")
    return out
