"""The comparison with other libraries: modules of their names stand in for those, as tests install none."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from benchmarks import peers
from benchmarks.memory import HERE, Limits, kill_tree, tree_bytes, watched


@pytest.fixture
def interpreter(tmp_path):
    """Make an interpreter that sees what this one does, and modules of these names and texts before that."""

    def make(**modules):
        venv.create(tmp_path / "venv", symlinks=os.name != "nt")
        base = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
        python, place = (Path(sysconfig.get_path(of, "venv", base)) for of in ("scripts", "purelib"))
        (place / "this.pth").write_text("\n".join([str(HERE), sysconfig.get_path("purelib")]))
        for name, text in modules.items():
            (place / f"{name}.py").write_text(dedent(text))
        return python / "python"

    return make


@pytest.fixture
def compare(tmp_path, capsys):
    """Run the benchmark at toy size: its figures, and what it printed."""

    def run(*args):
        peers.main(["--toy", "--json", str(tmp_path / "figures.json"), *map(str, args)])
        told = json.loads((tmp_path / "figures.json").read_text())
        assert told["benchmark"] == "peers"
        return told["figures"], capsys.readouterr().out

    return run


ITSELF = "from mnndask import mnn_correct"
COMPUTES_NOTHING = """
    class run_harmony:
        def __init__(self, components, table, key, verbose):
            self.Z_corr = components
    """


def test_each_tool_is_compared_with_mnndask_on_the_same_data(interpreter, compare):
    python = interpreter(mnnpy=ITSELF, harmonypy=COMPUTES_NOTHING)
    options = ["--sizes", "toy", "--peers-python", python, "--mnnpy-python", python]
    figures, said = compare(*options)
    tools = figures["sizes"]["toy"]["tools"]
    assert list(tools) == ["mnndask", "harmonypy", "mnnpy"]
    assert [tool["shape"] for tool in tools.values()] == [[200, 40], [200, 39], [200, 40]]
    assert set(tools["mnndask"]["times_mnndask"].values()) == {1.0}
    assert 0.2 < tools["mnnpy"]["times_mnndask"]["peak_mb"] < 5  # it is mnndask
    for tool in tools.values():
        parts = sum(tool.get(part, 0) for part in ("read_s", "pca_s", "correct_s"))
        assert tool["work_s"] == pytest.approx(parts, abs=1e-5)
        assert tool["process_s"] > tool["work_s"] > tool["correct_s"] > 0
    assert set(figures["skipped"]) == {"scranpy", "scanorama"}
    assert "\nscranpy: skipped, " in said
    assert "cannot import it: ModuleNotFoundError: No module named 'scranpy'" in said
    assert said.count("| 110 + 90 × 40 | ") == 3


def test_mnndask_is_measured_from_files_to_a_file_where_no_peer_is_at_hand(compare, tmp_path):
    figures, said = compare("--sizes", "toy_files", "--peers-python", sys.executable, "--data", tmp_path)
    assert set(figures["skipped"]) >= {"mnnpy"}
    assert "mnnpy: skipped, no interpreter is given that can import it (--mnnpy-python)" in said
    [row] = [line for line in said.splitlines() if line.startswith("| 210 in 3 batches × 40 | mnndask")]
    assert row.count("| 1.00 ") == 4
    assert figures["sizes"]["toy_files"]["tools"]["mnndask"]["shape"] == [210, 40]
    assert len(list(tmp_path.glob("*/batch?.zarr"))) == 3


def test_an_interpreter_that_is_not_there_is_told(tmp_path):
    given = type("Given", (), {"peers": ["scranpy"], "peers_python": tmp_path / "none"})
    found, _, skipped = peers.interpreters(given)
    assert found == {}
    assert skipped["scranpy"] == f"{tmp_path / 'none'} cannot be run: No such file or directory"


def test_a_peer_that_fails_or_exceeds_its_limits_is_told_and_not_tried_again(monkeypatch):
    """Of three rounds mnnpy ends one, scranpy none."""
    ended = {"shape": [2, 3], "process_s": 3.0, "work_s": 2.0, "correct_s": 1.0, "peak_mb": 100.0}
    slower = ended | {"correct_s": 5.0}
    outcomes = {
        "mnndask": [ended, ended, ended],
        "scranpy": ["exceeded 10 s"],
        "mnnpy": [slower, "failed with status 1: no luck"],
    }
    order = []

    def once(self, name):
        order.append(name)
        return outcomes[name].pop(0)

    monkeypatch.setattr(peers.Comparison, "__post_init__", lambda self: None)
    monkeypatch.setattr(peers.Comparison, "once", once)
    given = type("Given", (), {"rounds": 3})
    tools = peers.Comparison(peers.SIZES["toy"], {"scranpy": Path(), "mnnpy": Path()}, Path(), given).run()
    assert order == ["mnndask", "scranpy", "mnnpy", "mnndask", "mnnpy", "mnndask"]
    assert tools["scranpy"] == {"failed": "exceeded 10 s"}
    assert tools["mnnpy"]["times_mnndask"]["correct_s"] == 5.0
    said = peers.table({"skipped": {}, "sizes": {"toy": {"data": "these", "tools": tools}}})
    assert "scranpy on these: exceeded 10 s\nmnnpy on these: failed with status 1: no luck" in said
    assert "| these | mnnpy | genes | 3.00 | 1.00 | 2.00 | 1.00 | 5.00 | 5.00 | 100 | 1.00 |" in said
    assert "| these | scranpy" not in said


def test_ratios_are_taken_within_rounds():
    """The machine slows down tenfold: the ratio of the medians is not the median of the ratios."""
    own, base = (
        [dict.fromkeys(peers.COMPARED, value) | {"shape": [1, 1]} for value in values]
        for values in ([2.0, 20.0, 30.0], [1.0, 10.0, 1.0])
    )
    figures = peers.summary(own, base)
    assert figures["correct_s"] == 20.0
    assert figures["times_mnndask"]["correct_s"] == 2.0


def test_mnnpy_is_not_tried_on_many_cells(monkeypatch, compare):
    monkeypatch.setattr(peers, "interpreters", lambda given: ({"mnnpy": Path("none")}, {}, {}))
    monkeypatch.setattr(peers.Comparison, "run", lambda self: {"tried": sorted(self.peers)})
    figures, said = compare("--sizes", "toy", "--mnnpy-cells", 199)
    assert figures["sizes"]["toy"]["tools"]["tried"] == []
    assert "mnnpy on 110 + 90 × 40: not tried on more than 199 cells: needs hours" in said


def test_sizes_and_peers_that_are_not_known_are_refused(compare):
    with pytest.raises(SystemExit, match="unknown sizes: huge; known: small, large"):
        compare("--sizes", "huge")
    with pytest.raises(SystemExit, match="unknown peers: seurat; known: scranpy, harmonypy"):
        compare("--peers", "seurat")


def test_a_command_is_killed_beyond_its_limits_with_all_below_it():
    """The child of the command would go on for a minute."""
    sleep = "import time; time.sleep(60)"
    spawn = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {sleep!r}]).pid); {sleep}"
    ended = watched([sys.executable, "-u", "-c", spawn], Limits(seconds=1, gb=1))
    assert ended.exceeded == "exceeded 1 s"
    assert ended.status < 0
    child = int(ended.said)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    hold = "import time; held = bytearray(90_000_000); time.sleep(60)"
    assert watched([sys.executable, "-c", hold], Limits(60, 0.08)).exceeded == "exceeded 0.08 GB"
    assert watched([sys.executable, "-c", "print('done')"], Limits(60, 1)).exceeded is None


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the system does not tell")
def test_memory_that_forks_have_in_common_counts_once():
    code = (
        "import os, time; held = bytearray(80_000_000); os.fork(); os.fork(); print('forked'); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE) as process:
        try:
            for _ in range(4):
                process.stdout.readline()
            assert 80e6 < tree_bytes(process.pid) < 150e6
        finally:
            kill_tree(process.pid)


def test_what_the_peers_interpreters_run_keeps_to_python_3_7():
    ast.parse(peers.SCRIPT.read_text(), feature_version=(3, 7))
