"""What the measures of a correction mean, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from mnndask.diagnostics import FEWEST_PAIRED
from mnndask.recorded import Recorded

MUCH_LOST = 0.1  # of a batch's variance; batchelor's advice for lost.var
CONTRACTED = 0.8
KEPT = 0.5
FELL = 0.05  # of the agreement of labels
FELL_OF_ONE = 0.1  # of one label's
STEEP = 45  # degrees to the reference's biology


class Aid(NamedTuple):
    """A sentence, and whether it asks for attention."""

    text: str
    attention: bool = False


def aids(record: Recorded) -> list[Aid]:
    """What the record says, the merge steps first."""
    return [*_of_steps(record.steps), *_of_all(record)]


def _percent(share: float) -> str:
    """A share in words, with the digits that tell it from 0 and 100 %."""
    if 0 < share < 0.0005 or 0.9995 < share < 1:
        return "less than 0.1%" if share < 0.5 else "more than 99.9%"
    return f"{share:.1%}" if 0 < share < 0.1 or 0.995 < share < 1 else f"{share:.0%}"


def _of_steps(steps: pd.DataFrame) -> Iterator[Aid]:
    for row in steps.iloc[1:].to_dict("records"):
        name, share = row["batch"], row["paired"]
        few = share < FEWEST_PAIRED
        follow = "all others follow these few" if few else "the others follow those nearest to them"
        yield Aid(
            f"{_percent(share)} of the cells of {name} found a pair: {follow}."
            + (
                " Check that it shares cell types with the batches before it, or give a larger k."
                if few
                else ""
            ),
            few,
        )
        if row["lost_variance"] > MUCH_LOST:
            yield Aid(
                f"{name} lost {_percent(row['lost_variance'])} of its variance in the direction of its "
                f"correction: more than {MUCH_LOST:.0%} suggests that biology was removed with the batch "
                "effect.",
                True,
            )
        if row["angle"] < STEEP:
            yield Aid(
                f"Cells of {name} were moved at {row['angle']:.0f}° to the directions in which the reference "
                "varies most. The method assumes nearly 90°: at less, batch effect and biology are hard to "
                "tell apart.",
                True,
            )


def _of_all(record: Recorded) -> Iterator[Aid]:
    if "overall" not in record.uns:
        return
    overall = record.uns["overall"]
    same = overall.loc["same_batch"]
    yield Aid(
        f"Of a cell's nearest neighbours, {_percent(same['after'])} are of its own batch, and "
        f"{_percent(same['before'])} were before; if batches were mixed at random, "
        f"{_percent(same['ideal'])} would be."
        + (f" {same['worst_batch']} is farthest from that." if same["worst_batch"] else "")
    )
    kept = overall.loc["neighbors_kept"]
    if np.isfinite(kept["after"]):
        low = kept["after"] < KEPT
        yield Aid(
            f"{_percent(kept['after'])} of a cell's neighbours within its batch are still its neighbours."
            + (" So few mean that the correction scrambled what was there." if low else ""),
            bool(low),
        )
    shrunk = overall.loc["contraction"]
    if np.isfinite(shrunk["worst"]):
        drawn = shrunk["worst"] < CONTRACTED
        worst = f" ({shrunk['worst_batch']}: {shrunk['worst']:.2f})" if shrunk["worst_batch"] else ""
        yield Aid(
            f"Distances to near cells of the same batch are {shrunk['after']:.2f} times what they "
            f"were{worst}."
            + (" A batch that was drawn together looks mixed when it is not." if drawn else ""),
            bool(drawn),
        )


def aids_of_labels(overall: pd.DataFrame, by_label: pd.DataFrame) -> list[Aid]:
    """What measures that know of labels say; see :meth:`mnndask.recorded.Recorded.by_label`."""
    before, after = overall.loc[["label_agreement"], ["before", "after"]].to_numpy(float)[0]
    fell = before - after > FELL
    out = [
        Aid(
            f"{_percent(after)} of a cell's neighbours carry its label, and {_percent(before)} did before."
            + (" It fell: cells that differ have been merged. Try a smaller k or sigma." if fell else ""),
            bool(fell),
        )
    ]
    for label, row in zip(by_label.index, by_label.to_dict("records"), strict=True):
        before, after = row["agreement_before"], row["agreement_after"]
        if before - after > FELL_OF_ONE:
            words = (
                f"Cells labelled {label} have lost their like: {_percent(after)} of their neighbours carry "
                f"that label, and {_percent(before)} did."
            )
            out.append(Aid(words, True))
    return out
