"""Progress as it is seen: in a terminal, in a notebook, of a cluster, of calls at once."""

from __future__ import annotations

import logging
import pickle
import re
import sys
import threading
import time

import dask.array as da
import numpy as np
import pytest
from helpers import as_anndata
from terminals import BATCHES, STAGES, Terminal, check_stages, seen, terminal

from mnndask import MNNCorrector, mnn_correct
from mnndask import _progress as progress
from mnndask.api import progress_bars
from mnndask.errors import InputTypeError

# ---------------------------------------------------------------- the call


@pytest.mark.lowest
def test_a_call_in_a_terminal_leaves_a_line_for_each_stage():
    with terminal() as seen_there:
        mnn_correct(*BATCHES, k=5)
    assert "\r" in seen_there.getvalue()
    check_stages(seen_there.lines(), STAGES)


def test_a_line_moves_with_the_blocks_that_are_done(monkeypatch):
    monkeypatch.setattr("mnndask.engine.apply.ROWS_AT_ONCE", 20)
    moved = []
    monkeypatch.setattr(progress.Line, "advance", lambda self, n: moved.append(n))
    with terminal():
        mnn_correct(*BATCHES, k=5, n_jobs=1)
    assert moved[-7:] == [20, 20, 20, 20, 20, 20, 10]


def test_many_merges_are_one_stage(caplog, monkeypatch):
    monkeypatch.setattr("mnndask.core.fit.MANY_MERGES", 1)
    caplog.set_level(logging.INFO, logger="mnndask")
    with terminal() as seen_there:
        mnn_correct(*BATCHES, BATCHES[0] + 0.1, k=5)
    assert "merging: 2 batches in" in caplog.text
    assert "pairs of batch" not in caplog.text
    assert any("merging" in line for line in seen_there.lines())


@pytest.mark.parametrize("asked", [False, None])
def test_nothing_is_shown_unasked_for_or_where_nobody_looks(asked, capsys, monkeypatch):
    if asked is None:
        monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    with terminal() as seen_there:
        mnn_correct(*BATCHES, k=5, show_progress=asked)
    assert seen_there.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_progress_can_be_asked_for_where_nobody_looks(capsys):
    corrector = MNNCorrector(k=5, show_progress=True).fit(BATCHES)
    check_stages(seen(capsys.readouterr().err), STAGES[:3])
    corrector.transform(BATCHES)
    check_stages(seen(capsys.readouterr().err), STAGES[3:])


def test_stages_are_logged_in_any_case(caplog):
    with caplog.at_level(logging.INFO, logger="mnndask"):
        mnn_correct(*BATCHES, k=5)
    told = [r.getMessage() for r in caplog.records if r.name == "mnndask._progress"]
    assert [line.split(":")[0] for line in told] == STAGES
    assert re.fullmatch(r"correcting all cells: 130 cells in \d+\.\d s", told[-1])


@pytest.mark.parametrize("wrong", ["yes", 1, 0.5])
def test_other_values_are_refused(wrong):
    with pytest.raises(InputTypeError, match="show_progress is"):
        mnn_correct(*BATCHES, show_progress=wrong)


def test_it_changes_no_result_and_is_not_recorded():
    batches = [as_anndata(X, str(i)) for i, X in enumerate(BATCHES)]
    with terminal() as seen_there:
        shown, quiet = (mnn_correct(*batches, k=5, show_progress=show)[0] for show in (True, False))
    assert seen_there.lines()
    np.testing.assert_array_equal(shown.X, quiet.X)
    assert list(shown.uns["mnn"]["parameters"]) == list(quiet.uns["mnn"]["parameters"])
    assert "show_progress" not in shown.uns["mnn"]["parameters"]


def test_stages_of_a_fit_on_disk():
    lazy = [da.from_array(X, chunks=(20, -1)) for X in BATCHES]
    options = {"k": 5, "svd_dim": 2, "compute_angle": True}
    with terminal() as seen_there:
        result = mnn_correct(*lazy, **options, memory_limit=250_000)[0]
        before = seen_there.getvalue()
        result.compute()
    found = [line for line in seen_there.lines() if "%|" in line]
    biology = "finding biology of batch 2 of 2"
    check_stages(found, ["reading cells", *STAGES[:2], biology, STAGES[2], "computing angles"])
    assert seen_there.getvalue() == before


