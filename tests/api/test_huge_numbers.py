"""Numbers beyond 64 bits are refused before any work, by every option and parameter that is an integer."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from helpers import as_anndata, make_batches, no_compute

from mnndask import MNNCorrector, mnn_correct
from mnndask.cli.commands import correct
from mnndask.cli.commands import simulate as simulate_command
from mnndask.cli.main import main
from mnndask.datasets.simulated import simulate, simulate_to_zarr
from mnndask.errors import InputError

A, B = make_batches((24, 20))
HUGE = (2**63, 10**30, -(2**63), -(10**30))
NEEDS = {  # other parameters without which one is refused for another reason
    "ncv": {"svd_mode": "irlb", "svd_dim": 2},
    "maxiter": {"svd_mode": "irlb", "svd_dim": 2},
    "tol": {"svd_mode": "irlb", "svd_dim": 2},
    "pair_averaging": {"refine": True},
    "shrinkage": {"refine": True},
}
NUMBERS = ("k", "sigma", "svd_dim", "n_components", "sketch_size", "random_state", "n_jobs", "memory_limit")
NUMBERS += ("pair_averaging", "shrinkage")
OF_COMMAND = {p.opts[0]: p.name for p in correct.params if p.type.name in {"integer", "float", "N|auto|none"}}


def test_every_number_of_the_signature_is_among_these():
    annotations = {name: str(p.annotation) for name, p in inspect.signature(mnn_correct).parameters.items()}
    whole = {name for name, kind in annotations.items() if "int" in kind.replace("Sequence[int | str]", "")}
    assert whole <= set(NUMBERS)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name", [*NUMBERS, *NEEDS])
def test_parameters(name, value):
    options = NEEDS.get(name, {}) | {name: value}
    with no_compute(), pytest.raises(InputError, match=name) as caught:
        mnn_correct(A, B, **options)
    assert len(str(caught.value).splitlines()) == 2
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", HUGE[1:3])
def test_parameters_of_the_estimator(value):
    with pytest.raises(InputError, match="k is a number of"):
        MNNCorrector(k=value).fit([A, B])


@pytest.mark.parametrize("value", HUGE[:2])
def test_positions_of_batches(value):
    with pytest.raises(InputError, match="mnn_order"):
        mnn_correct(A, B, mnn_order=[0, value])
    with pytest.raises(InputError, match=r"restrict of batch '1' (names rows outside|is not)"):
        mnn_correct(A, B, restrict=[None, [value]])


@pytest.mark.parametrize("value", [2**31, 2**62, 2**63 - 1])
def test_numbers_that_fit_mean_all(value):
    with pytest.warns(UserWarning, match=f"k={value} is more than the 20 cells"):
        X = mnn_correct(A, B, k=value, sketch_size=value)[0]
    with pytest.warns(UserWarning, match="k=24 is more than the 20 cells"):
        np.testing.assert_array_equal(X, mnn_correct(A, B, k=24)[0])


@pytest.fixture
def inputs(tmp_path):
    for name, X in (("a", A), ("b", B)):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")
    return [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]


def fails(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(list(words))
    out, err = capsys.readouterr()
    assert end.value.code == 2, err
    assert out == ""
    assert err.startswith("mnndask: ")
    assert err.count("\n") == 1
    return err


def test_options_of_the_command(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mnndask.core.fit.fit", None)  # nothing is fitted
    assert {"-k", "--sketch-size", "--ncv", "--n-components", "--random-state", "--n-jobs"} <= set(OF_COMMAND)
    for option, name in OF_COMMAND.items():
        needs = ["--svd-mode", "irlb", "--svd-dim", "2"] if name in NEEDS else []
        for value in ("9" * 30, "-" + "9" * 30):
            words = ["correct", *inputs, *needs, option, value, "-o", str(tmp_path / "out.zarr")]
            if option in {"--sigma", "--tol"}:
                words[words.index(value)] = value[:-30] + "9" * 400  # of floats: infinite
            assert option.strip("-") in fails(capsys, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5ad", "b.h5ad"}


@pytest.mark.parametrize(
    "name", ["n_cells", "n_genes", "n_batches", "n_types", "counts_per_gene", "batch_effect", "seed"]
)
@pytest.mark.parametrize("value", HUGE[1:])
def test_simulated_data(name, value, tmp_path, capsys):
    for call in (
        lambda **options: simulate(**options),
        lambda **options: simulate_to_zarr(tmp_path, **options),
    ):
        with pytest.raises(InputError, match=name):
            call(**{name: value})
    if name in {"counts_per_gene", "batch_effect"}:
        return
    option = f"--{name.replace('_', '-')}"
    assert option in {p.opts[0] for p in simulate_command.params}
    assert name in fails(capsys, "simulate", "-o", str(tmp_path / "out"), option, str(value))
    assert list(tmp_path.iterdir()) == []
