"""Record of a run, stored beside its unfinished output so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mnndask._version import __version__
from mnndask.errors import InputError
from mnndask.io.record import EMBEDDING_KEY
from mnndask.stores.fingerprint import Fingerprint
from mnndask.stores.location import Location


@dataclass(frozen=True)
class ResumeRecord:
    """Everything on which the result of a run depends.

    Parameters
    ----------
    record
        Version, inputs and parameters: strings, numbers, and containers of them.
    opened
        Each input, and its files before any of them was read.
    """

    record: dict[str, Any]
    opened: Sequence[tuple[Location, Fingerprint]] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, inputs: Sequence[Location], parameters: Mapping[str, Any]) -> ResumeRecord:
        """Describe a run. Files of the inputs are listed, not read."""
        known = {key: value for key, value in parameters.items() if value is not None}
        opened = [(location, Fingerprint.of(location)) for location in inputs]
        record = {
            "version": __version__,
            "inputs": [{"name": str(location), "files": files.text} for location, files in opened],
            "parameters": json.loads(json.dumps(known, default=str)),
        }
        return cls(record, opened)

    @property
    def matrices(self) -> list[str]:
        """Paths in the store of the corrected cells, which are written last, chunk by chunk.

        Of genes, and of their coordinates in components, if those are wanted.
        """
        parameters = self.record["parameters"]
        layer, embedding = parameters.get("layer_added"), f"obsm/{EMBEDDING_KEY}"
        of_genes = "X" if layer is None else f"layers/{layer}"
        wanted = {of_genes: parameters.get("genes") != "none", embedding: parameters.get("n_components")}
        return [name for name, is_wanted in wanted.items() if is_wanted]

    def check_inputs(self) -> None:
        """Check, after everything was read, that no input has changed since the run began.

        Raises
        ------
        InputReadError
            If one has; the message names it.
        """
        for i, (location, files) in enumerate(self.opened):
            files.check(location, f"batch {i} ({location})")

    def check_same(self, record: Mapping[str, Any], left: str, remedy: str) -> None:
        """Refuse to go on with another run, which left what the message calls `left`.

        Raises
        ------
        InputError
            If the runs differ; the message names the differences.
        """
        found = list(_differences(record, self.record))
        if found:
            what = f"{left} belongs to another run: {'; '.join(found)}."
            raise InputError(what, remedy)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if then["version"] != now["version"]:
        yield f"mnndask was {then['version']} and is now {now['version']}"
    if len(then["inputs"]) != len(now["inputs"]):
        yield f"it had {len(then['inputs'])} inputs, and this run has {len(now['inputs'])}"
    for old, new in zip(then["inputs"], now["inputs"], strict=False):
        if old["files"] != new["files"]:
            how = "in names, sizes or times of files"
            yield f"input {new['name']} differs from {old['name']} of that run ({how})"
    for key in sorted({*then["parameters"], *now["parameters"]}):
        old, new = (_short(side["parameters"].get(key)) for side in (then, now))
        if then["parameters"].get(key) != now["parameters"].get(key):
            yield f"--{key.replace('_', '-')} was {old} and is now {new}"


def _short(value: Any) -> str:
    return "not given" if value is None else repr(value) if len(repr(value)) < 60 else "other values"
