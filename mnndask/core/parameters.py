"""The method's parameters: one typed value, which no data is needed to check."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from mnndask._choices import SKETCH_METHODS, SVD_MODES
from mnndask.core.svd import LANCZOS_OPTIONS, SvdSolver
from mnndask.errors import InputError, InputTypeError

FLAGS = ("cos_norm_in", "cos_norm_out", "var_adj", "compute_angle", "refine")


@dataclass(frozen=True)
class Parameters:
    """What the method is asked to do; :func:`mnndask.mnn_correct` has more on each parameter.

    Parameters
    ----------
    var_subset
        Names of the genes used for distances; None for all.
    k
        Number of nearest neighbours.
    sigma
        Bandwidth: Gaussian weights are ``exp(-squared distance / sigma)``.
    cos_norm_in, cos_norm_out
        Whether cells are divided by their length in *in* space (distances) and in *out* space (results).
    svd_dim
        Dimensions of biological variation of each side that are removed from the anchor vectors; None: none.
    var_adj
        Whether vectors are lengthened so that cells keep their rank along them.
    compute_angle
        Whether angles of corrections to the reference's leading plane are wanted.
    refine
        Whether pairs are refined, and anchor vectors averaged and shrunk.
    pair_averaging, repair_sigmas
        Cells averaged on either side of a pair, and bandwidths with which pairs are found again; None for
        the rules of :class:`mnndask.core.refined_pairs.Sizes`.
    shrinkage
        How much of their noise anchor vectors are shrunk by; 0 for none.
    mnn_order
        Order in which batches merge: positions or names, nested for a tree; ``"auto"``, ``"share"`` or
        ``"tree"`` (see :mod:`mnndask.core.merge_order`); None for input order.
    svd_mode, svd_options
        Solver of singular vectors, and options of Lanczos' method.
    restrict
        Cells of each batch to fit on; None for all.
    sketch_size, sketch_method
        Maximum number of fitted cells of each batch (None: all; ``"auto"``), and how they are drawn.
    n_components
        Number of principal components in which distances are taken; None for genes.
    random_state
        Seed.

    Raises
    ------
    InputError, InputTypeError
        If a value is invalid whatever the data; names the parameter and what it takes.
    """

    var_subset: Sequence[Hashable] | None = None
    k: int = 20
    sigma: float = 1.0
    cos_norm_in: bool = True
    cos_norm_out: bool = True
    svd_dim: int | None = None
    var_adj: bool = True
    compute_angle: bool = False
    refine: bool = False
    pair_averaging: int | None = None
    repair_sigmas: Sequence[float] | None = None
    shrinkage: float = 1.0
    mnn_order: Sequence[Any] | str | None = None
    svd_mode: str = "rsvd"
    restrict: Any = None
    sketch_size: int | str | None = "auto"
    sketch_method: str = "mixed"
    n_components: int | None = None
    random_state: int = 0
    svd_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self._check_numbers()
        for name in FLAGS:
            check_flag(name, getattr(self, name))
        self._check_refinement()
        self._check_solver()
        self._check_sketch()
        self._as_plain_types()

    def _as_plain_types(self) -> None:
        """Make numbers and flags of NumPy Python's own: single precision would limit what follows."""
        kinds: dict[str, Any] = {
            "k": int,
            "sigma": float,
            "svd_dim": int,
            "n_components": int,
            "random_state": int,
        }
        kinds |= {"pair_averaging": int, "repair_sigmas": _floats, "shrinkage": float}
        kinds |= dict.fromkeys(FLAGS, bool)
        for name, kind in kinds.items():
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else kind(value))

    @property
    def solver(self) -> SvdSolver:
        """Solver of singular vectors."""
        return SvdSolver(self.svd_mode, self.random_state, self.svd_options)

    def _check_numbers(self) -> None:
        for name in ("k", "sigma", "svd_dim", "n_components", "sketch_size", "random_state"):
            check_bits(name, getattr(self, name))
        for position in _leaves(self.mnn_order):
            check_bits("mnn_order", position)
        if not is_whole(self.k) or self.k <= 0:
            what = f"k is {self.k!r}."
            raise InputError(what, "Give a number of neighbours of at least 1; 20 is usual.")
        if not isinstance(self.sigma, Real) or not 0 < as_float(self.sigma) < np.inf:
            what = f"sigma is {self.sigma!r}."
            remedy = "Give a positive number: the squared distance over which corrections are smoothed."
            raise InputError(what, remedy)
        if self.svd_dim is not None and (not is_whole(self.svd_dim) or self.svd_dim < 0):
            what = f"svd_dim is {self.svd_dim!r}."
            raise InputError(what, "Give the number of dimensions to remove, or None for none.")
        if self.n_components is not None and (not is_whole(self.n_components) or self.n_components <= 0):
            what = f"n_components is {self.n_components!r}."
            remedy = "Give a number of principal components of at least 1, 50 say, or None to use the genes."
            raise InputError(what, remedy)
        if not is_whole(self.random_state) or not 0 <= self.random_state < 2**32:
            what = f"random_state is {self.random_state!r}."
            raise InputError(what, "Give a seed: a whole number from 0 to 4294967295.")

    def _check_refinement(self) -> None:
        for name in ("pair_averaging", "shrinkage"):
            check_bits(name, getattr(self, name))
        n, sigmas = self.pair_averaging, self.repair_sigmas
        if n is not None and (not is_whole(n) or n <= 0):
            what = f"pair_averaging is {n!r}."
            raise InputError(
                what, "Give a number of cells of at least 1 (no averaging), or None for the rule."
            )
        if sigmas is not None and not _are_positive(sigmas):
            what = f"repair_sigmas is {sigmas!r}."
            remedy = "Give positive numbers, from wide to narrow, such as 1.0, 0.3, or None for the rule."
            raise InputError(what, remedy)
        if not isinstance(self.shrinkage, Real) or not 0 <= as_float(self.shrinkage) < np.inf:
            what = f"shrinkage is {self.shrinkage!r}."
            raise InputError(
                what, "Give a number of at least 0: 1 shrinks vectors by their noise, 0 not at all."
            )
        given = {"pair_averaging": n, "repair_sigmas": sigmas}
        given |= {"shrinkage": None if self.shrinkage == 1 else self.shrinkage}
        given = {name: value for name, value in given.items() if value is not None}
        if given and not self.refine:
            words = ", ".join(f"{name}={value!r}" for name, value in given.items())
            what = f"{words} given without refine=True."
            raise InputError(what, "Set refine=True, or leave that out: only refined pairs use it.")

    def _check_solver(self) -> None:
        options = self.svd_options or {}
        if self.svd_mode not in SVD_MODES:
            what = f"svd_mode is {self.svd_mode!r}."
            raise InputError(what, f"Give one of: {', '.join(SVD_MODES)}.")
        unknown = [name for name in options if name not in LANCZOS_OPTIONS]
        if unknown:
            what = f"Unknown option(s): {', '.join(unknown)}."
            remedy = f"Besides its own parameters, mnn_correct takes: {', '.join(LANCZOS_OPTIONS)}."
            raise InputTypeError(what, remedy)
        if options and self.svd_mode != "irlb":
            what = f"{', '.join(options)} given, which only svd_mode='irlb' takes."
            raise InputTypeError(what, "Leave them out, or set svd_mode='irlb'.")
        for name, bits in (("ncv", 32), ("maxiter", 32), ("tol", 64)):
            check_bits(name, options.get(name), bits)
        if not isinstance(tol := options.get("tol", 0), Real) or not 0 <= as_float(tol) < np.inf:
            what = f"tol is {tol!r}."
            raise InputError(what, "Give the accuracy of singular values, a number of at least 0.")

    def _check_sketch(self) -> None:
        size: Any = self.sketch_size
        named = size is None or (isinstance(size, str) and size == "auto")
        if not named and (not is_whole(size) or size <= 0):
            what = f"sketch_size is {size!r}."
            raise InputError(what, "Give the most cells to fit on per batch, None for all, or 'auto'.")
        if not isinstance(self.sketch_method, str) or self.sketch_method not in SKETCH_METHODS:
            what = f"sketch_method is {self.sketch_method!r}."
            raise InputError(what, f"Give one of: {', '.join(SKETCH_METHODS)}.")
        if not named and self.restrict is not None:
            what = f"Both restrict and sketch_size={size} say which cells to fit on."
            raise InputError(what, "Give one of them; with restrict, leave sketch_size out.")


