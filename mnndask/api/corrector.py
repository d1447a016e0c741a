"""The estimator: fits a correction and applies it to the same cells or to others of the same batches."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mnndask._choices import Genes, SketchMethod, SvdMode
from mnndask.api.call import Call
from mnndask.api.estimator_repr import EstimatorWithRepr
from mnndask.api.fitted_inputs import (
    check_fitted_genes,
    columns_of_result,
    fitted_batches,
    names_of_result,
    of_result,
    wanted_of_fit,
)
from mnndask.api.fitting import fit_inputs
from mnndask.api.pair_tables import no_pairs
from mnndask.api.progress_bars import showing
from mnndask.core.model import CorrectionModel
from mnndask.engine.apply import Wanted, check_result_fits, correct_inputs
from mnndask.errors import naming_genes, warn
from mnndask.io.genes import warn_of_unused_selection
from mnndask.io.inputs import read_inputs
from mnndask.io.matrix_results import pack_matrices
from mnndask.io.opened_inputs import Inputs
from mnndask.io.results import Added, check_annotations, pack_anndata


class MNNCorrector(  # type: ignore[call-arg]  # scikit-learn has no types
    TransformerMixin, EstimatorWithRepr, auto_wrap_output_keys=None
):
    """Correct batches by mutual nearest neighbours.

    Parameters
    ----------
    var_index, var_subset, batch_key, index_unique, batch_categories, within, protect, k, sigma, \
