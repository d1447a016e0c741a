"""Verdicts: right on sets whose outcome is known, never misled by missing types, with a next step."""

import logging
import re

import numpy as np
import pandas as pd
import pytest

from mnndask import mnn_correct
from mnndask.cli.words import in_words_of_command
from mnndask.datasets.simulated import simulate
from mnndask.diagnostics.shared_cells import merged_share, sharing
from mnndask.diagnostics.verdict import NO_VERDICT, verdict_lines, verdicts
from mnndask.metrics.neighborhoods import nearest_cells

MIXED = {"n_components": 15}


def without(batches, batch, *types):
    lacking = {f"type{t}" for t in types}
    return [b[~b.obs["cell_type"].isin(lacking)].copy() if i == batch else b for i, b in enumerate(batches)]


def with_effects_by_type(batches):
    """The second batch has a batch effect of its own on each cell type."""
    types = batches[1].obs["cell_type"].cat.codes.to_numpy()
    effects = np.exp(np.random.default_rng(0).normal(0, 0.8, (types.max() + 1, batches[1].n_vars)))
    batches[1].X = batches[1].X.expm1().multiply(effects[types]).log1p().tocsr()
    return batches


def two(seed, sizes=(260, 220), n_genes=120):
    return simulate(list(sizes), n_genes, 2, n_types=4, batch_effect=0.45, seed=seed)


def outcomes(batches, **options):
    uns = mnn_correct(*batches, var_subset=batches[0].var_names, **options)[0].uns["mnn"]
    return [verdict.outcome for verdict in verdicts(uns["steps"], uns["mixing"], uns["parameters"])]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("expected", "data", "options"),
    [
        ("mixed as expected", two, MIXED),
        ("mixed as expected", lambda seed: two(seed, (300, 60)), MIXED),
        ("mixed as expected", lambda seed: without(two(seed), 0, 1), MIXED),
        ("mixed as expected", lambda seed: without(two(seed), 1, 0), MIXED),
        ("mixed as expected", lambda seed: without(without(two(seed), 0, 1), 1, 2), MIXED),
        ("still apart", two, {"svd_dim": 40}),
        ("still apart", lambda seed: with_effects_by_type(two(seed, n_genes=300)), {}),
        ("over-corrected", two, {"k": 200, "sigma": 0.03}),
        ("over-corrected", lambda seed: without(two(seed), 0, 1, 2, 3), {"k": 60, "sigma": 0.05}),
    ],
    ids=[
        "mixed",
        "unequal",
        "first lacks",
        "second lacks",
        "both lack",
        "no biology",
        "by type",
        "all",
        "one",
    ],
)
def test_what_became_of_batches_is_seen(expected, data, options, seed):
    assert outcomes(data(seed), **options) == [expected]


def blobs(rng, counts, at):
    return np.concatenate([rng.normal(size=(n, 8)) + 12 * np.eye(8)[t] for t, n in counts.items()]) + at


def shares(new, reference, pairs):
    both = np.concatenate([new, reference])
    from_new = (nearest_cells(both, 15) < len(new)).mean(axis=1)
    return sharing(new, reference, pairs, from_new)


def pairs_of(new_types, reference_types):
    """Every cell of a type that both have is in a pair."""
    out = []
    for t in set(new_types) & set(reference_types):
        new, ref = np.flatnonzero(new_types == t), np.flatnonzero(reference_types == t)
        out += [(n, ref[i % len(ref)]) for i, n in enumerate(new)]
        out += [(new[i % len(new)], r) for i, r in enumerate(ref)]
    return tuple(np.array(out).T)


@pytest.mark.parametrize("at", [0, 6])
def test_separation_depends_neither_on_composition_nor_on_types_of_one_side(at):
    rng = np.random.default_rng(0)
    counts, of_reference = {0: 120, 1: 20, 2: 80}, {0: 30, 1: 150, 3: 90}
    types = [np.repeat(list(c), list(c.values())) for c in (counts, of_reference)]
    found = shares(blobs(rng, counts, at), blobs(rng, of_reference, 0), pairs_of(*types))
    separation = found["own_share"] - found["matched_share"]
    assert separation > 0.9 if at else abs(separation) < 0.12
    assert found["separation_low"] > 0.9 if at else found["separation_low"] < 0.12


def test_too_few_pairs_are_not_judged():
    rng = np.random.default_rng(0)
    found = shares(rng.normal(size=(60, 8)), rng.normal(size=(60, 8)), (np.arange(3), np.arange(3)))
    assert np.isnan(list(found.values())).all()


def test_merged_types_are_told_from_moved_and_from_scrambled_ones():
    rng = np.random.default_rng(0)
    before = blobs(rng, {0: 200, 1: 200}, 0)
    merged = before - 12 * np.repeat(np.eye(8)[:2], 200, axis=0)
    scrambled = np.concatenate([rng.permutation(before[:200]), rng.permutation(before[200:])])
    assert merged_share(before, before + 3) == 0
    assert merged_share(before, merged) > 0.4
    assert merged_share(before, scrambled) < 0.25 * merged_share(before, merged)
    assert np.isnan(merged_share(before[:5], merged[:5]))


