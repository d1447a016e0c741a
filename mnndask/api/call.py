"""One call: the parameters of ``mnn_correct``, checked and grouped by where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from mnndask.core.parameters import Parameters
from mnndask.engine.run_options import RunOptions
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
