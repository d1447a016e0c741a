"""Only what is public looks public."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import pytest

import mnndask
from mnndask import MNNCorrector, mnn_correct

PUBLIC = ("datasets", "errors", "metrics", "pl", "pp")


@pytest.mark.parametrize("name", [None, *PUBLIC])
def test_completion_shows_documented_names(name):
    rng = np.random.default_rng(0)
    mnn_correct(rng.random((20, 5)), rng.random((20, 5)), k=3)  # loads more modules
    module = mnndask if name is None else getattr(mnndask, name)
    assert dir(module) == sorted(module.__all__)
    for public in dir(module):
        value = getattr(module, public)
        assert isinstance(value, str | Mapping) or inspect.getdoc(value)
        assert not isinstance(value, ModuleType) or public in PUBLIC


def test_completion_on_an_estimator_shows_its_own_names():
    own = {name for name in dir(MNNCorrector()) if not name.startswith("_")}
    assert {"fit", "transform", "fit_transform", "get_feature_names_out", "get_params"} <= own
    assert "set_output" not in own
