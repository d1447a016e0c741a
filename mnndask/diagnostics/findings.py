"""Interpret the measures of a correction in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mnndask.core.support import LITTLE
from mnndask.diagnostics.measures import FEWEST_PAIRED
from mnndask.io.record import Record, merged

MOST_VARIANCE_LOST = 0.1  # of a batch; as batchelor advises for lost.var
LEAST_CONTRACTION = 0.8
FEWEST_NEIGHBORS_KEPT = 0.5
LARGEST_DROP = 0.05  # of the agreement of labels
LARGEST_DROP_OF_LABEL = 0.1  # of the agreement of one label
LITTLE_SUPPORT = (
    f"support below {LITTLE} (most cells nearest to them found no pair): their type may be absent from the "
    "reference. This is a hint only: cells that were shifted far, or of which the reference has far fewer, "
    "have little support, too."
)
MOST_BATCHES, FEW_FINDINGS = 20, 10  # of more batches, so many findings that need attention
SMALLEST_ANGLE = 45  # degrees between corrections and the reference's leading directions


class Finding(NamedTuple):
    """A sentence, and whether it needs attention."""

    text: str
    attention: bool = False


def findings(record: Record) -> list[Finding]:
    """Return the findings of a record, those of merge steps first."""
    of_steps, n_batches = list(_of_steps(record.steps)), len(merged(record.steps))
    if n_batches > MOST_BATCHES:
        needed = [finding for finding in of_steps if finding.attention]
        low, middle, high = merged(record.steps)["paired"].quantile([0, 0.5, 1])
        said = (
            f"{percent(low)} to {percent(high)} of the cells of each of {n_batches:,} batches found a pair, "
            f"{percent(middle)} in the median batch."
        )
        more = len(needed) - FEW_FINDINGS
        rest = [Finding(f"and {more:,} findings more like these.", True)] if more > 0 else []
        of_steps = [Finding(said), *needed[:FEW_FINDINGS], *rest]
    return [*of_steps, *_of_all(record)]


def percent(share: float) -> str:
    """Format a share, with enough digits to distinguish it from 0 and 100 %."""
    if 0 < share < 0.0005 or 0.9995 < share < 1:
        return "less than 0.1%" if share < 0.5 else "more than 99.9%"
    return f"{share:.1%}" if 0 < share < 0.1 or 0.995 < share < 1 else f"{share:.0%}"


def _of_steps(steps: pd.DataFrame) -> Iterator[Finding]:
    for row in merged(steps).to_dict("records"):
        name, share = row["batch"], row["paired"]
        few = share < FEWEST_PAIRED
        yield Finding(
            f"{percent(share)} of the cells of {name} found a pair: "
            + (
                "all other cells follow these few. Check that it shares cell types with the batches before "
                "it, or give a larger k."
                if few
                else "the other cells follow the nearest of them."
            ),
            few,
        )
        if row["lost_variance"] > MOST_VARIANCE_LOST:
            yield Finding(
                f"{name} lost {percent(row['lost_variance'])} of its variance along the direction of its "
                f"correction. More than {MOST_VARIANCE_LOST:.0%} suggests that biology was removed with the "
                "batch effect.",
                True,
            )
        if row["angle"] < SMALLEST_ANGLE:
            yield Finding(
                f"Cells of {name} were moved at {row['angle']:.0f}° to the directions in which the reference "
                "varies most. The method assumes nearly 90°: at smaller angles, batch effect and biology are "
                "hard to tell apart.",
                True,
            )


def _of_all(record: Record) -> Iterator[Finding]:
    if record.overall is None:
        return
    overall: Any = record.overall
    same = overall.loc["same_batch"]
    yield Finding(
        f"{percent(same['after'])} of a cell's nearest neighbours belong to its own batch "
        f"({percent(same['before'])} before correction). If batches were mixed at random, it would be "
        f"{percent(same['ideal'])}."
        + (f" {same['worst_batch']} is farthest from that." if same["worst_batch"] else "")
    )
    kept = overall.loc["neighbors_kept"]
    if np.isfinite(kept["after"]):
        low = kept["after"] < FEWEST_NEIGHBORS_KEPT
        yield Finding(
            f"{percent(kept['after'])} of a cell's neighbours within its batch are still its neighbours."
            + (" A share this low means that the correction scrambled the batches." if low else ""),
            bool(low),
        )
    distances = overall.loc["contraction"]
    if np.isfinite(distances["worst"]):
        contracted = distances["worst"] < LEAST_CONTRACTION
        worst = f" ({distances['worst_batch']}: {distances['worst']:.2f})" if distances["worst_batch"] else ""
        yield Finding(
            f"Distances to nearby cells of the same batch are {distances['after']:.2f} times what they "
            f"were before{worst}."
            + (" A batch that was contracted can look mixed when it is not." if contracted else ""),
            bool(contracted),
        )


def findings_of_support(support: pd.DataFrame) -> list[Finding]:
    """Say which labels have little support, in which batches; see ``RecordedCells.support_by_label``."""
    return [
        Finding(f"Cells labelled {label} of {batch} ({mean:.2f} on average) have {LITTLE_SUPPORT}")
        for label, row in zip(support.index, support.to_numpy(), strict=True)
        for batch, mean in zip(support.columns, row, strict=True)
        if mean < LITTLE
    ]


def findings_of_labels(overall: pd.DataFrame, by_label: pd.DataFrame) -> list[Finding]:
    """Return the findings of measures that use labels, as ``RecordedCells.by_label`` returns them."""
    before, after = overall.loc[["label_agreement"], ["before", "after"]].to_numpy(float)[0]
    dropped = before - after > LARGEST_DROP
    out = [
        Finding(
            f"{percent(after)} of a cell's neighbours have its label ({percent(before)} before correction)."
            + (" The drop means that unlike cells were merged. Try a smaller k or sigma." if dropped else ""),
            bool(dropped),
        )
    ]
    for label, row in zip(by_label.index, by_label.to_dict("records"), strict=True):
        before, after = row["agreement_before"], row["agreement_after"]
        if before - after > LARGEST_DROP_OF_LABEL:
            words = (
                f"Cells labelled {label} were merged with others: {percent(after)} of their neighbours have "
                f"that label ({percent(before)} before correction)."
            )
            out.append(Finding(words, True))
    return out