cos_norm_in, cos_norm_out, svd_dim, var_adj, compute_angle, refine, pair_averaging, repair_sigmas, \
shrinkage, mnn_order, svd_mode, do_concatenate, save_raw, keep_derived, layer_added, genes, n_jobs, \
layer, restrict, sketch_size, sketch_method, n_components, random_state, memory_limit, scratch, \
storage_options, show_progress, diagnostics
        As in :func:`mnndask.mnn_correct`.
    svd_options
        Options of the Lanczos solver (``svd_mode="irlb"``): ``ncv``, ``tol``, ``maxiter``, ``v0``.

    Attributes
    ----------
    model_
        The fitted :class:`~mnndask.core.model.CorrectionModel`.
    mnns_
        Table of pairs of each batch, as :func:`mnndask.mnn_correct` returns them.
    angles_
        Angles, as :func:`mnndask.mnn_correct` returns them.
    sketch_
        Rows of each batch that the correction was fitted on, ascending, in input order. Given as `restrict`,
        they give the same correction.
    batches_, batch_categories_
        Names of the batches in input order, and the values of ``obs[batch_key]`` that they come from.
    uns_
        Parameters, one row per merge step, and measures of the correction, as in ``uns["mnn"]`` of a result.
    n_features_in_
        Number of genes.
    feature_names_in_
        Names of the genes, if the data had any.

    Notes
    -----
    Results of :meth:`transform` and :meth:`fit_transform` are for distances between cells, not for expression
    or tests of it. :meth:`transform` cannot place a batch that :meth:`fit` has not seen; types that it has
    not seen follow the nearest paired cells. :meth:`get_feature_names_out` is of results, not of the input.

    References
    ----------
    As in :func:`mnndask.mnn_correct`.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask import MNNCorrector
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.random((30, 8)), rng.random((40, 8)) + 0.5
    >>> corrector = MNNCorrector(k=5).fit([a, b])
    >>> [part.shape for part in corrector.set_params(do_concatenate=False).transform([a, b])]
    [(30, 8), (40, 8)]
    >>> corrector.fit_transform([a, b])[0].shape, corrector.get_feature_names_out()[-1], len(corrector.mnns_)
    ((30, 8), 'x7', 2)
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
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
        svd_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.var_index = var_index
        self.var_subset = var_subset
        self.batch_key = batch_key
        self.index_unique = index_unique
        self.batch_categories = batch_categories
        self.within = within
        self.protect = protect
        self.k = k
        self.sigma = sigma
        self.cos_norm_in = cos_norm_in
        self.cos_norm_out = cos_norm_out
        self.svd_dim = svd_dim
        self.var_adj = var_adj
        self.compute_angle = compute_angle
        self.refine = refine
        self.pair_averaging = pair_averaging
        self.repair_sigmas = repair_sigmas
        self.shrinkage = shrinkage
        self.mnn_order = mnn_order
        self.svd_mode = svd_mode
        self.do_concatenate = do_concatenate
        self.save_raw = save_raw
        self.keep_derived = keep_derived
        self.layer_added = layer_added
        self.genes = genes
        self.n_jobs = n_jobs
        self.layer = layer
        self.restrict = restrict
        self.sketch_size = sketch_size
        self.sketch_method = sketch_method
        self.n_components = n_components
        self.random_state = random_state
        self.memory_limit = memory_limit
        self.scratch = scratch
        self.storage_options = storage_options
        self.show_progress = show_progress
        self.diagnostics = diagnostics
        self.svd_options = svd_options

    @property
    def uns_(self) -> dict[str, Any]:
        """The record in ``uns["mnn"]`` of a result. Computing the measures takes seconds on first access."""
        check_is_fitted(self, "mnns_")
        return self._fitted.uns

    def fit(self, datas: Any, y: None = None) -> MNNCorrector:
        """Find pairs and correction vectors.

        From lazy data, reads the cells used for fitting, and all that drawing a sketch needs. Raises as
        :func:`mnndask.mnn_correct`.

        Parameters
        ----------
        datas
            A list of batches, or one AnnData whose ``obs[batch_key]`` distinguishes them.
        y
            Ignored; scikit-learn's convention.
        """
        call = Call.of(self.get_params())
        with showing(self.show_progress):
            inputs = self._read_to_fit(datas, call)
            self._fit(of_result(inputs, call).without_tables(), call)
            self._set_features(inputs, call)
        return self

    def transform(self, datas: Any, batches: Sequence[Hashable] | None = None) -> Any:
        """Correct cells of fitted batches. The cells count as outside the sketch.

        Results have no ``obs["mnn_support"]``, which is of cells that :meth:`fit_transform` corrects.

        Parameters
        ----------
        datas
            As for :meth:`fit`, with the same genes. Lazy data stays lazy.
        batches
            Name of the fitted batch of each of `datas`. By default ``obs[batch_key]`` names them, in several
            objects or in one AnnData that contains them all. Data without that column is taken as the fitted
            batches in their order.

        Raises
        ------
        InputKeyError
            If a batch was not fitted.
        GenesError
            If the genes are not the fitted ones.
        sklearn.exceptions.NotFittedError
            If called before :meth:`fit`.
        """
        check_is_fitted(self, "model_")
        call = Call.of(self.get_params())
        inputs = self._read(datas, call, batches, fitting=False)
        check_fitted_genes(inputs, self.n_features_in_, getattr(self, "feature_names_in_", None))
        inputs = of_result(inputs, call)
        fitted = fitted_batches(inputs, self.batches_)
        inputs = replace(inputs, categories=[self.batch_categories_[b] for b in fitted])
        wanted = wanted_of_fit(call, inputs.kind, self.model_.spaces, embeds=self._embeds)
        inputs = self._with_checked_annotations(inputs, call, wanted)
        with showing(self.show_progress):
            return self._result(inputs, fitted, call, wanted, in_fit=False)

    def fit_transform(self, datas: Any, y: None = None) -> Any:
        """Fit the correction and apply it to the same cells.

        Parameters
        ----------
        datas, y
            As for :meth:`fit`.

        Returns
        -------
        corrected
            The corrected data, as :func:`mnndask.mnn_correct` returns it.
        """
        call = Call.of(self.get_params())
        given = self._read_to_fit(datas, call)
        inputs, wanted = of_result(given, call), call.wanted(given.kind)
        if not inputs.lazy:
            check_result_fits(inputs, call.run.free, wanted, call.parameters.n_components)
        if len(inputs.categories) < 2:
            return self._unchanged(inputs, datas)
        inputs = self._with_checked_annotations(inputs, call, wanted)
        fitted = list(range(len(inputs.categories)))
        with showing(self.show_progress):
            self._fit(inputs, call, with_columns=inputs.kind == "anndata")
            self._set_features(given, call)
            return self._result(inputs, fitted, call, wanted, in_fit=True)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> NDArray[Any]:
        """Return the names of the genes of results; with ``genes="none"``, of the components.

        Parameters
        ----------
        input_features
            Names of all genes of the input, if the fitted data had none. Default: ``x0``, ``x1``, ...

        Raises
        ------
        GenesError
            If these are not the fitted genes, or are of another number.
        sklearn.exceptions.NotFittedError
            If called before :meth:`fit`.
        """
        check_is_fitted(self, "model_")
        if self.model_.spaces.embeds_only:
            return np.array([f"mnncorrector{i}" for i in range(self.model_.n_dims)], dtype=object)
        known = getattr(self, "feature_names_in_", None)
        return names_of_result(known, self.n_features_in_, input_features, self._columns)

    def _read(
        self,
        datas: Any,
        call: Call,
        batches: Sequence[Hashable] | None = None,
        *,
        fitting: bool = True,
    ) -> Inputs:
        return read_inputs(
            [datas] if isinstance(datas, AnnData) else datas,
            options=call.reading if fitting else call.reading.of_fitted(),
            batches=batches,
            budget=call.run.budget,
            fits_on=call.parameters.var_subset if fitting else (),
            storage_options=call.run.storage_options,
        )

    def _read_to_fit(self, datas: Any, call: Call) -> Inputs:
        inputs = self._read(datas, call)
        warn_of_unused_selection(inputs.sources, call.parameters.var_subset)
        return inputs

    def _with_checked_annotations(self, inputs: Inputs, call: Call, wanted: Wanted) -> Inputs:
        """Warn of annotations that results cannot keep, and release those that can be read again."""
        if inputs.kind == "anndata":
            check_annotations(inputs, call.packing, wanted)
        return inputs.without_tables()

    def _unchanged(self, inputs: Inputs, datas: Any) -> Any:
        warn(
            "Only one batch was given, so nothing is corrected and the data is returned unchanged.",
            "Pass two or more batches, or one AnnData whose obs[batch_key] has several values.",
        )
        self.mnns_ = [no_pairs()]
        self.angles_: list[Any] | None = None
        data = inputs.sources[0].annotated() if inputs.kind == "anndata" else datas[0]
        return data if self.do_concatenate else [data]

    def _fit(self, inputs: Inputs, call: Call, *, with_columns: bool = False) -> None:
        with naming_genes(inputs.genes):
            fitted = fit_inputs(
                inputs,
                replace(call.parameters, restrict=inputs.restrict or call.parameters.restrict),
                call.run,
                call.recorded(self.get_params()),
                embeds_only=call.embeds_only,
                with_columns=with_columns,
            )
        self.model_: CorrectionModel = fitted.model
        self.mnns_, self.angles_, self._fitted = fitted.mnns, fitted.angles, fitted
        self._embeds = call.parameters.n_components is not None
        self.sketch_ = fitted.fitted_rows
        self.batches_, self.batch_categories_ = inputs.names, inputs.categories

    def _set_features(self, inputs: Inputs, call: Call) -> None:
        self.n_features_in_, self._columns = inputs.n_genes, columns_of_result(inputs, call)
        if inputs.genes is not None:
            self.feature_names_in_ = np.asarray(inputs.genes)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _result(self, inputs: Inputs, fitted: list[int], call: Call, wanted: Wanted, *, in_fit: bool) -> Any:
        with naming_genes(inputs.genes):
            corrected = correct_inputs(
                self.model_,
                inputs,
                fitted,
                wanted=wanted,
                in_fit=in_fit,
                run=call.run,
            )
        if inputs.kind == "anndata":
            added = Added(self._fitted.columns if in_fit else {}, self._fitted.genes)
            return pack_anndata(inputs, corrected, self.uns_, call.packing, added)
        frames = [source.frame for source in inputs.sources]
        parts = [part.genes if wanted.genes else part.embedding for part in corrected]
        concatenate = call.packing.do_concatenate
        return pack_matrices(parts, frames, concatenate=concatenate, embedded=not wanted.genes)
