"""What can be checked is checked before the work; a complete output is not made a failure afterwards."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import zarr
from helpers import as_anndata, make_batches

from mnndask.cli.main import main
from mnndask.cli.words import in_words_of_command


@pytest.fixture
def inputs(tmp_path):
    """Two files, of which neither has a column of batches."""
    paths = []
    for name, X in zip("ab", make_batches(), strict=False):
        adata = as_anndata(X, name)
        adata.obs["kind"] = ["x", "y"] * (len(X) // 2)
        paths.append(tmp_path / f"{name}.h5ad")
        adata.write_h5ad(paths[-1])
    return paths


@pytest.fixture
def command(inputs, tmp_path, capsys, monkeypatch):
    """Run ``mnndask correct``; return its status, stdout and lines of stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*options, files=inputs, out="out.zarr"):
        with pytest.raises(SystemExit) as end:
            main(["correct", *map(str, files), "-k", "5", "-q", "-o", out, *map(str, options)])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err.splitlines()

    return run


@pytest.fixture
def nothing_is_fitted(monkeypatch):
    monkeypatch.setattr("mnndask.cli.correct.mnn_correct", None)


BEFORE = {
    "a label that no input has": (["--report", "r.html", "--label", "kinds"], "'kinds'"),
    "an existing report": (["--report", "there.html"], "there.html already exists"),
    "a report in no folder": (["--report", "nowhere/r.html"], "does not exist"),
    "a report that is an input": (["--report", "a.h5ad", "--overwrite"], "a.h5ad is an input"),
    "a report that is the output": (["--report", "out.zarr"], "out.zarr is an input or the output"),
    "a report without measures": (["--report", "r.html", "--no-diagnostics"], "--no-diagnostics"),
    "a label without a report": (["--label", "kind"], "no --report"),
    "genes of no subset": (["--genes", "subset"], "--hvg-key COLUMN"),
    "a scheduler file that is not there": (["--scheduler-file", "none.json"], "none.json does not exist"),
    "a scheduler file of something else": (["--scheduler-file", "odd.json"], "names no address"),
    "two clusters": (["--scheduler-file", "odd.json", "--scheduler", "tcp://x:1"], "Both --scheduler"),
}


@pytest.mark.usefixtures("nothing_is_fitted")
@pytest.mark.parametrize("case", BEFORE)
def test_one_line_before_the_work(case, command, tmp_path):
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "odd.json").write_text("[]")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    options, words = BEFORE[case]
    status, out, err = command(*options)
    assert (status, out, len(err)) == (2, "", 1)
    assert words in err[0]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("nothing_is_fitted")
def test_a_report_that_cannot_be_written_is_refused(command, monkeypatch, tmp_path):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    status, _, err = command("--report", "r.html")
    assert status == 2
    assert err == [
        "mnndask: The report r.html cannot be written: Permission denied. Give a name in another folder."
    ]


@pytest.mark.usefixtures("nothing_is_fitted")
def test_a_report_without_matplotlib_is_refused(command, monkeypatch):
    monkeypatch.setattr("mnndask.pl.drawing.find_spec", lambda _: None)
    status, _, err = command("--report", "r.html")
    assert status == 2
    assert "matplotlib is not installed" in err[0]


