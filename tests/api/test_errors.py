"""Bad input: one clear error that names the input and the remedy; nothing written, nothing changed."""

from __future__ import annotations

import pickle
import re
import traceback
from types import SimpleNamespace

import numpy as np
import pytest
from bad_files import FILES
from bad_inputs import CASES, A, B, lazy
from helpers import one_anndata, values
from scipy import sparse
from snapshots import snapshot

from mnndask import MNNCorrector, errors, mnn_correct
from mnndask.errors import (
    GenesError,
    InputError,
    InputKeyError,
    InputNotFoundError,
    InputTypeError,
    NonFiniteError,
)


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(("error", "first", "second", "data", "options"), [*CASES, *FILES])
def test_bad_input(error, first, second, data, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batches = data(tmp_path)
    before, files = snapshot((batches, options)), contents(tmp_path)
    with pytest.raises(error) as caught:
        values(mnn_correct(*batches, **{"k": 3} | options)[0])
    assert type(caught.value) is error
    lines = str(caught.value).split("\n")
    assert len(lines) == 2
    assert first in lines[0]
    assert second in lines[1]
    assert snapshot((batches, options)) == before
    assert contents(tmp_path) == files


def test_each_error_is_a_builtin_too():
    builtins = {
        GenesError: ValueError,
        InputError: ValueError,
        NonFiniteError: ValueError,
        InputTypeError: TypeError,
    }
    builtins |= {
        InputKeyError: KeyError,
        InputNotFoundError: FileNotFoundError,
        errors.ResultTooLargeError: MemoryError,
    }
    for kind, builtin in builtins.items():
        assert issubclass(kind, errors.MNNError)
        assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", errors.MNNError.__subclasses__())
def test_errors_print_two_lines_and_travel(kind):
    error = kind("batch 0 is wrong.", "Mend it.")
    assert str(error) == "batch 0 is wrong.\nMend it."
    assert repr(error) == f"{kind.__name__}('batch 0 is wrong.', 'Mend it.')"
    assert "".join(traceback.format_exception_only(error)).endswith("batch 0 is wrong.\nMend it.\n")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_result_too_large(monkeypatch):
    with monkeypatch.context() as patched:
        little = SimpleNamespace(available=44 * 40 * 8 - 1, total=2**30)
        patched.setattr("psutil.virtual_memory", lambda: little)
        with pytest.raises(errors.ResultTooLargeError) as caught:
            mnn_correct(A, B, k=3)
    said = r"44 cells x 40 genes takes 0.0 GB, but only 0.0 GB are left \(free memory\)\.\nPass lazy data"
    assert re.search(said, str(caught.value))
    assert isinstance(caught.value, MemoryError)
    assert mnn_correct(lazy(A), lazy(B), k=3)[0].shape == (44, 40)


def test_estimator_refuses_unknown_batches_and_genes():
    corrector = MNNCorrector(k=3).fit([A, B])
    for datas, batches, error, words in [
        ([A], ["2"], InputKeyError, "Batch '2' was not fitted.\nFitted batches: 0, 1"),
        ([A], None, InputError, "1 batch(es) were given, but 2 were fitted.\nName the batches: batches="),
        ([A], ["0", "1"], InputError, "batches names 2 batch(es) for 1 data set(s).\n"),
        ([A[:, :9]], ["0"], GenesError, "batch 0 has 9 genes, but the fit had 40.\n"),
    ]:
        with pytest.raises(error) as caught:
            corrector.transform(datas, batches)
        assert words in str(caught.value)


@pytest.mark.parametrize("datas", [A, "a.zarr", sparse.csr_matrix(A)], ids=lambda d: type(d).__name__)
def test_estimator_takes_a_list(datas):
    with pytest.raises(InputTypeError, match=r"(?s)\n.*\[.*\]"):
        MNNCorrector(k=3).fit(datas)


def test_estimator_takes_one_anndata_that_contains_all_batches():
    adata, _ = one_anndata(["x", "y", "z"])
    corrector = MNNCorrector(k=5, batch_key="sample")
    alone = corrector.fit_transform(adata)
    np.testing.assert_allclose(alone.X, corrector.fit([adata]).transform(adata).X, atol=1e-12)
    np.testing.assert_allclose(alone.X, corrector.fit(adata).transform([adata]).X, atol=1e-12)
    assert not hasattr(corrector, "set_output")  # results are never wrapped
