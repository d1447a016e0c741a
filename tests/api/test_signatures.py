"""Parameters are listed in two signatures for users, and in typed values within: all are the same."""

import inspect
from dataclasses import MISSING, fields

import pytest

from mnndask import MNNCorrector, mnn_correct
from mnndask.api.options import Options
from mnndask.core.parameters import Parameters
from mnndask.core.svd import LANCZOS_OPTIONS
from mnndask.engine.run_options import RunOptions
from mnndask.io.opened_inputs import InputOptions
from mnndask.io.packing import Packing

VALUES = (Parameters, RunOptions, InputOptions, Packing)
# Tells batches apart where they are read, and is written where they are packed; a column where inputs are
# read, and rows to fit on.
SHARED = {"batch_key", "restrict"}


def parameters_of(function, *left_out):
    """Names and defaults, in order."""
    given = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in given if p.name not in left_out}


def test_the_function_and_the_estimator_take_the_same_in_the_same_order():
    function = parameters_of(mnn_correct, "datas", "kwargs")
    estimator = parameters_of(MNNCorrector.__init__, "self", "svd_options")
    assert list(function.items()) == list(estimator.items())


def test_options_of_the_solver_are_keywords_of_the_function_and_a_mapping_of_the_estimator():
    kinds = {name: p.kind for name, p in inspect.signature(mnn_correct).parameters.items()}
    assert kinds["datas"] is inspect.Parameter.VAR_POSITIONAL
    assert kinds["kwargs"] is inspect.Parameter.VAR_KEYWORD
    assert parameters_of(MNNCorrector.__init__)["svd_options"] is None


@pytest.mark.parametrize("value", VALUES)
def test_typed_values_have_the_defaults_of_the_estimator(value):
    estimator = parameters_of(MNNCorrector.__init__)
    for field in fields(value):
        assert field.default_factory is MISSING
        assert field.default == estimator[field.name]
        assert type(field.default) is type(estimator[field.name])


def test_every_parameter_is_a_field_of_one_typed_value():
    names = [field.name for value in VALUES for field in fields(value)]
    assert set(names) == set(parameters_of(MNNCorrector.__init__, "self"))
    assert {name for name in names if names.count(name) > 1} == SHARED


def test_type_checkers_know_every_option():
    known = set(parameters_of(mnn_correct, "datas", "kwargs", "do_concatenate"))
    assert set(Options.__annotations__) == known | set(LANCZOS_OPTIONS)
    shown = inspect.signature(mnn_correct).parameters
    for name, type_ in Options.__annotations__.items():
        if name in shown:
            assert str(shown[name].annotation) == type_.__forward_arg__
