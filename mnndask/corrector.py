"""The estimator: fit a correction, apply it to the same cells or to others of the same batches."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mnndask.apply import check_result_fits, correct_inputs
from mnndask.budget import Budget
from mnndask.errors import GenesError, InputError, InputKeyError, naming_genes
from mnndask.fitting import fit_inputs
from mnndask.inputs import Inputs, read_inputs
from mnndask.io.results import Packing, check_annotations, pack_anndata
from mnndask.location import scratch_location
from mnndask.model import CorrectionModel
from mnndask.parameters import check_parameters
from mnndask.progress import showing
from mnndask.reference import HeldSketch
from mnndask.reprs import repr_of_fit
from mnndask.results import pack_matrices, pair_tables


class MNNCorrector(BaseEstimator):
    """Correct batches by mutual nearest neighbours.

    Parameters
    ----------
    var_index, var_subset, batch_key, index_unique, batch_categories, k, sigma, cos_norm_in, cos_norm_out, \
svd_dim, var_adj, compute_angle, mnn_order, svd_mode, do_concatenate, save_raw, n_jobs, layer, restrict, \
sketch_size, sketch_method, n_components, random_state, memory_limit, scratch, storage_options, \
show_progress
        As in :func:`mnndask.mnn_correct`.
    svd_options
        Options of the Lanczos solver (``svd_mode="irlb"``): ``ncv``, ``tol``, ``maxiter``, ``v0``.

    Attributes
    ----------
    model_
        The fitted :class:`~mnndask.model.CorrectionModel`.
    mnns_
        Table of pairs of each batch, as :func:`mnndask.mnn_correct` returns them.
    angles_
        Angles, as :func:`mnndask.mnn_correct` returns them.
    sketch_
        Rows of each batch that the correction was fitted on, ascending, in input order: given as `restrict`,
        they give the same correction.
    batches_, batch_categories_
        Names of the batches in input order, and the values of ``obs[batch_key]`` that they come from.
    uns_
        Parameters, a row per merge step, and measures of the correction, as in ``uns["mnn"]`` of a result.
    n_features_in_
        Number of genes.
    feature_names_in_
        Names of the genes, where the data had some.

    Examples
    --------
    >>> import numpy as np
    >>> from mnndask import MNNCorrector
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.random((30, 8)), rng.random((40, 8)) + 0.5
    >>> corrector = MNNCorrector(k=5).fit([a, b])
    >>> [part.shape for part in corrector.set_params(do_concatenate=False).transform([a, b])]
    [(30, 8), (40, 8)]
    >>> len(corrector.mnns_[1]) > 0
    True
    """

    def __init__(
        self,
        *,
        var_index: Sequence[Hashable] | None = None,
        var_subset: Sequence[Hashable] | None = None,
        batch_key: str = "batch",
        index_unique: str | None = "-",
        batch_categories: Sequence[Hashable] | None = None,
        k: int = 20,
        sigma: float = 1.0,
        cos_norm_in: bool = True,
        cos_norm_out: bool = True,
        svd_dim: int | None = None,
        var_adj: bool = True,
        compute_angle: bool = False,
        mnn_order: Sequence[int | str] | None = None,
        svd_mode: str = "rsvd",
        do_concatenate: bool = True,
        save_raw: bool = False,
        n_jobs: int | None = None,
        layer: str | None = None,
        restrict: Sequence[Any] | None = None,
        sketch_size: int | str | None = "auto",
        sketch_method: str = "mixed",
        n_components: int | None = None,
        random_state: int = 0,
        memory_limit: int | str | None = None,
        scratch: str | os.PathLike[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        show_progress: bool | None = None,
        svd_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.var_index = var_index
        self.var_subset = var_subset
        self.batch_key = batch_key
        self.index_unique = index_unique
        self.batch_categories = batch_categories
        self.k = k
        self.sigma = sigma
        self.cos_norm_in = cos_norm_in
        self.cos_norm_out = cos_norm_out
        self.svd_dim = svd_dim
        self.var_adj = var_adj
        self.compute_angle = compute_angle
        self.mnn_order = mnn_order
        self.svd_mode = svd_mode
        self.do_concatenate = do_concatenate
        self.save_raw = save_raw
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
        self.svd_options = svd_options

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        out: str = BaseEstimator.__repr__(self._without_secrets(), N_CHAR_MAX)
        return out

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        out = BaseEstimator._repr_mimebundle_(self._without_secrets(), **kwargs)
        return out | {"text/html": self._repr_html_()} if "text/html" in out else out

    @property
    def _repr_html_(self) -> Any:
        """What notebooks show: the parameters and, once fitted, what each merge step did."""
        # scikit-learn's is a property, too, that is not there when its configuration says so.
        parameters = BaseEstimator._repr_html_.fget(self._without_secrets())
        fitted = getattr(self, "_fitted", None)
        return lambda: parameters() + (repr_of_fit(fitted) if fitted else "")

    def _without_secrets(self) -> MNNCorrector:
        """A copy to be shown."""
        out = copy.copy(self)
        if self.storage_options:
            out.storage_options = dict.fromkeys(self.storage_options, "...")
        return out

    @property
    def uns_(self) -> dict[str, Any]:
        """What ``uns["mnn"]`` of a result records; measuring the correction takes seconds, the first time."""
        check_is_fitted(self, "mnns_")
        return self._fitted.uns

    def fit(self, datas: Sequence[Any], y: None = None) -> MNNCorrector:
        """Find pairs and correction vectors; of lazy data, reads the cells it uses, and what a sketch needs.

        Parameters
        ----------
        datas
            Batches, or one AnnData whose ``obs[batch_key]`` tells them apart.
        y
            Ignored; scikit-learn's convention.
        """
        check_parameters(self.get_params())
        with showing(self.show_progress):
            self._fit(self._read(datas).without_tables())
        return self

    def transform(self, datas: Sequence[Any], batches: Sequence[Hashable] | None = None) -> Any:
        """Correct cells of fitted batches; cells count as outside the sketch.

        Parameters
        ----------
        datas
            As for :meth:`fit`, with the same genes. Lazy data stays lazy.
        batches
            Name of the fitted batch of each of `datas`. By default ``obs[batch_key]`` names them, be they
            several or one AnnData that holds them all; data without is the fitted batches in their order.

        Raises
        ------
        InputKeyError
            If a batch was not fitted.
        GenesError
            If the genes are not the fitted ones.
        sklearn.exceptions.NotFittedError
            Before :meth:`fit`.
        """
        check_is_fitted(self, "model_")
        inputs = self._read(datas, batches, fitting=False)
        self._check_genes(inputs)
        fitted = self._fitted_batches(inputs)
        inputs = replace(inputs, categories=[self.batch_categories_[b] for b in fitted])
        inputs = self._checked(inputs)
        with showing(self.show_progress):
            return self._pack(inputs, self._correct(inputs, fitted, in_fit=False))

    def fit_transform(self, datas: Sequence[Any], y: None = None) -> Any:
        """Fit, and correct the same cells."""
        check_parameters(self.get_params())
        inputs = self._read(datas)
        if not inputs.lazy:
            check_result_fits(inputs)
        if len(inputs.categories) < 2:
            return self._unchanged(inputs, datas)
        inputs = self._checked(inputs)
        fitted = list(range(len(inputs.categories)))
        with showing(self.show_progress):
            self._fit(inputs)
            return self._pack(inputs, self._correct(inputs, fitted, in_fit=True))

    def _read(
        self,
        datas: Sequence[Any],
        batches: Sequence[Hashable] | None = None,
        *,
        fitting: bool = True,
    ) -> Inputs:
        return read_inputs(
            datas,
            batch_key=self.batch_key,
            batch_categories=self.batch_categories if fitting else None,
            layer=self.layer,
            var_index=self.var_index,
            batches=batches,
            budget=Budget.of(self.memory_limit, self.n_jobs),
            fits_on=self.var_subset if fitting else (),
            storage_options=self.storage_options,
        )

    def _checked(self, inputs: Inputs) -> Inputs:
        """Inputs whose annotations results will hold, as far as they can; of the others this warns."""
        if inputs.kind == "anndata":
            check_annotations(inputs, self._packing)
        return inputs.without_tables()

    def _unchanged(self, inputs: Inputs, datas: Sequence[Any]) -> Any:
        message = (
            "Only one batch was given, so nothing is corrected and the data comes back as it is.\n"
            "Pass two or more batches, or one AnnData whose obs[batch_key] has several values."
        )
        warnings.warn(message, UserWarning, stacklevel=4)
        self.mnns_ = pair_tables(
            [], [HeldSketch(np.empty((0, 0)), np.empty(0, np.intp), inputs.n_cells[0])], [0]
        )
        self.angles_: list[Any] | None = None
        data = inputs.sources[0].annotated() if inputs.kind == "anndata" else datas[0]
        return data if self.do_concatenate else [data]

    def _fit(self, inputs: Inputs) -> None:
        with naming_genes(inputs.genes):
            fitted = fit_inputs(inputs, self.get_params())
        self.model_: CorrectionModel = fitted.model
        self.mnns_, self.angles_, self._fitted = fitted.mnns, fitted.angles, fitted
        self.sketch_ = fitted.sketch
        self.batches_, self.batch_categories_ = inputs.names, inputs.categories
        self.n_features_in_ = inputs.n_genes
        if inputs.genes is not None:
            self.feature_names_in_ = np.asarray(inputs.genes)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _correct(self, inputs: Inputs, fitted: list[int], *, in_fit: bool) -> list[Any]:
        with naming_genes(inputs.genes):
            return correct_inputs(
                self.model_,
                inputs,
                fitted,
                in_fit=in_fit,
                n_jobs=self.n_jobs,
                scratch=scratch_location(self.get_params()),
            )

    def _pack(self, inputs: Inputs, parts: list[Any]) -> Any:
        if inputs.kind != "anndata":
            return pack_matrices(parts, [s.frame for s in inputs.sources], concatenate=self.do_concatenate)
        return pack_anndata(inputs, parts, self.uns_, self._packing)

    @property
    def _packing(self) -> Packing:
        return Packing(self.batch_key, self.index_unique, self.do_concatenate, self.save_raw)

    def _check_genes(self, inputs: Inputs) -> None:
        if inputs.n_genes != self.n_features_in_:
            what = f"{inputs.sources[0].label} has {inputs.n_genes} genes, the fit had {self.n_features_in_}."
            raise GenesError(what, "Give the genes of the fit, in its order.")
        known = getattr(self, "feature_names_in_", None)
        if known is not None and inputs.genes is not None and list(known) != list(inputs.genes):
            what = f"{inputs.sources[0].label} has other genes than the fit, or another order."
            raise GenesError(
                what, "Give the genes of the fit, in its order: batch[:, corrector.feature_names_in_]."
            )

    def _fitted_batches(self, inputs: Inputs) -> list[int]:
        """Fitted batch of each batch of the inputs: by name where it has one, else by position."""
        if not inputs.named and len(inputs.sources) != len(self.batches_):
            what = f"{len(inputs.sources)} batch(es) were given, {len(self.batches_)} were fitted."
            raise InputError(what, f"Say which they are: batches=[...], of {', '.join(self.batches_)}.")
        names = inputs.names if inputs.named else self.batches_
        unknown = [name for name in names if name not in self.batches_]
        if unknown:
            what = f"Batch {unknown[0]!r} was not fitted."
            raise InputKeyError(what, f"Fitted batches: {', '.join(self.batches_)}.")
        return [self.batches_.index(name) for name in names]
