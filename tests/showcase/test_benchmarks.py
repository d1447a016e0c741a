"""Benchmarks run, at toy size, so that they never rot."""

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import psutil
import pytest
import zarr
from scipy import sparse

from benchmarks import (
    cluster,
    components,
    data,
    donors,
    drawing,
    embedding,
    fuzz,
    growth,
    kills,
    limit,
    many_batches,
    million,
    orders,
    plain_pass,
    quality,
    refined,
    road,
    soak,
    threads,
    tiled,
    verdicts,
)
from benchmarks.memory import Sampler, measured, tree_bytes

HERE = Path(__file__).parents[2]


@pytest.fixture
def toy(tmp_path, capsys):
    """Run a benchmark at toy size: its figures, and what it printed."""

    def run(module, *args):
        module.main(["--toy", "--json", str(tmp_path / "figures.json"), *map(str, args)])
        told = json.loads((tmp_path / "figures.json").read_text())
        assert module.__name__ == f"benchmarks.{told['benchmark']}"
        assert told["packages"]["mnndask"]
        assert told["cpu"]
        return told["figures"], capsys.readouterr().out

    return run


def test_whole_call_prints_its_figures():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "120", "30", "1"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["whole_call"]
    assert figures["n_cells"] == 120
    assert figures["in_memory_s"] > 0
    assert figures["through_files_s"] > 0


def test_an_embedding_is_corrected_beside_harmony(toy):
    pytest.importorskip("harmonypy")
    rows, _ = toy(embedding)
    assert [row["call"] for row in rows] == ["mnn_integrate", "mnn_integrate, measured", "harmonypy"]
    assert all(row["wall_s"] > 0 and 1 <= row["lisi_batch"] <= 4 for row in rows)


def test_the_road_from_raw_files_is_measured(toy):
    rows, _ = toy(road)
    assert [row["road"] for row in rows][:2] == [
        "mnndask, coordinates",
        "mnndask, variable genes and coordinates",
    ]
    assert all(row["wall_s"] > 0 and 1 <= row["lisi_batch"] <= 4 for row in rows[:2])


def test_million_measures_the_command_and_a_plain_pass(toy, tmp_path):
    figures, said = toy(million, "--data", tmp_path / "data")
    assert json.loads(said)["figures"] == figures
    [size] = figures["sizes"]
    assert size["n_cells"] == 200
    assert size["correct"]["peak_mb"] > size["correct"]["after_import_mb"] > 0
    assert size["cells_per_s"] == pytest.approx(200 / size["correct"]["wall_s"], rel=0.01)
    assert size["times_the_plain_pass"] > 0
    assert size["in_components_times_the_plain_pass"] > 0
    # Each of three batches against those before it, 20 sketched cells of each, all of which may be anchors.
    assert 0 < size["flops"] <= 2 * 50 * 200 * (2 * 60 + 2 * 20 + 20)
    assert len(list((tmp_path / "data" / "200").glob("batch?.zarr"))) == 4


def test_limit_counts_each_product_once(toy):
    figures, _ = toy(limit)
    [exact] = figures["exact"]
    assert exact["flops"] == 2 * 60 * 120 * (4 * 120 + exact["anchors"])
    genes, components = figures["application"]
    assert (genes["n_components"], components["n_components"]) == (None, 30)
    assert genes["flops"] == 2 * 60 * 200 * (4 * 100 + genes["anchors"])
    assert min(of["elapsed_over_products"] for of in (exact, genes, components)) > 0


def test_growth_is_of_time_a_cell_and_of_peak_memory():
    sizes = [{"us_per_cell": t, "correct": {"peak_mb": m}} for t, m in ((100, 1000), (0, 0), (110, 1050))]
    assert million.growth(sizes) == {"time_per_cell": 1.1, "peak": 1.05}


def test_donors_compares_numbers_of_batches(toy):
    rows, _ = toy(donors)
    assert [row["batches"] for row in rows] == [2, 6] * 3
    assert all(row["seconds"] > 0 and row["peak_mb"] > 0 for row in rows)
    assert [row["times"] for row in rows[::2]] == [1.0] * 3


def test_orders_compares_orders_and_designs(toy):
    rows, _ = toy(orders)
    assert {row["set"] for row in rows} == {"3 batches", "nested"}
    nested = {row["order"]: row for row in rows if row["set"] == "nested"}
    assert {"tree", "given, in studies first"} <= set(nested)
    assert all(row["warned"] == 1 and row["fold_changes"] > 0.9 for row in nested.values())
    assert all(1 <= row["lisi"] <= 4 for row in rows)


