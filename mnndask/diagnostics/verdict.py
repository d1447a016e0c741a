"""A verdict on each batch: mixed as expected, still apart or over-corrected, and what to try next.

The verdict rests on measures that a correction records (see :mod:`mnndask.diagnostics.shared_cells`), which
need no labels. Its limits were calibrated on simulated batches of known types: ``python -m
benchmarks.verdicts``. No measure without labels shows that a type of one batch was moved onto another type of
another batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from mnndask._library_state import exclusive
from mnndask._text import printable
from mnndask.diagnostics.effect import LEAST_EFFECT, effect_line
from mnndask.diagnostics.findings import LITTLE_SUPPORT, percent
from mnndask.diagnostics.measures import FEWEST_PAIRED
from mnndask.io.record import merged
from mnndask.io.record_checks import OF_VERDICTS

LEAST_SEPARATION = 0.18  # from which a batch is apart, if its lower quartile over regions is, too
LEAST_SEPARATION_LOW = 0.15  # what a type that the other side lacks cannot reach alone
NEARLY_MIXED = 0.1
MOST_MERGED = 0.025  # share of a cell's neighbours in its batch that were far from it before
LEAST_SCALE = 0.3  # of the distances within a batch; a batch drawn together more is over-corrected
SMALL_SIGMA, USUAL_SIGMA = 0.1, 1.0
USUAL_K, MANY_NEIGHBORS = 20, 0.05  # of the cells of a batch
USUAL_COMPONENTS = 50
MANY_UNSUPPORTED = 0.05  # share of a batch's cells with little support; 0.02 without any type that is absent

MOST_LINES, FEW_LINES = 20, 10  # of more batches, so many lines

Outcome = Literal["mixed as expected", "still apart", "over-corrected", "not judged"]
NO_VERDICT = (
    "No verdict on the batches: the version of mnndask that corrected them did not measure what it needs. "
    "Correct the data again to have one."
)


@dataclass(frozen=True)
class Verdict:
    """A verdict on one batch.

    Parameters
    ----------
    batch
        Name of the batch.
    outcome
        What became of it.
    figure
        The figure that the verdict rests on, as a sentence.
    change
        Parameters to try next, with their values.
    advice
        What else to try or check, as a sentence; may be empty.
    hint
        What cells with little support may mean; empty if there are few.
    """

    batch: str
    outcome: Outcome
    figure: str
    change: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    hint: str = ""

    @property
    def attention(self) -> bool:
        """Whether the batch needs attention."""
        return self.outcome in ("still apart", "over-corrected")

    @property
    def next_step(self) -> str:
        """What to try next; empty if nothing."""
        given = " and ".join(f"{name}={value}" for name, value in self.change.items())
        return " ".join(filter(None, (f"Try {given}." if given else "", self.advice)))

    def line(self, words: Callable[[str], str] = str) -> str:
        """Return the verdict as one line; `words` translates the names of parameters."""
        said = f"{printable(self.batch)}: {self.outcome}.", self.figure, words(self.next_step), self.hint
        return " ".join(filter(None, said))


@exclusive()
def verdicts(
    steps: pd.DataFrame, mixing: pd.DataFrame | None, parameters: Mapping[str, Any]
) -> list[Verdict]:
    """Return the verdict on each batch but the reference, in merge order.

    Parameters
    ----------
    steps, mixing, parameters
        As recorded; see :class:`mnndask.io.record.Record`.

    Returns
    -------
    Empty if an earlier version recorded the correction, which did not measure what verdicts need.
    """
    if not set(OF_VERDICTS) <= set(steps.columns):
        return []
    scales = {} if mixing is None else dict(zip(mixing.index.astype(str), mixing["contraction"], strict=True))
    rows = merged(steps).to_dict("records")
    smallest = int(steps["n_used"].min())
    found = [_of_batch(row, scales.get(str(row["batch"]), np.nan), parameters, smallest) for row in rows]
    return [replace(_with_effect(one, row), hint=_hint(row)) for one, row in zip(found, rows, strict=True)]


def verdict_lines(
    steps: pd.DataFrame,
    mixing: pd.DataFrame | None,
    parameters: Mapping[str, Any],
    words: Callable[[str], str] = str,
) -> list[str]:
    """Return one line per verdict, with what to try next, or the reason why there is none.

    Of many verdicts, those that need attention, and how many batches have each outcome.
    """
    found = verdicts(steps, mixing, parameters)
    if not found:
        return [] if len(steps) < 2 else [NO_VERDICT]
    if len(found) <= MOST_LINES:
        return [verdict.line(words) for verdict in found]
    counts = Counter(verdict.outcome for verdict in found)
    needed = [verdict for verdict in found if verdict.attention]
    lines = [f"{n:,} batches: {outcome}" for outcome, n in counts.items()]
    lines += [verdict.line(words) for verdict in needed[:FEW_LINES]]
    return lines if len(needed) <= FEW_LINES else [*lines, f"and {len(needed) - FEW_LINES:,} more"]


def _with_effect(verdict: Verdict, row: Mapping[Any, Any]) -> Verdict:
    """Add whether there is an effect. That there is none would contradict a verdict that needs attention."""
    contradicts = verdict.attention and row.get("effect", np.nan) < LEAST_EFFECT
    said = "" if contradicts else effect_line(row)
    return replace(verdict, figure=f"{verdict.figure} {said}".rstrip())


def _hint(row: Mapping[Any, Any]) -> str:
    """Say that some cells have little support, if they are many; records of other fits have none."""
    share = row.get("unsupported", 0.0)
    return f"{percent(share)} of its cells have {LITTLE_SUPPORT}" if share >= MANY_UNSUPPORTED else ""


def _of_batch(row: Mapping[Any, Any], scale: float, parameters: Mapping[str, Any], smallest: int) -> Verdict:
    name, merged, own, matched = str(row["batch"]), row["merged"], row["own_share"], row["matched_share"]
    if scale < LEAST_SCALE:
        figure = (
            f"Distances within it are {scale:.2f} times what they were: the batch was drawn together, and "
            "cells that differ overlap."
        )
        return Verdict(name, "over-corrected", figure, *_after_merging(parameters, smallest))
    if merged >= MOST_MERGED:
        figure = (
            f"{percent(merged)} of a cell's nearest cells in its own batch were not near it before: cells of "
            "different types were merged."
        )
        return Verdict(name, "over-corrected", figure, *_after_merging(parameters, smallest))
    if np.isnan(own):
        k = int(_number(parameters, "k", USUAL_K))
        few = {"k": 2 * k} if k < USUAL_K else {}
        return Verdict(name, "not judged", "It has too few cells or pairs.", few)
    shares = (
        f"Where pairs connect it with the batches before it, {percent(own)} of the neighbours of its cells "
        f"are its own, and {percent(matched)} of those of matching cells"
    )
    if own - matched >= LEAST_SEPARATION and row["separation_low"] >= LEAST_SEPARATION_LOW:
        return Verdict(
            name, "still apart", f"{shares}; if mixed, these would be equal.", *_when_apart(row, parameters)
        )
    nearly = own - matched < NEARLY_MIXED
    end = "nearly equal, as in mixed batches" if nearly else "not equal, but closer to it than to 100% and 0%"
    return Verdict(name, "mixed as expected", f"{shares}: {end}.")


def _when_apart(row: Mapping[Any, Any], parameters: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return parameters to try, and advice, for a batch that is still apart."""
    k, sigma = int(_number(parameters, "k", USUAL_K)), _number(parameters, "sigma", USUAL_SIGMA)
    reference = "Another reference, which has more of its cell types, may also help (mnn_order)."
    if row["paired"] < FEWEST_PAIRED:
        return {"k": max(USUAL_K, 2 * k)}, reference
    if "svd_dim" in parameters:
        return {}, "Leave out svd_dim, which forbids corrections in the directions that vary most."
    if "n_components" not in parameters:
        return {"n_components": USUAL_COMPONENTS, "sigma": min(sigma, SMALL_SIGMA)}, ""
    if sigma > SMALL_SIGMA:
        return {"sigma": SMALL_SIGMA}, ""
    genes = (
        "" if "var_subset" in parameters else "Use only highly variable genes for distances (var_subset). "
    )
    return {"k": 2 * k}, genes + reference


def _after_merging(parameters: Mapping[str, Any], smallest: int) -> tuple[dict[str, Any], str]:
    """Return parameters to try, and advice, for a batch that is over-corrected."""
    k, sigma = int(_number(parameters, "k", USUAL_K)), _number(parameters, "sigma", USUAL_SIGMA)
    if k > USUAL_K and k > MANY_NEIGHBORS * smallest:
        return {"k": USUAL_K}, ""
    if sigma < SMALL_SIGMA:
        return {"sigma": SMALL_SIGMA}, ""
    advice = "Check that a batch merged before it has its cell types: else change mnn_order."
    if sigma < USUAL_SIGMA:
        return {"sigma": USUAL_SIGMA}, advice
    return {"k": max(1, k // 2)}, advice


def _number(parameters: Mapping[str, Any], name: str, usual: float) -> float:
    """Return a recorded parameter, which may be damaged or missing."""
    value = parameters.get(name)
    return float(value) if isinstance(value, int | float | np.number) and np.isfinite(value) else usual
