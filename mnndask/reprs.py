"""What notebooks show of fitted objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mnndask.markup import table, text

if TYPE_CHECKING:
    from mnndask.fitting import Fitted
    from mnndask.model import CorrectionModel


def repr_of_fit(fitted: Fitted) -> str:
    """What each merge step did; nothing is measured for it that was not yet."""
    steps, seen = fitted.recorded["steps"].copy(), fitted.diagnostics
    measured = pd.DataFrame([{}, *(seen.steps[b] for b in seen.order[1:])], dtype=float)
    steps = steps.join(measured.set_axis(steps.index))
    columns = {
        "batch": "batch",
        "n_cells": "cells",
        "n_used": "cells used",
        "n_pairs": "pairs",
        "paired": "cells with a pair",
        "length_median": "correction length, median",
        "lost_variance": "variance lost",
    }
    return f"<p>Merged in this order:</p>{table(steps, columns, percent='paired lost_variance')}"


def repr_of_model(model: CorrectionModel) -> str:
    """Size of a model, and the anchors of each step."""
    spaces = model.spaces
    dims = f"{spaces.n_near:,} genes"
    if spaces.n_components is not None:
        dims = f"{spaces.n_components:,} components of {dims}"
    rows = [
        {"batch": model.names[b], "role": "reference", "anchors": float("nan"), "compared": float("nan")}
        if b not in model.steps
        else {
            "batch": model.names[b],
            "role": "merged",
            "anchors": len(model.steps[b].anchors),
            "compared": len(ref) if (ref := model.steps[b].ref) is not None else float("nan"),
        }
        for b in model.order
    ]
    about = (
        f"corrects {spaces.n_genes:,} genes of {len(model.order)} batches, with distances in {dims}, "
        f"sigma {model.sigma:g}, in {spaces.dtype}"
    )
    columns = {
        "batch": "batch",
        "role": "role",
        "anchors": "anchors (cells with a pair)",
        "compared": "cells that variance is adjusted to",
    }
    return f"<div><b>CorrectionModel</b> {text(about)}</div>{table(pd.DataFrame(rows), columns)}"