def test_many_batches_corrects_all_genes(toy):
    figures, _ = toy(many_batches)
    assert figures["shape"] == [300, 200]
    assert figures["n_genes_for_distances"] == 120
    assert figures["correct"]["wall_s"] > 0


def test_tiled_equals_in_memory(toy):
    figures, _ = toy(tiled)
    assert figures["largest_difference"] < 1e-4
    assert figures["times_in_memory"] > 0


def test_refined_compares_fits_with_and_without(toy):
    figures, _ = toy(refined)
    assert set(figures) == {"components", "genes"}
    assert all(len(of["ratios"]) == 2 and of["ratio"] > 0 for of in figures.values())


def test_threads_compares_with_a_matrix_product(toy):
    figures, _ = toy(threads)
    assert set(figures) == {"mnn_correct", "application", "matrix_product"}
    assert all(figure["speed_up"] > 0 for figure in figures.values())


def test_drawing_is_measured_in_reads(toy):
    figures, _ = toy(drawing)
    assert set(figures) == {"read_s", "mixed", "geometric", "random"}
    assert figures["geometric"]["reads"] > 0


def test_quality_compares_every_sketch_with_all_cells(toy):
    figures, said = toy(quality, "--random-states", 0, 1)
    assert " ± 0.0" in said
    assert len(said.splitlines()) == 2 + len(figures)
    assert [row["cells"] for row in figures[:4]] == [
        "evenly mixed",
        "uncorrected",
        "all cells",
        "100 a batch, mixed",
    ]
    assert len(figures) == 2 + 2 * (1 + 3)
    assert all(0 < row["error"] < 2 and row["cosine"] > 0 for row in figures if "error" in row)


def test_components_are_compared_with_genes(toy):
    figures, said = toy(components)
    assert len(said.splitlines()) == 2 + len(figures) == 2 + 1 + 2 * 2
    assert [row["components"] for row in figures] == ["uncorrected", "genes", "5", "genes", "5"]
    assert all(0 < row["cosine"] <= 1 for row in figures if row["components"] == "5")
    assert figures[0]["kept"] == figures[0]["contraction"] == 1


def test_verdicts_are_compared_with_what_was_done(toy):
    figures, said = toy(verdicts)
    assert [row["kind"] for row in figures] == ["mixed as expected", "still apart", "over-corrected"]
    assert all(row["verdicts"] for row in figures)
    assert "over-corrected: 1 of 1 right" in said


