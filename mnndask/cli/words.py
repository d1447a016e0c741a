"""Messages of the library in the words of the command: its options instead of Python's parameters."""

from __future__ import annotations

import re
from functools import cache

import click

from mnndask.cli.options import parameters

QUOTED = r"(?<!\w)'(?:[^'\\]|\\.)*'(?!\w)"  # users' names, which stay as they are
VALUE = r"=(?:\.\.\.|\[[^\]]*\]|'[^']*'|[\w.+-]*[\w+-])"
PATH = r"(?<![^\s(])[^\s()']*(?:/|\.zarr|\.h5ad|\.html)[^\s()]*"  # may contain sigma=0.1, for example
NONE = re.compile(rf"{QUOTED}|\bNone\b")
OR_NONE = re.compile(r",? or None(?: or -1)?\b(?: (?:for|to) [^.]*)?")
PHRASES = {
    "var_subset=adata.var_names[adata.var['highly_variable']]": "--hvg-key highly_variable",
    "mnndask.pp.open_batches": "--join inner",
    ", or overwrite=True in Python": "",
}


def in_words_of_command(message: str) -> str:
    """Replace parameters of :func:`mnndask.mnn_correct` in a message by options of ``mnndask correct``.

    A parameter is a name with an underscore, or one that a value or "is" follows. Quoted text, such as a
    column's name, and paths stay as they are.
    """
    for python, command in PHRASES.items():
        message = message.replace(python, command)
    out = _pattern().sub(lambda found: found[0] if found["name"] is None else _option(found), message)
    out = OR_NONE.sub(", or leave the option out", out)
    return NONE.sub(lambda found: "none" if found[0] == "None" else found[0], out)


@cache
def _options() -> dict[str, click.Option]:
    """Options of ``mnndask correct`` by parameter."""
    return {
        str(option.name): option
        for option in parameters()
        if isinstance(option, click.Option) and option.name != "output"  # also a word of messages
    }


@cache
def _pattern() -> re.Pattern[str]:
    long = "|".join(name for name in _options() if "_" in name)
    short = "|".join(name for name in _options() if "_" not in name)
    names = rf"(?P<name>(?:{long})|(?:{short})(?=\.?{VALUE}| is [^a-z])|(?<=leave )(?:{short})(?= out))"
    return re.compile(rf"{QUOTED}|{PATH}|(?<![\w.'-]){names}(?![\w'])(?P<value>{VALUE})?")


def _option(found: re.Match[str]) -> str:
    """Return an option as it is typed, with its value."""
    option, value = _options()[found["name"]], (found["value"] or "")[1:]
    flag = option.opts[0]
    if option.is_flag or option.secondary_opts:
        return option.secondary_opts[0] if value == "False" and option.secondary_opts else flag
    if value.startswith("["):
        value = option.make_metavar(click.Context(click.Command("correct")))
    return f"{flag} {value.strip(chr(39)).replace('None', 'none')}".rstrip()