def test_an_error_takes_the_line_away():
    def fail():
        with progress_bars.showing(True), progress.stage("working", 10):
            progress.advance(4)
            msg = "broken"
            raise ValueError(msg)

    with terminal() as seen_there:
        with pytest.raises(ValueError, match="broken"):
            fail()
        assert "working:" in seen_there.getvalue()
        print("broken", file=sys.stderr)
    assert seen_there.lines() == ["broken"]


def test_threads_that_end_after_their_stage_write_nothing():
    with terminal() as seen_there:
        with progress_bars.showing(True), progress.stage("working", 10):
            late = progress.counted(lambda at: at)
        before = seen_there.getvalue()
        late(slice(0, 5))
    assert "working: 100%" in before
    assert seen_there.getvalue() == before


def test_calls_at_once_show_all_of_their_own_stages():
    """Each on its thread; a third, which is to be quiet, is."""
    start, results = threading.Barrier(3), {}

    def call(show):
        start.wait()
        results[threading.get_ident()] = mnn_correct(*BATCHES, k=5, show_progress=show, n_jobs=2)[0]

    threads = [threading.Thread(target=call, args=(show,)) for show in (True, True, False)]
    with terminal() as seen_there:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = mnn_correct(*BATCHES, k=5, show_progress=False)[0]
    assert len(results) == 3
    for result in results.values():
        np.testing.assert_allclose(result, expected, atol=1e-10)
    finished = re.findall(r"([a-z][\w ]*): 100%\|[^\r\n]*\n", seen_there.getvalue())
    assert sorted(finished) == sorted(2 * STAGES)


# ---------------------------------------------------------------- notebooks and clusters


@pytest.mark.filterwarnings("ignore:IProgress not found")  # by tqdm.auto, asked for all the same
@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_gets_its_own_bar(monkeypatch, widgets):
    """As tqdm.auto chooses it, whatever stderr is; in text where there are no widgets."""
    made = []

    class Bar:
        def __init__(self, **options):
            self.options, self.n = options, 0
            made.append(self)

        def update(self, n):
            self.n += n

        def close(self):
            self.closed = True

    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", object())
    monkeypatch.setattr("tqdm.auto.tqdm" if widgets else "tqdm.tqdm", Bar)
    monkeypatch.setattr(progress_bars, "find_spec", {"ipywidgets": widgets}.get)
    mnn_correct(*BATCHES, k=5)
    assert [bar.options["desc"] for bar in made] == STAGES
    assert [bar.n for bar in made] == [130, 70, 70, 130]
    assert all(bar.closed and bar.leave for bar in made)


def test_what_is_counted_goes_to_other_processes_alone():
    with terminal(), progress_bars.showing(True), progress.stage("working", 10):
        function = progress.counted(abs)
        assert function is not abs
        assert pickle.loads(pickle.dumps(function)) is abs


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
def test_tasks_that_a_cluster_has_finished_are_counted(client, monkeypatch):
    moved, advance = [], progress.Line.advance

    def noted(self, n):
        moved.append(n)
        advance(self, n)

    def slowly(block):
        time.sleep(0.12 * bool(block.size))
        return block

    monkeypatch.setattr(progress.Line, "advance", noted)
    lazy = [da.from_array(X, chunks=(10, -1)).map_blocks(slowly, dtype=X.dtype) for X in BATCHES]
    with terminal() as seen_there:
        corrected = mnn_correct(*lazy, k=5)[0]
    assert 10 <= moved[0] < 130  # the first of 13 tasks of 120 ms on two workers, looked at every 200 ms
    assert moved[0] == pytest.approx(round(moved[0] / 10) * 10)
    assert seen_there.lines()[0].startswith("reading cells: 100%")
    assert corrected.shape == (130, 40)
