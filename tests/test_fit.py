"""The fit does each piece of work once."""

from collections import Counter

import pytest
from helpers import make_batches

from mnndask import fit, mnn_correct


@pytest.fixture
def calls(monkeypatch):
    """How often the fit calls each kernel; small data is one block a call."""
    counted = Counter()
    for name in ("nearest", "density", "smoothing_weights", "variance_factors"):
        kernel = getattr(fit, name)

        def counting(*args, kernel=kernel, name=name):
            counted[name] += 1
            return kernel(*args)

        monkeypatch.setattr(fit, name, counting)
    return counted


@pytest.mark.parametrize("flags", [(True, True), (False, False)])
@pytest.mark.parametrize("subset", [None, range(20)])
def test_spaces_that_coincide_are_computed_once(calls, flags, subset):
    names = {} if subset is None else {"var_index": range(40), "var_subset": subset}
    mnn_correct(*make_batches(), k=5, cos_norm_in=flags[0], cos_norm_out=flags[1], **names)
    assert calls["nearest"] == 2 * 2  # two steps, either way
    assert calls["density"] == 2
    assert calls["variance_factors"] == 2


@pytest.mark.parametrize("flags", [(True, False), (False, True)])
def test_spaces_that_differ_share_pairs_and_weights(calls, flags):
    mnn_correct(*make_batches(), k=5, cos_norm_in=flags[0], cos_norm_out=flags[1])
    assert calls["nearest"] == 2 * 2
    assert calls["density"] == calls["smoothing_weights"] == 2
    assert calls["variance_factors"] == 2 * 2


def test_factors_of_fitted_cells_are_not_computed_again(monkeypatch):
    from mnndask import model

    monkeypatch.setattr(model, "variance_factors", None)
    mnn_correct(*make_batches(), k=5)
    with pytest.raises(TypeError, match="NoneType"):
        mnn_correct(*make_batches(), k=5, restrict=[None, range(30), None])