def test_a_report_that_fails_does_not_fail_the_run(command, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("mnndask.cli.look.report_of", lambda *_, **__: 1 / 0)
        status, out, err = command("--report", "r.html", "--label", "kind")
    assert status == 0
    assert out == ""
    assert len(err) == 1
    assert "warning: The output is complete, but its report could not be written: division by zero." in err[0]
    again = err[0].split("Write the report with: mnndask ")[1]
    assert again == "report out.zarr -o r.html --label kind"
    assert ad.read_zarr("out.zarr").n_obs == 130
    with pytest.raises(SystemExit, match="0"):
        main(again.split())
    capsys.readouterr()
    status, out, _ = command("--resume", "--report", "r.html", "--label", "kind")
    assert (status, out) == (0, "")


def test_an_interrupted_report_says_that_the_output_is_complete(command, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mnndask.cli.look.report_of", interrupt)
    status, _, err = command("--report", "r.html")
    assert status == 130
    assert err[-1].endswith("interrupted; the output is complete: out.zarr. The report was not written")


def test_a_finished_output_is_resumed_only_by_its_own_run(command, inputs, tmp_path, capsys):
    assert command()[0] == 0
    before = (tmp_path / "out.zarr" / "zarr.json").stat().st_mtime_ns
    assert command("--resume") == (0, "", [])
    for options, words in {
        ("--sigma", "2"): "--sigma was 1.0 and is now 2.0",
        ("--keep-derived",): "--keep-derived was False and is now True",
        ("--layer-added", "mnn"): "--layer-added was not given and is now 'mnn'",
        ("--no-diagnostics",): "--diagnostics was True and is now False",
    }.items():
        status, _, err = command("--resume", *options)
        assert status == 2
        assert "The complete output out.zarr belongs to another run" in err[0]
        assert words in err[0]
    assert command("--resume", "--n-jobs", "1")[0] == 0  # does not affect the result
    assert (tmp_path / "out.zarr" / "zarr.json").stat().st_mtime_ns == before
    inputs[0].touch()
    status, _, err = command("--resume")
    assert status == 2
    assert "a.h5ad differs" in err[0]


def test_a_finished_output_that_lost_its_run_or_its_chunks_is_not_taken_for_complete(command, tmp_path):
    assert command()[0] == 0
    chunk = next((tmp_path / "out.zarr" / "X" / "c").rglob("0"))
    chunk = chunk if chunk.is_file() else next(path for path in chunk.rglob("*") if path.is_file())
    chunk.unlink()
    status, _, err = command("--resume")
    assert status == 2
    assert "chunks of X are missing" in err[0]
    adata = as_anndata(make_batches()[0])
    adata.write_zarr(tmp_path / "mine.zarr")
    status, _, err = command("--resume", out="mine.zarr")
    assert status == 2
    assert "mine.zarr does not say of which run it is" in err[0]


def test_the_output_says_that_there_is_nothing_to_do(inputs, tmp_path, capsys):
    words = ["correct", *map(str, inputs), "-k", "5", "-o", str(tmp_path / "out.zarr"), "--resume"]
    for said in ("corrected 130 cells", "is complete: nothing to do"):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        assert said in capsys.readouterr().out


def test_a_layer_is_written_last_and_resumed(command, monkeypatch, tmp_path):
    from mnndask.stores.atomic_store import AtomicStore

    write, failing = AtomicStore.set, True

    async def fail(self, key, value, *rest):
        if failing and key.startswith("layers/mnn/c/"):
            raise OSError(28, "No space left on device")
        await write(self, key, value, *rest)

    monkeypatch.setattr(AtomicStore, "set", fail)
    status, _, err = command("--layer-added", "mnn")
    assert status == 2
    assert "--resume continues it" in err[-1]
    assert (tmp_path / "out.zarr.partial" / "X" / "zarr.json").exists()
    failing = False
    assert command("--layer-added", "mnn", "--resume")[0] == 0
    assert command(out="usual.zarr")[0] == 0
    added, usual = ad.read_zarr("out.zarr"), ad.read_zarr("usual.zarr")
    np.testing.assert_array_equal(added.layers["mnn"], usual.X)
    np.testing.assert_array_equal(added.X, np.concatenate(make_batches()[:2]))
    assert zarr.open_group("out.zarr")["layers/mnn"].chunks == zarr.open_group("usual.zarr")["X"].chunks


# ------------------------------------------------------------------ words


def test_a_batch_column_of_some_inputs_only_is_an_error(command, inputs):
    adata = ad.read_h5ad(inputs[1])
    adata.obs["donor"] = "d1"
    adata.write_h5ad(inputs[1])
    status, _, err = command("--batch-key", "donor")
    assert status == 2
    assert err == [
        f"mnndask: batch 0 ({inputs[0]}) has no column 'donor' in obs, but batch 1 ({inputs[1]}) has one. "
        "Give all inputs this column, or name another with --batch-key."
    ]


def test_a_batch_column_that_is_made_from_file_names_is_said(command):
    status, _, err = command("--batch-key", "donor")
    assert status == 0
    assert len(err) == 1
    assert "warning: No input has a column 'donor' in obs" in err[0]
    assert set(ad.read_zarr("out.zarr").obs["donor"]) == {"a", "b"}
    assert command(out="usual.zarr") == (0, "", [])


MESSAGES = {
    ("-k", "0"): "-k|--k",
    ("--sigma", "0"): "--sigma",
    ("--n-components", "0"): "--n-components",
    ("--svd-dim", "-1"): "--svd-dim",
    ("--n-jobs", "0"): "--n-jobs",
    ("--memory-limit", "much"): "--memory-limit",
    ("--sketch-size", "0"): "--sketch-size",
    ("--scratch", "nowhere"): "--scratch",
    ("--mnn-order", "a,c"): "--mnn-order",
    ("--layer", "missing"): "missing",
    ("--layer-added", "a/b"): "--layer-added",
    ("--batch-categories", "a"): "--batch-categories",
    ("--batch-key", "mnn_sample"): "--batch-key",
    ("--ncv", "3"): "--svd-mode",
    ("--hvg-key", "nothing"): "nothing",
}


@pytest.mark.parametrize("options", MESSAGES)
def test_messages_name_options_of_the_command(options, command):
    status, _, err = command(*options)
    assert status == 2
    assert any(words in err[-1] for words in MESSAGES[options].split("|"))
    outside = "".join(err[-1].split("'")[::2])  # not quoted
    assert "None" not in outside
    names = ("n_jobs", "memory_limit", "n_components", "svd_", "sketch_", "mnn_order", "batch_", "layer_")
    assert [name for name in names if name in outside] == []


@pytest.mark.parametrize(
    ("words", "named"), [(["correct", "--sigmas"], "mnndask correct --help"), (["corect"], "mnndask --help")]
)
def test_errors_of_use_name_the_right_help(words, named, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert capsys.readouterr().err.strip().endswith(f"See: {named}")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["correct", "--help"]])
def test_help_is_quick(words):
    code = f"""
import sys, time
from mnndask.__main__ import main
sys.argv = ["mnndask", *{words!r}]
try:
    main()
except SystemExit as end:
    assert not end.code
print(time.process_time(), sorted({{"numpy", "dask", "zarr", "anndata"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = done.stderr.split(" ", 1)
    click = [sys.executable, "-c", "import click, time; print(time.process_time())"]
    alone = float(subprocess.run(click, capture_output=True, text=True, check=True).stdout)
    assert float(seconds) < max(0.3, 2 * alone)  # on a slow machine, click alone takes 0.2
    assert json.loads(loaded) == []


@pytest.mark.parametrize(
    "path",
    ["sigma=0.1/out.zarr", "/data/n_components=50/k=20/a.h5ad", "s3://lab/batch_key=x.zarr", "k=5.html"],
)
def test_paths_named_like_parameters_stay_as_they_are(path):
    for message in (f"The output {path} exists.", f"batch 0 ({path}) does not exist.", f"Write to: {path}"):
        assert in_words_of_command(message) == message
    assert in_words_of_command(f"{path} takes more than memory_limit=2GB.") == (
        f"{path} takes more than --memory-limit 2GB."
    )


def test_a_scheduler_file_gives_the_address(tmp_path):
    from mnndask.engine.cluster import address_in_file

    (tmp_path / "s.json").write_text('{"address": "tcp://10.0.0.1:8786"}')
    assert address_in_file(tmp_path / "s.json") == "tcp://10.0.0.1:8786"


def test_help_needs_no_library(monkeypatch, capsys):
    real, refused = builtins.__import__, "dask"
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: 1 / 0 if name.split(".")[0] == refused else real(name, *rest),
    )
    with pytest.raises(SystemExit, match="0"):
        main(["correct", "--help"])
    assert "--layer-added" in capsys.readouterr().out
