"""The command where memory is scarce: in a real control group, at defaults."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from helpers import as_anndata, make_batches
from memory_groups import memory_group

MB = 2**20
LIMIT = 320 * MB
SIZES, N_GENES = (450, 450), 5000  # of which four copies take 144 MB; the process has used half of the limit


@pytest.fixture
def on_disk():
    """A folder on a disk: files that are in memory count as a group's memory."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        mounts = [
            part for part in psutil.disk_partitions(all=True) if Path(part.mountpoint) in Path(folder).parents
        ]
        if max(mounts, key=lambda part: len(part.mountpoint)).fstype == "tmpfs":
            pytest.skip("/var/tmp is in memory here")
        yield Path(folder)


@pytest.mark.slow
def test_the_command_finishes_in_a_group_with_too_little_memory_for_a_fit_in_memory(on_disk):
    """It keeps to the group's limit, not to the memory of the machine."""
    batches = make_batches(SIZES, N_GENES)
    for name, X in zip("ab", batches, strict=True):
        as_anndata(X, name, [f"g{i}" for i in range(N_GENES)]).write_zarr(on_disk / f"{name}.zarr")
    with memory_group(LIMIT) as in_group:
        done = subprocess.run(
            [*in_group, sys.executable, "-m", "mnndask", "correct", "a.zarr", "b.zarr", "-o", "out.zarr"],
            cwd=on_disk,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(on_disk)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done
    assert re.search(r"mnndask: memory limit: \d+\.\d\d MiB \(cgroup /.+\), \d+ thread", done.stderr)
    assert "so the fit works on disk" in done.stderr
