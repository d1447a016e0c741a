"""Values of options that are one of a few words, as types for Python and as choices for the command."""

from __future__ import annotations

from typing import Literal, get_args

Genes = Literal["all", "subset"]
SketchMethod = Literal["mixed", "geometric", "random"]
SvdMode = Literal["svd", "rsvd", "irlb"]

GENES: tuple[str, ...] = get_args(Genes)
SKETCH_METHODS: tuple[str, ...] = get_args(SketchMethod)
SVD_MODES: tuple[str, ...] = get_args(SvdMode)
