"""What of an input a result cannot hold as it is: said in warnings before the work, all of a kind in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mnndask.errors import warn


@dataclass
class Changes:
    """What was left out, renamed or made of another type, by what it is called: ``obsm['tree']``."""

    left_out: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)

    def warn(self) -> None:
        """Say it, in up to three warnings."""
        if self.left_out:
            reasons: dict[str, list[str]] = {}
            for what, why in self.left_out.items():
                reasons.setdefault(why, []).append(what)
            listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
            warn(f"The result leaves out {listed}.\nThe correction does not need it: add it afterwards.")
        if self.renamed:
            listed = ", ".join(f"{what} becomes {new!r}" for what, new in self.renamed.items())
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
