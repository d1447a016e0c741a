"""Values of options: those of a few words, as types and as the command's choices; the recommended ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

Genes = Literal["all", "subset", "none"]
SketchMethod = Literal["mixed", "geometric", "random"]
SvdMode = Literal["svd", "rsvd", "irlb"]
AutomaticOrder = Literal["auto", "share", "tree"]

GENES: tuple[str, ...] = get_args(Genes)
SKETCH_METHODS: tuple[str, ...] = get_args(SketchMethod)
SVD_MODES: tuple[str, ...] = get_args(SvdMode)
AUTOMATIC_ORDERS: tuple[str, ...] = get_args(AutomaticOrder)

# For mnn_correct(..., **RECOMMENDED): better mixed batches than the published defaults give, while random
# halves of one batch stay as they are.
RECOMMENDED: Mapping[str, Any] = MappingProxyType(
    {"n_components": 50, "k": 10, "sigma": 0.15, "var_adj": False, "refine": True}
)
