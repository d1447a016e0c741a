"""The recommended settings: a mapping for calls, an option for the command; explicit ones win."""

import anndata as ad
import numpy as np
import pytest
from helpers import GENES, as_anndata, make_batches

import mnndask
from mnndask import MNNCorrector, mnn_correct
from mnndask.cli.main import main
from mnndask.io.record import Record


def test_they_are_a_mapping_that_no_one_can_change():
    assert dict(mnndask.RECOMMENDED) == {
        "n_components": 50,
        "k": 10,
        "sigma": 0.15,
        "var_adj": False,
        "refine": True,
    }
    with pytest.raises(TypeError, match="item assignment"):
        mnndask.RECOMMENDED["k"] = 20


def test_a_call_and_the_estimator_take_them():
    batches = make_batches()
    corrected, mnns, _ = mnn_correct(*batches, **mnndask.RECOMMENDED)
    corrector = MNNCorrector(**mnndask.RECOMMENDED)
    np.testing.assert_array_equal(corrector.fit_transform(batches), corrected)
    assert len(mnns[1]) > 0
    assert not np.allclose(corrected, mnn_correct(*batches)[0], atol=1e-3)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run ``mnndask correct``; return the parameters that its result records."""
    monkeypatch.chdir(tmp_path)
    for name, X in zip("ab", make_batches((40, 50)), strict=True):
        as_anndata(X, name).write_h5ad(f"{name}.h5ad")

    def run(*options):
        with pytest.raises(SystemExit, match="0"):
            main(["correct", "a.h5ad", "b.h5ad", "-q", "-o", "out.zarr", "--overwrite", *options])
        return ad.read_zarr("out.zarr")

    return run


def parameters(result):
    return Record.from_uns(result.uns["mnn"], "the result").parameters


def test_the_command_uses_them_for_what_is_not_given(command):
    result = command("--recommended")
    known = parameters(result)
    assert {name: known[name] for name in mnndask.RECOMMENDED} == dict(mnndask.RECOMMENDED)
    expected = mnn_correct(*make_batches((40, 50)), **mnndask.RECOMMENDED)[0]
    np.testing.assert_allclose(result.X, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["--sigma", "1.0"], {"sigma": 1.0}),  # the default of the command without --recommended
        (["-k", "7", "--var-adj", "--no-refine"], {"k": 7, "var_adj": True, "refine": False}),
        (["--n-components", "5"], {"n_components": 5}),
    ],
)
def test_explicit_options_win(words, changed, command):
    known = parameters(command("--recommended", *words))
    assert {name: known[name] for name in mnndask.RECOMMENDED} == dict(mnndask.RECOMMENDED) | changed


def test_options_of_refinement(command):
    known = parameters(
        command("--refine", "--pair-averaging", "4", "--repair-sigmas", "1,0.2", "--shrinkage", "0.5")
    )
    assert (known["refine"], known["pair_averaging"], known["shrinkage"]) == (True, 4, 0.5)
    assert list(known["repair_sigmas"]) == [1.0, 0.2]


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["--shrinkage", "0"], "--shrinkage 0.0 given without --refine. Set --refine, or"),
        (["--refine", "--repair-sigmas", "1,0"], "--repair-sigmas is [1.0, 0.0]."),
        (["--refine", "--repair-sigmas", "1;2"], "'1;2' is not a list of numbers"),
        (["--refine", "--pair-averaging", "0"], "--pair-averaging is 0."),
        (["--refine", "--shrinkage", "-1"], "--shrinkage is -1.0."),
    ],
)
def test_bad_options_get_one_line_before_the_work(words, first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, X in zip("ab", make_batches((40, 50)), strict=True):
        as_anndata(X, name).write_h5ad(f"{name}.h5ad")
    with pytest.raises(SystemExit) as end:
        main(["correct", "a.h5ad", "b.h5ad", "-q", "-o", "out.zarr", *words])
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert len(lines) == 1
    assert first in lines[0]
    assert not (tmp_path / "out.zarr").exists()


def test_steps_record_the_mean_shrink_factor():
    batches = [as_anndata(X, f"b{i}", GENES) for i, X in enumerate(make_batches())]
    steps = mnn_correct(*batches, k=5, refine=True)[0].uns["mnn"]["steps"]
    assert np.isnan(steps["effect"].iloc[0])
    assert steps["effect"].iloc[1:].between(0, 1).all()
    assert "effect" not in mnn_correct(*batches, k=5)[0].uns["mnn"]["steps"]