def steps_with(**measures):
    base = {"batch": "B", "n_used": 100, "paired": 0.5, "own_share": 0.5, "matched_share": 0.5}
    row = base | {"separation_low": 0.0, "merged": 0.0} | measures
    return pd.DataFrame([{"batch": "A", "n_used": 100}, row])


APART = {"own_share": 0.9, "matched_share": 0.2, "separation_low": 0.6}


@pytest.mark.parametrize(
    ("measures", "parameters", "line"),
    [
        ({}, {}, r"B: mixed as expected\. .* 50% .* 50% .*: nearly equal, as in mixed batches\.$"),
        ({"own_share": 0.6, "matched_share": 0.47}, {}, r"B: mixed as expected.*: not equal, but closer"),
        (APART | {"separation_low": 0.1}, {}, "B: mixed as expected"),
        (APART, {"sigma": 1.0, "k": 20}, r"90% .* 20% .* Try n_components=50 and sigma=0\.1\.$"),
        (APART, {"sigma": 1.0, "n_components": 50}, r"Try sigma=0\.1\.$"),
        (APART, {"sigma": 0.1, "n_components": 50, "k": 20}, "Try k=40. Use only highly variable genes"),
        (APART, {"svd_dim": 3}, r"still apart.*Leave out svd_dim"),
        (APART | {"paired": 0.01}, {"k": 5}, r"Try k=20\. Another reference"),
        ({"merged": 0.3}, {"k": 90}, r"B: over-corrected\. 30% .* Try k=20\.$"),
        ({"merged": 0.3}, {"k": 20, "sigma": 0.01}, r"Try sigma=0\.1\.$"),
        ({"merged": 0.3}, {"k": 20, "sigma": 1.0}, r"Try k=10\. Check that"),
        ({"own_share": np.nan}, {"k": 5}, r"B: not judged\. It has too few cells or pairs\. Try k=10\.$"),
    ],
)
def test_each_verdict_names_its_figure_and_the_next_step(measures, parameters, line):
    [said] = verdict_lines(steps_with(**measures), None, parameters)
    assert re.search(line, said), said
    [said] = verdict_lines(steps_with(**measures), None, parameters, in_words_of_command)
    assert not re.search(r"\w=\d|svd_dim|mnn_order|var_subset", said)


def test_a_batch_that_is_drawn_together_is_over_corrected():
    mixing = pd.DataFrame({"contraction": [1.0, 0.1]}, index=["A", "B"])
    [verdict] = verdicts(steps_with(**APART), mixing, {})
    assert verdict.outcome == "over-corrected"
    assert "0.10 times" in verdict.figure


def test_records_without_the_measures_have_no_verdict():
    steps = steps_with().drop(columns=["merged"])
    assert verdicts(steps, None, {}) == []
    assert verdict_lines(steps, None, {}) == [NO_VERDICT]


def test_verdicts_are_logged(caplog):
    with caplog.at_level(logging.INFO, "mnndask"):
        outcomes(two(1), **MIXED)
    assert [r.message for r in caplog.records if r.message.startswith("batch1: mixed as expected. ")]


@pytest.mark.parametrize("shares", [(1, 1), (4, 1), (1, 1, 1)])
def test_random_parts_of_a_batch_have_no_effect_and_batches_have_one(shares):
    options = {"k": 10, "sigma": 0.15, "var_adj": False, "refine": True, "n_components": 20}
    [whole, other] = simulate([600, 300], 120, 2, n_types=4, seed=1)
    part = np.random.default_rng(0).choice(len(shares), whole.n_obs, p=np.divide(shares, sum(shares)))
    del whole.obs["batch"], other.obs["batch"], whole.var["highly_variable"], other.var["highly_variable"]
    for batches, said in (
        ([whole[part == i].copy() for i in range(len(shares))], "no effect beyond noise"),
        ([whole, other], "it differs"),
    ):
        uns = mnn_correct(*batches, **options)[0].uns["mnn"]
        lines = verdict_lines(uns["steps"], uns["mixing"], uns["parameters"])
        assert all(f"Batch effect: {said}" in line for line in lines), lines
        lines = verdict_lines(uns["steps"].drop(columns="effect"), uns["mixing"], uns["parameters"])
        assert not any("Batch effect" in line for line in lines)


@pytest.mark.parametrize("measures", [APART, {"merged": 0.3}], ids=["apart", "over-corrected"])
def test_no_effect_does_not_contradict_a_verdict_that_needs_attention(measures):
    [said] = verdict_lines(steps_with(**measures, effect=0.0), None, {})
    assert "no effect" not in said
    [said] = verdict_lines(steps_with(**measures, effect=0.9), None, {})
    assert "Batch effect: it differs" in said


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (0.0, "no effect beyond noise: cells left as they are (vectors were multiplied by 0.00 on average)."),
        (0.3, "no effect beyond noise: cells moved by a part of what pairs suggest (vectors were multiplied"),
        (0.6, "it differs from the batches before it beyond noise (vectors were multiplied by 0.60"),
    ],
)
def test_only_cells_that_stay_are_said_to_be_left(factor, said):
    [line] = verdict_lines(steps_with(effect=factor), None, {})
    assert said in line
