"""Live progress lines in terminals and notebooks."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, TextIO

from mnndask._library_state import exclusive
from mnndask._progress import announcements, drawing, logger

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {rate_noinv_fmt} [{elapsed}<{remaining}]"  # fits 80 columns
COLUMNS, ROWS = 80, 24  # assumed where a terminal has no size
ERASE_TO_END = "\x1b[K"  # clears the ^C that a terminal shows after the line


@contextmanager
def showing(asked: bool | None) -> Iterator[None]:
    """Show stages if `asked`; None shows them in a terminal or a notebook."""
    shown = _is_watched() if asked is None else bool(asked)
    with drawing(_TqdmBar if shown else None):
        yield


@contextmanager
def log_stages() -> Iterator[None]:
    """Log announcements on stderr, and each finished stage unless it is a terminal that shows live lines."""
    if sys.stderr is None:
        yield
        return
    log = announcements if sys.stderr.isatty() else logger  # which announcements are below
    handler, level = _Aside(), log.level
    handler.setFormatter(logging.Formatter("mnndask: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _Aside(logging.StreamHandler[TextIO]):
    """Handler that clears the live lines while it writes to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        with aside():
            super().emit(record)


def _is_watched() -> bool:
    return "ipykernel.zmqshell" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


def aside() -> AbstractContextManager[Any]:
    """Clear the live lines while something else is written to the terminal."""
    tqdm = sys.modules.get("tqdm.std")  # without it, there are no live lines
    return nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(file=sys.stderr)


class _TqdmBar:
    """A line in a terminal, or a bar in a notebook."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        # tqdm.auto chooses terminal or notebook; without ipywidgets it would warn and draw text.
        with exclusive():  # as it is imported, it changes filters of warnings
            if find_spec("ipywidgets"):
                from tqdm.auto import tqdm
            else:
                from tqdm import tqdm
        # Draw every update (miniters=1): there is one per block of cells, not per cell.
        self.bar = _narrower(tqdm)(
            desc=title,
            total=total,
            unit=f" {unit}",
            unit_scale=True,
            bar_format=FORMAT,
            **({"ncols": COLUMNS, "nrows": ROWS} if _has_no_width() else {"dynamic_ncols": True}),
            miniters=1,
        )

    def update(self, done: int) -> None:
        """Show the total number done so far."""
        self.bar.update(done - self.bar.n)

    def close(self, *, finished: bool) -> None:
        """Leave the bar if the stage is finished, else remove it."""
        self.bar.leave = finished
        self.bar.close()
        if not finished and sys.stderr.isatty():
            sys.stderr.write(ERASE_TO_END)
            sys.stderr.flush()


@cache
def _narrower(tqdm: type[Any]) -> type[Any]:
    """Bars narrow enough for ^C, which would otherwise wrap the line and leave it on the screen."""

    class Bar(tqdm):
        @property
        def format_dict(self) -> Any:
            out = super().format_dict
            if isinstance(out["ncols"], int):
                out["ncols"] -= len("^C")
            return out

    return Bar


def _has_no_width() -> bool:
    """Whether stderr is a terminal of unknown size, in which tqdm would write nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError):
        return False
