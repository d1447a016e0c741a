"""What of an input a result cannot hold as it is: said in warnings before the work, all of a kind in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mnndask.errors import warn


@dataclass
class Changes:
    """What was left out, renamed or made of another type, by what it is called: ``obsm['tree']``.

    Parameters
    ----------
    of
        What it is in, for messages; empty for what came in.
    left_out
        Why, for each.
    renamed
        New names of each: several, if a table holds it more than once.
    converted
        What each became.
    """

    of: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, list[str]] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)

    def warn(self) -> None:
        """Say it, in up to three warnings."""
        if self.left_out:
            reasons: dict[str, list[str]] = {}
            for what, why in self.left_out.items():
                reasons.setdefault(why, []).append(what)
            listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
            where = f" of {self.of}" if self.of else ""
            warn(
                f"The result leaves out{where} {listed}.\nThe correction does not need it: add it afterwards."
            )
        if self.renamed:
            listed = ", ".join(
                f"{what} becomes {' and '.join(map(repr, new))}" for what, new in self.renamed.items()
            )
            warn(
                f"The result renames keys: {listed}.\n"
                "Stores take strings without slashes, each once, whatever its case: rename them beforehand "
                "to choose other names."
            )
        if self.converted:
            listed = ", ".join(f"{what} to {how}" for what, how in self.converted.items())
            warn(
                f"The result converts {listed}.\n"
                "Stores hold values of one type together: convert them beforehand to choose another."
            )


def at(slot: str, *keys: Any) -> str:
    """What an element is called in messages."""
    return slot + "".join(f"[{key!r}]" for key in keys)
