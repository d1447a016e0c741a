"""Elements of inputs that results cannot contain unchanged. Warnings list them before the computation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mnndask.errors import warn


@dataclass
class Changes:
    """Elements that are left out, renamed or converted, by name, such as ``obsm['tree']``.

    Parameters
    ----------
    of
        Name of the store that contains them, for messages; empty for inputs in general.
    left_out
        Reason for each.
    renamed
        New names of each; several if a table has it more than once.
    converted
        New type of each.
    derived
        Names of elements that are left out because they belong to the uncorrected values.
    """

    of: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, list[str]] = field(default_factory=dict)
    converted: dict[str, str] = field(default_factory=dict)
    derived: list[str] = field(default_factory=list)

    def warn(self) -> None:
        """Issue up to four warnings, one per kind of change."""
        if self.derived:
            warn(
                f"The result leaves out what was computed from the uncorrected values: "
                f"{', '.join(self.derived)}.",
                "Compute it from the result (sc.pp.pca, sc.pp.neighbors, sc.tl.umap), or keep it: "
                "keep_derived=True.",
            )
        if self.left_out:
            reasons: dict[str, list[str]] = {}
            for what, why in self.left_out.items():
                reasons.setdefault(why, []).append(what)
            listed = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
            where = f" of {self.of}" if self.of else ""
            warn(
                f"The result leaves out{where} {listed}.",
                "The correction does not need this: add it to the result afterwards.",
            )
        if self.renamed:
            listed = ", ".join(
                f"{what} becomes {' and '.join(map(repr, new))}" for what, new in self.renamed.items()
            )
            warn(
                f"The result renames keys: {listed}.",
                "Stores need strings without slashes that are unique regardless of case: rename them "
                "beforehand to choose other names.",
            )
        if self.converted:
            listed = ", ".join(f"{what} to {how}" for what, how in self.converted.items())
            warn(
                f"The result converts {listed}.",
                "Stores need values of one supported type: convert them beforehand to choose another type.",
            )


def at(slot: str, *keys: Any) -> str:
    """Name of an element in messages."""
    return slot + "".join(f"[{key!r}]" for key in keys)
