"""Progress of the command, as it is seen: in a pseudo-terminal, and through a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import time
from contextlib import redirect_stderr, redirect_stdout

import forked
import pytest
from helpers import ANNOUNCED, STAGE, as_anndata
from terminals import BATCHES, STAGES, Terminal, check_stages, seen

from mnndask.cli.main import main
from mnndask.io import anndata_writer

OF_COMMAND = ["reading cells", *STAGES[:3], "measuring", "writing"]
CONTROLS = re.compile(r"[\r\x08\x1b]")
WAITING = """
import sys, time
import mnndask.io.anndata_writer
from mnndask.cli.main import main

def put(*_):
    print("at work", flush=True)
    time.sleep(1)

mnndask.io.anndata_writer._put = put
main(sys.argv[1:])
"""
PLAIN = "import sys; from mnndask.cli.main import main; main(sys.argv[1:])"


@pytest.fixture
def command(tmp_path):
    """Function that runs the command in a process of its own, with stderr on a terminal.

    Gives status, stdout and stderr.
    """
    for name, X in zip("ab", BATCHES, strict=True):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")

    def run(*words, program=PLAIN, signal_=None):
        ours, theirs = pty.openpty()
        words = ["correct", "a.h5ad", "b.h5ad", "-o", "out.zarr", *words]
        process = forked.Process(program, *words, cwd=tmp_path, env={"COLUMNS": "100"}, stderr=theirs)
        os.close(theirs)
        try:
            while signal_ and not process.stdout.endswith("\n"):
                time.sleep(0.01)
            if signal_:
                process.send_signal(signal_)
            err = read_all(ours)
            out = process.communicate()[0]
        finally:
            process.kill()
            os.close(ours)
        return process.returncode, out, err

    return run


def read_all(end):
    parts = []
    while True:
        try:
            part = os.read(end, 65536)
        except OSError:  # how a terminal ends
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def test_command_in_a_terminal(command):
    status, out, err = command()
    assert status == 0
    assert "\r" in err
    check_stages(seen(err), OF_COMMAND)
    assert out.splitlines()[-1].startswith("corrected 130 cells")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Function that runs the command in this process; gives status, stdout, and stderr."""
    monkeypatch.chdir(tmp_path)
    for name, X in zip("ab", BATCHES, strict=True):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")

    def run(*words, err):
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main(["correct", "a.h5ad", "b.h5ad", "-o", "out.zarr", *words])
        return ended.value.code, out.getvalue(), err.getvalue()

    return run


def test_command_through_a_pipe_tells_each_stage_in_a_plain_line(here):
    status, out, err = here(err=io.StringIO())
    assert status == 0
    assert not CONTROLS.search(out + err)
    assert out.splitlines()[-1].startswith("corrected 130 cells")
    stages = [STAGE.fullmatch(line)[1] for line in err.splitlines() if not ANNOUNCED.fullmatch(line)]
    assert stages == OF_COMMAND


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_command_says_what_memory_and_threads_it_has(kind, here):
    """Once, after input was read."""
    lines = seen(here("--n-jobs", "1", "--memory-limit", "200MB", err=kind())[2])
    assert "mnndask: memory limit: 190.73 MiB (as given), 1 thread" in lines
    assert sum("memory limit" in line for line in lines) == 1


def test_quiet_command_through_a_pipe_says_nothing(here):
    assert here("--quiet", err=io.StringIO()) == (0, "", "")


def test_quiet_command_in_a_terminal_says_warnings_and_errors_only(here):
    status, out, err = here("--quiet", "-k", "65", err=Terminal())
    assert (status, out) == (0, "")
    assert len(seen(err)) == 1
    assert seen(err)[0].startswith("mnndask: warning: -k 65 is more than the 60 cells")
    status, out, err = here("--quiet", err=Terminal())
    assert (status, out) == (2, "")
    assert [line.split(".zarr")[0] for line in seen(err)] == ["mnndask: The output out"]


def test_an_error_is_alone_on_its_line(here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anndata_writer, "_put", full)
    status, _, err = here(err=Terminal())
    check_failed(status, err, 2, "The output out.zarr could not be written")


def test_an_interrupt_is_alone_on_its_line(command):
    status, _, err = command(program=WAITING, signal_=signal.SIGINT)
    check_failed(status, err, 130, "interrupted; ")


def check_failed(status, err, expected, said):
    assert status == expected
    assert "writing:   0%" in err
    lines = seen(err)
    check_stages(lines[:-1], OF_COMMAND[:-1])
    assert lines[-1].startswith(f"mnndask: {said}")
