"""Lines that the command prints: one line of printable text each, whatever names it contains."""

from __future__ import annotations

import sys

import click

from mnndask._text import printable


def say(line: str, *, err: bool = False) -> None:
    """Print one line to stdout, or to stderr. Characters that a terminal lacks are escaped."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(printable(line).encode(encoding, "backslashreplace").decode(encoding), err=err)


def in_one_line(message: str) -> str:
    """Join the lines of a message."""
    return " ".join(line.strip() for line in message.splitlines())