def test_growth_varies_one_quantity_at_a_time(toy, tmp_path):
    figures, said = toy(growth, "--plot", tmp_path / "growth.png")
    assert [row["varied"] for row in figures] == [
        name for name in ("cells", "genes", "sketch", "batches") for _ in range(2)
    ]
    assert len(said.splitlines()) == 2 + len(figures)
    assert all(row["fit_s"] > 0 and row["apply_s"] > 0 for row in figures)
    assert (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"


def test_powers_are_slopes_in_logarithms():
    rows = [{"varied": "cells", "cells": n, "fit_s": 7.0, "apply_s": 1e-3 * n} for n in (10, 100, 1000)]
    assert growth.with_powers(rows)[-1] | rows[-1] == growth.with_powers(rows)[-1]
    assert growth.with_powers(rows)[-1]["apply_power"] == 1.0
    assert growth.with_powers(rows)[-1]["fit_power"] == 0.0


def test_memory_is_that_of_the_whole_tree():
    """A child's child holds 80 MB."""
    hold = "import time; held = bytearray(80_000_000); print('held', flush=True); time.sleep(60)"
    spawn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen([sys.executable, "-c", spawn], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            with Sampler(process.pid) as sampler:
                time.sleep(0.1)
            assert 80e6 < tree_bytes(process.pid) < 200e6
            assert 80e6 < sampler.peak < 200e6
        finally:
            for child in psutil.Process(process.pid).children():
                child.kill()
    assert tree_bytes(process.pid) == 0


def test_peak_counts_what_was_freed_before_the_end():
    code = "import time; held = bytearray(60_000_000); time.sleep(0.3); del held; time.sleep(0.1)"
    figures = measured(["-c", code])
    assert 60 < figures["peak_mb"] < 90
    assert figures["peak_above_import_mb"] == pytest.approx(figures["peak_mb"] - figures["after_import_mb"])
    assert figures["wall_s"] > 0.4


def test_a_command_that_fails_says_why():
    with pytest.raises(SystemExit, match="ended with status 3:\nno such luck"):
        measured(["-c", "import sys; print('no such luck'); sys.exit(3)"])


def test_vectors_are_compared_over_the_cells_that_are_moved():
    V = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    assert quality.compared(V, V) == {"error": 0.0, "cosine": 1.0}
    assert quality.compared(-V, V) == {"error": 2.0, "cosine": -1.0}


def test_the_plain_pass_normalises_into_the_same_layout(tmp_path):
    batches = data.stored(tmp_path / "data", [70, 50], 40, 2)
    X = sparse.vstack([ad.read_zarr(path).X for path in batches]).toarray()
    like = tmp_path / "like.zarr"
    zarr.create_array(like / "X", shape=(120, 40), chunks=(32, 40), dtype="float32")
    zarr.open_group(like, mode="a")
    plain_pass.plain_pass(batches, tmp_path / "out.zarr", like)
    out = zarr.open_array(tmp_path / "out.zarr", mode="r")
    assert out.chunks == (32, 40)
    np.testing.assert_allclose(out[:], X / np.maximum(np.linalg.norm(X, axis=1), 1e-8)[:, None], rtol=1e-5)


def test_every_benchmark_names_the_batch_effect_of_its_figures():
    calls = [
        node
        for path in sorted((HERE / "benchmarks").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"simulate", "simulate_to_zarr"}
    ]
    assert len(calls) >= 8
    assert all("batch_effect" in {k.arg for k in call.keywords} for call in calls)
    assert data.EFFECT == 0.45


def test_stored_data_of_other_sizes_is_not_taken_for_what_was_asked(tmp_path):
    data.stored(tmp_path, 60, 20, 2)
    assert len(data.stored(tmp_path, 60, 20, 2)) == 2
    with pytest.raises(SystemExit, match="contains 60 cells x 20 genes in 2 batches"):
        data.stored(tmp_path, 70, 20, 2)


@pytest.mark.xdist_group("cluster")
def test_cluster_compares_workers_with_threads_and_kills_one(toy, tmp_path):
    figures, _ = toy(cluster, "--data", tmp_path / "data")
    assert figures["two_workers_s"] > 0
    assert figures["workers_over_threads"] > 0
    assert figures["n_chunks"] > 0
    assert figures["on_the_wire_mb"] > 0
    assert figures["killed_worker"]["until_a_new_worker_s"] > 0


@pytest.mark.xdist_group("cluster")
def test_soak_watches_all_processes(toy):
    figures, _ = toy(soak)
    assert list(figures) == ["scheduler", "workers", "client"]
    assert min(of["after_last_mb"] for of in figures.values()) > 20
    assert max(of["growth_mb_per_run"] for of in figures.values()) < 30


def test_kills_leave_whole_outputs(toy):
    figures, said = toy(kills)
    assert sum(of["kills"] for of in figures.values()) >= 3
    assert [of["faults"] for of in figures.values()] == [[]] * len(figures)
    assert all(of["right_values"] == of["kills"] for of in figures.values())
    assert any(of["clear_errors"] for of in figures.values())
    assert said.count("\n|") == len(figures) + 2


def test_fuzz_counts_what_becomes_of_each_mutant(toy):
    figures, said = toy(fuzz)
    counts = figures["table"]
    assert sum(sum(of.values()) for of in counts.values()) == 11  # one of each kind
    assert len(counts) == 11
    assert figures["faults"] == []
    last = said.splitlines()[-1].split()
    assert last[:2] == ["all", "11"]
    assert last[-1] == "0"


def test_fuzz_runs_one_mutant_again(toy):
    figures, said = toy(fuzz, "--only", 9)
    assert [one["number"] for one in figures["only"]] == [9]
    assert figures["only"][0]["damage"] in said


def test_fuzz_goes_on_after_a_mutant_that_ends_or_stops_the_process(tmp_path, monkeypatch):
    """A worker that dies at its second mutant and hangs at its third."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "mutant_runs.py").write_text(
        "import json, sys, time\n"
        "for i in range(*map(int, sys.argv[sys.argv.index('--numbers') + 1 :])):\n"
        "    print(json.dumps({'number': i}), flush=True)\n"
        "    sys.exit(7) if i == 1 else time.sleep(60) if i == 2 else None\n"
        "    print(json.dumps({'number': i, 'verdict': 'right values'}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "HERE", tmp_path)
    done = list(fuzz.outcomes(tmp_path, 0, range(5), 2))
    assert [one["number"] for one in done] == [0, 1, 2, 3, 4]
    assert [one["verdict"] for one in done] == [
        "right values",
        "fault",
        "fault",
        "right values",
        "right values",
    ]
    assert done[1]["detail"] == "the process ended with status 7"
    assert done[2]["detail"] == "no answer in time"
