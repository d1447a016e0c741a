"""The comparison of corrections, at toy size: modules stand in for libraries that tests do not install."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from anndata import AnnData

from benchmarks import integration
from benchmarks import integration_data as sets
from benchmarks import integration_methods as methods
from benchmarks.integration_scores import batches_among
from mnndask.datasets.simulated import simulate
from mnndask.metrics import same_batch_fraction


@pytest.fixture
def absent(monkeypatch):
    """Libraries that cannot be imported, installed or not."""
    for name in ("harmonypy", "scanorama", "scranpy", "scib_metrics"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def stand_in(monkeypatch):
    def add(name, **functions):
        module = ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)

    return add


@pytest.fixture
def compare(tmp_path, capsys):
    def run(*args):
        integration.main(["--toy", "--json", str(tmp_path / "figures.json"), *map(str, args)])
        told = json.loads((tmp_path / "figures.json").read_text())
        assert told["benchmark"] == "integration"
        return told["figures"], capsys.readouterr().out

    return run


@pytest.fixture
def data():
    return sets.simulated("2 batches", 0, 120, 0.1)


def test_every_method_is_measured_on_every_set_and_what_is_missing_is_said(absent, compare):
    figures, said = compare("--sets", "2 batches", "5 batches", sets.LARGE)
    assert set(figures["skipped"]) == {"harmonypy", "scanorama", "scranpy", "scib_metrics"}
    assert said.startswith("harmonypy: skipped, cannot be imported: ModuleNotFoundError")
    ours = ["uncorrected", "published defaults", "recommended, genes", "recommended, embedding"]
    runs = {(row["set"], row["seed"], row["method"]) for row in figures["rows"]}
    assert runs >= {(name, s, m) for name in ("2 batches", "5 batches") for s in (0, 1) for m in ours}
    assert (sets.LARGE, 1, "recommended, 60 a batch") in runs
    assert len(runs) == len(figures["rows"]) == 2 * (4 + 4 + 3)
    rows = {(row["set"], row["method"]): row for row in figures["summary"]}
    overall = rows[integration.OVERALL, "recommended, genes"]
    own = [rows[name, "recommended, genes"]["transfer"] for name in ("2 batches", "5 batches")]
    assert overall["transfer"] == pytest.approx(np.mean(own))
    assert rows["2 batches", "uncorrected"]["kept"] == 1
    assert rows["2 batches", "recommended, embedding"]["cpu_seconds"] > 0
    assert said.count("| recommended, genes | genes | ") == 3
    assert "\nmean of simulated:\n" in said


def test_given_files_are_a_set_of_their_own(absent, compare, tmp_path):
    paths = [tmp_path / "a.h5ad", tmp_path / "b.zarr"]
    batches = simulate([60, 50], 120, 2)
    batches[0].write_h5ad(paths[0])
    batches[1].write_zarr(paths[1])
    asked = ["--seeds", 0, "--methods", "uncorrected", "--data", *paths]
    figures, said = compare("--sets", "given", "2 batches", *asked)
    assert [row["set"] for row in figures["rows"]] == ["given", "2 batches"]
    assert "\ngiven:\n" in said
    assert integration.OVERALL not in said  # of one set
    asked = ["--sets", "given", *asked]
    with pytest.raises(SystemExit, match=r"a\.h5ad has no column line in obs; name that"):
        compare(*asked, "--label", "line")
    with pytest.raises(SystemExit, match="--data names 1 file; give one for each batch"):
        compare(*asked[:-1])
    with pytest.raises(SystemExit, match="--sets given: no files; name them with --data"):
        compare("--sets", "given")
    with pytest.raises(SystemExit, match="unknown methods: seurat; known: uncorrected, "):
        compare("--methods", "seurat")


def test_a_run_adds_its_rows_to_those_of_earlier_ones(absent, compare, tmp_path):
    asked = ["--sets", "2 batches", "--methods", "uncorrected"]
    first, _ = compare(*asked, "--seeds", 0)
    (tmp_path / "earlier.json").write_text(json.dumps({"figures": first}))
    both, _ = compare(*asked, "--seeds", 1, "--earlier", tmp_path / "earlier.json")
    assert both["rows"][0] == first["rows"][0]
    assert [row["seed"] for row in both["rows"]] == [0, 1]
    assert len(both["summary"]) == 1


def test_simulated_sets_are_what_they_are_called():
    made = {name: make(0) for name, make in sets.simulated_sets(60, 0.2).items()}
    assert len(made["20 batches"]) == 20
    lacking = [set(b.obs["cell_type"]) for b in made["types missing"]]
    assert not {"type0", "type3"} & lacking[0]
    assert not {"type1", "type4"} & lacking[1]
    assert {"type0", "type1", "type3"} <= lacking[2]
    sizes = [b.n_obs for b in made["unequal sizes"]]
    assert sizes[0] > 4 * sizes[2]
    depth = [b.X.getnnz() / b.n_obs for b in made["unequal depths"]]
    assert depth[0] > 1.3 * depth[1]


def test_the_embedding_is_the_stored_one_or_that_of_the_corrected_genes(data):
    result, corrector = methods.recommended(data, 0)
    found = methods.embedding(data, (result, corrector))
    assert found.after.shape == (len(data.batch), 50)
    first = data.batch == 0
    np.testing.assert_allclose(found.after[first], found.before[first], atol=1e-6)  # the reference stays
    assert not np.allclose(found.after[~first], found.before[~first], atol=1e-3)
    apart, mixed = (same_batch_fraction(of, data.batch, 15).mean() for of in (found.before, found.after))
    assert mixed < apart
    result.obsm["X_mnn"] = np.ones((result.n_obs, 3))
    assert methods.embedding(data, (result, corrector)).after.shape[1] == 3


@pytest.mark.parametrize("turned", [False, True], ids=["version 2", "version 1"])
def test_harmonypy_gives_cells_by_components(turned, data, stand_in):
    def run_harmony(components, table, key, random_state, verbose):
        assert list(table[key].unique()) == ["0", "1"]
        return SimpleNamespace(Z_corr=2 * (components.T if turned else components))

    stand_in("harmonypy", run_harmony=run_harmony)
    found = methods.harmonypy(data, 0)
    np.testing.assert_allclose(found.after, 2 * found.before)


def test_methods_that_share_a_call_run_once(data, stand_in):
    calls = []

    def correct(matrices, genes, return_dimred, verbose, seed):
        calls.append(seed)
        return [X.toarray()[:, :5] for X in matrices], matrices, genes[0]

    stand_in("scanorama", correct=correct)
    runs = methods.Runs(data, 7)
    (genes, taken), (reduced, same) = (
        runs.of(methods.METHODS[f"scanorama, {gives}"]) for gives in ("genes", "embedding")
    )
    assert calls == [7]
    assert taken is same
    assert genes.after.shape == (len(data.batch), 50)
    assert reduced.after.shape == (len(data.batch), 5)


def test_scranpy_gives_cells_by_components(data, stand_in):
    stand_in(
        "scranpy",
        run_pca=lambda X, number, block, num_threads: {"components": np.ones((number, X.shape[1]))},
        correct_mnn=lambda components, block, num_threads: {"corrected": 3 * components},
    )
    found = methods.scranpy(data, 0)
    assert found.after.shape == found.before.shape == (len(data.batch), 50)
    assert (found.after == 3).all()


def test_batches_among_neighbours_are_counted_alike():
    X = np.arange(6.0)[:, None]
    np.testing.assert_allclose(batches_among(X, np.array([0, 0, 0, 1, 1, 1]), 2), [1, 1, 2, 2, 1, 1])


def test_files_of_other_genes_are_refused(tmp_path):
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, name in zip(paths, "ab", strict=True):
        adata = AnnData(np.ones((3, 2), np.float32))
        adata.var_names, adata.obs["line"] = [f"{name}{i}" for i in range(2)], "x"
        adata.write_h5ad(path)
    with pytest.raises(SystemExit, match=r"b\.h5ad does not have the genes of .*a\.h5ad"):
        sets.given_set(paths, "line")