def _leaves(order: Any) -> list[Any]:
    """What is in nested lists."""
    return [leaf for part in order for leaf in _leaves(part)] if isinstance(order, list | tuple) else [order]


def _floats(values: Iterable[Real | float]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _are_positive(values: Any) -> bool:
    """Whether something is a sequence of one or more finite positive numbers."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray):
        return False
    if isinstance(values, np.ndarray) and values.ndim != 1:
        return False
    numbers = [isinstance(v, Real) and not isinstance(v, bool) and 0 < as_float(v) < np.inf for v in values]
    return bool(numbers) and all(numbers)


def is_whole(number: object) -> bool:
    """Whether something is an integer and not a bool."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def check_bits(name: str, number: object, bits: int = 64) -> None:
    """Refuse an integer that what computes with it, or a file, cannot represent."""
    if isinstance(number, int | np.integer) and int(number).bit_length() >= bits:
        what = f"{name} is a number of {int(number).bit_length()} bits."
        raise InputError(what, f"Give one that fits into a signed integer of {bits} bits.")


def as_float(number: Real | float) -> float:
    """Return a number in double precision: infinity if it is too large."""
    try:
        return float(number)
    except OverflowError:
        return np.inf


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool | np.bool_) and value not in (0, 1):
        what = f"{name} is {value!r}."
        raise InputTypeError(what, "Give True or False.")
