"""What several tests of progress share: a terminal, and what is seen in it."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager, redirect_stderr

from helpers import ANNOUNCED, make_batches

BATCHES = make_batches((60, 70))
STAGES = ["normalising", "finding pairs of batch 2 of 2", "correcting batch 2 of 2", "correcting all cells"]
ERASED = "\x1b[K"  # the rest of the line


class Terminal(io.StringIO):
    """What is written to a terminal, which is none of the system's."""

    def isatty(self):
        return True

    def lines(self):
        """What is seen in the end."""
        return seen(self.getvalue())


def seen(text):
    """Lines that a terminal shows in the end: after a carriage return, what was there is written over."""
    out = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            kept = "" if ERASED in part else shown[len(part) :]
            shown = part.replace(ERASED, "") + kept
        out.append(shown.rstrip())
    return [line for line in out if line]


@contextmanager
def terminal():
    with redirect_stderr(Terminal()) as out:
        yield out


def check_stages(lines, stages):
    lines = [line for line in lines if not ANNOUNCED.fullmatch(line)]
    assert [line.split(":")[0] for line in lines] == stages
    for line in lines:
        assert re.search(r": 100%\|.*\| +[\d.]+[kM]? \w+/s \[\d\d:\d\d<00:00\]$", line), line
