"""Types of the options of :func:`mnndask.mnn_correct`, for type checkers."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from mnndask._choices import Genes, SketchMethod, SvdMode


class Options(TypedDict, total=False):
    """All options but ``do_concatenate``, on which the type of the result depends."""

    var_index: Sequence[Hashable] | None
    var_subset: Sequence[Hashable] | None
    batch_key: str | Sequence[str]
    index_unique: str | None
    batch_categories: Sequence[Hashable] | None
    within: str | None
    protect: str | None
    k: int
    sigma: float
    cos_norm_in: bool
    cos_norm_out: bool
    svd_dim: int | None
    var_adj: bool
    compute_angle: bool
    refine: bool
    pair_averaging: int | None
    repair_sigmas: Sequence[float] | None
    shrinkage: float
    mnn_order: Sequence[Any] | str | None
    svd_mode: SvdMode
    save_raw: bool
    keep_derived: bool
    layer_added: str | None
    genes: Genes
    n_jobs: int | None
    layer: str | None
    restrict: Sequence[Any] | Mapping[str, Any] | str | None
    sketch_size: int | Literal["auto"] | None
    sketch_method: SketchMethod
    n_components: int | None
    random_state: int
    memory_limit: int | str | None
    scratch: str | os.PathLike[str] | None
    storage_options: Mapping[str, Any] | None
    show_progress: bool | None
    diagnostics: bool
    ncv: int
    tol: float
    maxiter: int
    v0: Any
