"""Text for people: names of users' data cannot act on a terminal, or pass for text of ours."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return the text with all characters escaped that are not printable, as ``repr`` does, without quotes.

    These are control characters, line breaks, characters that reverse the direction of text, and undecodable
    bytes of file names. Letters of all scripts, symbols and emoji are printable.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
