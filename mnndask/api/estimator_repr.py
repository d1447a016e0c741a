"""How the estimator is shown: without secrets and, once fitted, with what each merge did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from mnndask._library_state import exclusive
from mnndask._text import printable
from mnndask.api.fitting import Fitted
from mnndask.diagnostics.html import merge_table


class EstimatorWithRepr(BaseEstimator):
    """An estimator whose representations leave out the values of ``storage_options``."""

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        out: str = BaseEstimator.__repr__(self._without_secrets(), N_CHAR_MAX)
        return out

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        out = BaseEstimator._repr_mimebundle_(self._without_secrets(), **kwargs)
        return out | {"text/html": self._repr_html_()} if "text/html" in out else out

    @property
    def _repr_html_(self) -> Any:
        """HTML for notebooks: the parameters and, once fitted, a table of the merge steps."""
        # scikit-learn's is also a property, which its configuration can switch off.
        parameters = BaseEstimator._repr_html_.fget(self._without_secrets())
        fitted = getattr(self, "_fitted", None)
        return lambda: _parameters_as_html(parameters) + (_merges_as_html(fitted) if fitted else "")

    def _without_secrets(self) -> EstimatorWithRepr:
        """A copy that is safe to show."""
        out = copy.copy(self)
        options = getattr(self, "storage_options", None)
        if options:
            out.set_params(storage_options=dict.fromkeys(options, "..."))
        if hasattr(self, "feature_names_in_"):  # which scikit-learn lists
            out.feature_names_in_ = np.array(list(map(printable, self.feature_names_in_)), dtype=object)
        return out


@exclusive()  # scikit-learn changes filters of warnings
def _parameters_as_html(parameters: Callable[[], str]) -> str:
    return parameters()


def _merges_as_html(fitted: Fitted) -> str:
    """Table of the merge steps. Computes no measures beyond those taken at the fit."""
    diagnostics = fitted.diagnostics
    measures = None
    if diagnostics is not None:
        measures = [diagnostics.steps.get(b) for b in diagnostics.order]
    return merge_table(fitted.record.steps, measures)
