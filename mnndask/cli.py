"""The ``mnndask`` command."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from mnndask.cli_correct import correct
from mnndask.cli_look import info, report
from mnndask.datasets import simulate_to_zarr
from mnndask.demo import run_demo
from mnndask.errors import MNNError, kept_notes
from mnndask.memory import return_large_blocks
from mnndask.progress import aside


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mnndask")
def cli() -> None:
    """Remove batch effects from single-cell data by matching mutual nearest neighbours.

    Works on AnnData files (.zarr, .h5ad), which need not fit in memory.
    """


for command in (correct, report, info):
    cli.add_command(command)


@cli.command(short_help="Simulate batches, correct them, draw them.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("mnndask-demo"),
    show_default=True,
    help="Folder to write to.",
)
@click.option("--n-cells", type=click.IntRange(min=60), default=1500, show_default=True, help="Cells in all.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The same seed gives the same data.",
)
def demo(output: Path, n_cells: int, seed: int) -> None:
    """Simulate three batches, correct them, print the mixing before and after, and draw it."""
    for line in run_demo(output, n_cells=n_cells, seed=seed):
        click.echo(line)


@cli.command(short_help="Write simulated batches of any size.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for batch0.zarr, batch1.zarr, ...",
)
@click.option("--overwrite", is_flag=True, help="Replace all batches that the folder holds.")
@click.option("--n-cells", type=int, default=1_000_000, show_default=True, help="Cells in all.")
@click.option("--n-genes", type=int, default=2000, show_default=True, help="Genes.")
@click.option("--n-batches", type=int, default=4, show_default=True, help="Batches.")
@click.option("--n-types", type=int, default=18, show_default=True, help="Cell types.")
@click.option(
    "--counts-per-gene",
    type=float,
    default=0.25,
    show_default=True,
    help="Mean counts per cell over genes; fewer make types harder to tell apart.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same data.")
@click.option("--n-jobs", type=int, help="Threads.  [default: all processors]")
def simulate(output: Path, **options: Any) -> None:
    """Write a simulated data set, one AnnData zarr store per batch, in little memory.

    Log-normalised counts of related cell types, some rare, some missing from some batches, seen through
    batch effects and sequencing depths. The truth is in obs["cell_type"].
    """
    start = time.perf_counter()
    paths = simulate_to_zarr(output, **options)
    click.echo(
        f"simulated {options['n_cells']:,} cells x {options['n_genes']:,} genes in {len(paths)} batches "
        f"in {time.perf_counter() - start:.1f} s: {output}"
    )


class _Saying(logging.Handler):
    """Says warnings, logged or not, in one line each, and each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say what was logged."""
        self.say(record.getMessage())

    def say(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Say a warning, as ``warnings.showwarning`` is called."""
        line = f"mnndask: warning: {' '.join(str(message).split())}"
        if line not in self.said:
            self.said.add(line)
            with aside():
                click.echo(line, err=True)


class Terminated(KeyboardInterrupt):
    """The process was asked to end, as job schedulers do."""


def _end(signal_: int, _: Any) -> NoReturn:
    # What was being written is given up, and zarr's loop would tell of each such task.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    raise Terminated if signal_ == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def _heeding_signals_and_warnings() -> Iterator[None]:
    """Let a request to end be an interrupt, which leaves nothing behind, and say warnings in a line."""
    saying, logger = _Saying(), logging.getLogger("mnndask")
    in_main_thread = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    heeded = [signal_ for signal_ in signals if signal.getsignal(signal_) != signal.SIG_IGN]  # as by nohup
    before = {signal_: signal.signal(signal_, _end) for signal_ in heeded}
    logger.addHandler(saying)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = saying.say
            yield
    finally:
        logger.removeHandler(saying)
        for signal_, handler in before.items():
            if signal.getsignal(signal_) is _end:
                signal.signal(signal_, handler)


def main(args: list[str] | None = None) -> None:
    """Run the command; errors of use and of files are one line on stderr and exit status 2.

    An interrupt is one line and status 130, a request to end one and 143. Anything else is a bug: its
    traceback, and status 1.
    """
    return_large_blocks()
    with _heeding_signals_and_warnings():
        try:
            sys.exit(cli.main(args, prog_name="mnndask", standalone_mode=False) or 0)
        except (click.exceptions.Abort, KeyboardInterrupt) as error:
            # Threads end with the chunk they are at; a second interrupt does not wait for them.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # click raises its own error, from ours.
            said = _notes(error.__cause__ or error) or "Nothing was written"
            asked_to_end = isinstance(error.__cause__ or error, Terminated)
            status = 128 + (signal.SIGTERM if asked_to_end else signal.SIGINT)
            _fail(f"{'ended' if asked_to_end else 'interrupted'}; {said[0].lower()}{said[1:]}", status)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.ClickException as error:
            _fail(f"{error.format_message()} See: mnndask --help", 2)
        except (MNNError, OSError, MemoryError) as error:
            _fail(f"{error} {_notes(error)}" if str(error) else "out of memory", 2)
        except Exception:
            traceback.print_exc()
            _fail("this is a bug in mnndask: please report it, with the lines above", 1)


def _notes(error: BaseException) -> str:
    return " ".join(kept_notes(error))


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"mnndask: {' '.join(message.split())}", err=True)
    sys.exit(status)
