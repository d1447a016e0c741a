"""One call: the parameters of ``mnn_correct``, checked and grouped by where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from mnndask.core.parameters import Parameters
from mnndask.engine.apply import Wanted
from mnndask.engine.run_options import RunOptions
from mnndask.errors import InputError
from mnndask.io.opened_inputs import InputOptions
from mnndask.io.packing import Packing

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """The checked parameters of a call.

    Parameters
    ----------
    parameters
        Parameters of the method.
    run
        Threads, memory and scratch of the run.
    reading
        How inputs are read.
    packing
        How results are put together.
    """

    parameters: Parameters
    run: RunOptions
    reading: InputOptions
    packing: Packing

    def __post_init__(self) -> None:
        if self.reading.genes != "none":
            return
        if self.parameters.n_components is None:
            what = "genes='none' was given without n_components, so that nothing would be left of the result."
            raise InputError(what, "Give n_components=50, say, or leave genes out to correct all.")
        for name, value in (("layer_added", self.packing.layer_added), ("save_raw", self.packing.save_raw)):
            if value:
                what = f"{name}={value!r} was given, but with genes='none' the result has no genes' values."
                raise InputError(what, "Leave one of them out.")

    @property
    def embeds_only(self) -> bool:
        """Whether no genes are corrected."""
        return self.reading.genes == "none"

    def wanted(self, kind: str) -> Wanted:
        """What is computed for results of a kind: matrices are either genes or an embedding."""
        embedding = self.embeds_only or (kind == "anndata" and self.parameters.n_components is not None)
        return Wanted(not self.embeds_only, embedding)

    def recorded(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as they are recorded: batches are those of one column, also if several make it."""
        keys = self.reading.keys
        several = {"nested_batch_key": keys} if len(keys) > 1 else {}
        return {**given, "batch_key": self.packing.batch_key, **several}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Call:
        """Check and group the parameters of :class:`mnndask.MNNCorrector`.

        Raises
        ------
        InputError, InputTypeError
            If a value is invalid for any data. The message names the parameter and the values it takes.
        """
        return cls(
            _options(Parameters, given),
            _options(RunOptions, given),
            _options(InputOptions, given),
            _options(Packing, given),
        )


def _options(kind: type[T], given: Mapping[str, Any]) -> T:
    return kind(**{field.name: given[field.name] for field in fields(kind)})  # type: ignore[arg-type]
