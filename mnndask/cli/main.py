"""The ``mnndask`` command."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

import click

from mnndask._text import printable
from mnndask.cli.commands import correct, demo, info, report, simulate
from mnndask.cli.terminal import in_one_line, say
from mnndask.cli.words import in_words_of_command
from mnndask.engine.malloc import return_large_blocks


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mnndask")
def cli() -> None:
    """Remove batch effects from single-cell data by matching mutual nearest neighbours.

    Works on AnnData files (.zarr, .h5ad), which need not fit in memory.
    """


for command in (correct, report, info, demo, simulate):
    cli.add_command(command)


class WarningPrinter(logging.Handler):
    """Prints each warning, logged or not, once and on one line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a logged message."""
        self.show(record.getMessage())

    def show(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Print a warning; a replacement for ``warnings.showwarning``."""
        line = f"mnndask: warning: {in_words_of_command(in_one_line(str(message)))}"
        if line not in self.printed:
            self.printed.add(line)
            with _aside():
                say(line, err=True)


def _aside() -> AbstractContextManager[Any]:
    """Clear the live lines while something else is written to the terminal."""
    shown = sys.modules.get("mnndask.api.progress_bars")
    return nullcontext() if shown is None else shown.aside()


class Terminated(KeyboardInterrupt):
    """Termination of the process by SIGTERM, as job schedulers send it."""


def _end(signal_: int, _: Any) -> NoReturn:
    # Writing is abandoned. zarr's event loop would log each abandoned task, Python each that had not begun.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    raise Terminated if signal_ == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def handling_signals_and_warnings() -> Iterator[None]:
    """Treat SIGTERM as an interrupt, which cleans up, and print each warning on one line.

    Signals and filters of warnings belong to the process: in another thread than the main one, they stay.
    """
    printer, logger = WarningPrinter(), logging.getLogger("mnndask")
    in_main_thread = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
    handled = [signal_ for signal_ in signals if signal.getsignal(signal_) != signal.SIG_IGN]  # e.g. by nohup
    before = {signal_: signal.signal(signal_, _end) for signal_ in handled}
    logger.addHandler(printer)
    try:
        with _printing_warnings(printer) if in_main_thread else nullcontext():
            yield
    finally:
        logger.removeHandler(printer)
        for signal_, handler in before.items():
            if signal.getsignal(signal_) is _end:
                signal.signal(signal_, handler)


@contextmanager
def _printing_warnings(printer: WarningPrinter) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = printer.show
        yield


def _abandon(error: BaseException | None) -> None:
    """Destroy what was interrupted now, while Python's warnings of it are ignored."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def main(args: list[str] | None = None) -> None:
    """Run the command. Errors of use and of files are one line on stderr, with exit status 2.

    An interrupt prints one line, with status 130; SIGTERM one line, with status 143. Any other exception is a
    bug: its traceback is printed, with status 1.
    """
    return_large_blocks()
    with handling_signals_and_warnings():
        try:
            sys.exit(cli.main(args, prog_name="mnndask", standalone_mode=False) or 0)
        except (click.exceptions.Abort, KeyboardInterrupt) as error:
            # Threads first complete their current chunks; a second interrupt does not wait for them.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # click raises its own error from ours.
            outcome = _notes(error.__cause__ or error) or "Nothing was written"
            terminated = isinstance(error.__cause__ or error, Terminated)
            status = 128 + (signal.SIGTERM if terminated else signal.SIGINT)
            _abandon(error)
            _fail(
                f"{'terminated' if terminated else 'interrupted'}; {outcome[0].lower()}{outcome[1:]}", status
            )
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(2)
        except click.ClickException as error:
            at = getattr(getattr(error, "ctx", None), "command_path", "mnndask")
            _fail(printable(f"{error.format_message()} See: {at} --help"), 2)
        except Exception as error:
            if _is_users(error):
                _fail(in_words_of_command(f"{error} {_notes(error)}") if str(error) else "out of memory", 2)
            for part in traceback.format_exception(error):  # a frame is several lines, a message one
                for line in part.strip("\n").split("\n", 0 if not part.startswith("  File ") else -1):
                    say(line, err=True)
            _fail("this is a bug in mnndask: please report it, with the lines above", 1)


def _is_users(error: Exception) -> bool:
    """Whether an error is of use, of files or of memory, not a bug."""
    from mnndask.errors import MNNError

    return isinstance(error, MNNError | OSError | MemoryError)


def _notes(error: BaseException) -> str:
    from mnndask.errors import kept_notes

    return " ".join(kept_notes(error))


def _fail(message: str, status: int) -> NoReturn:
    say(f"mnndask: {in_one_line(message)}", err=True)
    sys.exit(status)
