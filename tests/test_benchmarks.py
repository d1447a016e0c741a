"""Benchmarks run, at toy size, so that they never rot."""

import json
import subprocess
import sys
from pathlib import Path


def test_benchmarks_print_their_figures():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "120", "30", "1"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["whole_call"]
    assert figures["n_cells"] == 120
    assert figures["in_memory_s"] > 0
    assert figures["through_files_s"] > 0
