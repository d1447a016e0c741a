"""Checks of the parameters that do not depend on the data, and the order of merging."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from mnndask.budget import parse_memory
from mnndask.errors import InputError, InputNotFoundError, InputTypeError, ScratchError
from mnndask.kernels.subspace import LANCZOS_OPTIONS, SVD_MODES
from mnndask.location import Location

SKETCH_METHODS = ("mixed", "geometric", "random")
FLAGS = ("cos_norm_in", "cos_norm_out", "var_adj", "compute_angle", "do_concatenate", "save_raw")


def check_parameters(given: Mapping[str, Any]) -> None:
    """Refuse values that no data could make sense of.

    Raises
    ------
    InputError, InputTypeError
        Naming the parameter and what it takes.
    """
    _check_numbers(given)
    _check_kinds(given)
    _check_solver(given["svd_mode"], given["svd_options"] or {})
    _check_sketch(given["sketch_size"], given["sketch_method"], given["restrict"])
    parse_memory(given["memory_limit"])
    _check_scratch(given["scratch"], given["storage_options"])


def merge_order(mnn_order: Any, names: list[str]) -> list[int]:
    """Positions of the batches in merge order; `mnn_order` may name them instead."""
    if mnn_order is None:
        return list(range(len(names)))
    given = list(mnn_order) if isinstance(mnn_order, Iterable) else [mnn_order]
    order = [names.index(b) if isinstance(b, str) and b in names else b for b in given]
    if sorted(map(str, order)) != sorted(map(str, range(len(names)))):
        what = f"mnn_order {mnn_order!r} is no permutation of the {len(names)} batches."
        remedy = f"Name each once, by position (0 to {len(names) - 1}) or by name: {', '.join(names)}."
        raise InputError(what, remedy)
    return [int(b) for b in order]


def _check_scratch(folder: object, options: Mapping[str, Any] | None) -> None:
    if folder is None:
        return
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        what = f"scratch is {folder!r}."
        raise InputTypeError(what, "Give the path of a folder, or None for the system's.")
    location = Location.of(folder, options)
    if location.is_url:
        location.filesystem()  # object stores have no folders that could be missing
        return
    try:
        there = location.path.is_dir()
    except PermissionError as error:
        what = f"The scratch folder {folder} cannot be reached: permission denied."
        raise ScratchError(what, "Name one that can be written: scratch=...") from error
    if not there:
        what = f"The scratch folder {folder} does not exist."
        raise InputNotFoundError(what, "Create it first, or leave scratch out.")


def _whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _check_numbers(given: Mapping[str, Any]) -> None:
    k, sigma, svd_dim = given["k"], given["sigma"], given["svd_dim"]
    n_jobs, seed = given["n_jobs"], given["random_state"]
    if not _whole(k) or k <= 0:
        what = f"k is {k!r}."
        raise InputError(what, "Give a number of neighbours of at least 1; 20 is usual.")
    if not isinstance(sigma, Real) or not 0 < float(sigma) < np.inf:
        what = f"sigma is {sigma!r}."
        remedy = "Give a positive number: the squared distance over which corrections are smoothed."
        raise InputError(what, remedy)
    if svd_dim is not None and (not _whole(svd_dim) or svd_dim < 0):
        what = f"svd_dim is {svd_dim!r}."
        raise InputError(what, "Give the number of dimensions to remove, or None for none.")
    if given["n_components"] is not None and (
        not _whole(given["n_components"]) or given["n_components"] <= 0
    ):
        what = f"n_components is {given['n_components']!r}."
        remedy = "Give a number of principal components of at least 1, 50 say, or None to use the genes."
        raise InputError(what, remedy)
    if n_jobs is not None and (not _whole(n_jobs) or n_jobs == 0):
        what = f"n_jobs is {n_jobs!r}."
        raise InputError(what, "Give a number of threads, or None or -1 for all processors.")
    if not _whole(seed) or not 0 <= seed < 2**32:
        what = f"random_state is {seed!r}."
        raise InputError(what, "Give a seed: a whole number from 0 to 4294967295.")


def _check_sketch(size: Any, method: Any, restrict: Any) -> None:
    named = size is None or (isinstance(size, str) and size == "auto")
    if not named and (not _whole(size) or size <= 0):
        what = f"sketch_size is {size!r}."
        raise InputError(what, "Give the most cells to fit on per batch, None for all, or 'auto'.")
    if not isinstance(method, str) or method not in SKETCH_METHODS:
        what = f"sketch_method is {method!r}."
        raise InputError(what, f"Give one of: {', '.join(SKETCH_METHODS)}.")
    if not named and restrict is not None:
        what = f"Both restrict and sketch_size={size} say which cells to fit on."
        raise InputError(what, "Give one of them; with restrict, leave sketch_size out.")


def _check_kinds(given: Mapping[str, Any]) -> None:
    for name in FLAGS:
        if not isinstance(given[name], bool | np.bool_) and given[name] not in (0, 1):
            what = f"{name} is {given[name]!r}."
            raise InputTypeError(what, "Give True or False.")
    if not isinstance(given["show_progress"], bool | np.bool_ | None):
        what = f"show_progress is {given['show_progress']!r}."
        raise InputTypeError(what, "Give True, False, or None to show it where someone may be looking.")
    for name in ("batch_key", "layer", "index_unique"):
        optional = name != "batch_key"
        if not isinstance(given[name], str) and not (optional and given[name] is None):
            what = f"{name} is {given[name]!r}."
            raise InputTypeError(what, f"Give a string{', or None' if optional else ''}.")


def _check_solver(mode: str, options: Mapping[str, Any]) -> None:
    if mode not in SVD_MODES:
        what = f"svd_mode is {mode!r}."
        raise InputError(what, f"Give one of: {', '.join(SVD_MODES)}.")
    unknown = [name for name in options if name not in LANCZOS_OPTIONS]
    if unknown:
        what = f"Unknown option(s): {', '.join(unknown)}."
        raise InputTypeError(what, f"Beside its parameters mnn_correct takes: {', '.join(LANCZOS_OPTIONS)}.")
    if options and mode != "irlb":
        what = f"{', '.join(options)} given, which only svd_mode='irlb' takes."
        raise InputTypeError(what, "Leave them out, or set svd_mode='irlb'.")
