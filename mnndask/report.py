"""A correction on one page that needs nothing else: pictures, tables, and what they mean."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from io import BytesIO
from string import Template
from typing import TYPE_CHECKING, Any

from mnndask import markup, pl
from mnndask.aids import Aid, aids, aids_of_labels
from mnndask.errors import InputError
from mnndask.recorded import Recorded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIBRARIES = ("mnndask", "anndata", "dask", "zarr", "numpy", "scipy", "scikit-learn", "numba")
MOST_STEPS_DRAWN = 3  # whose pairs are: of more, the first
OF_STEPS = {
    "batch": "batch",
    "n_cells": "cells",
    "n_used": "cells used",
    "n_pairs": "pairs",
    "paired": "cells with a pair",
    "paired_reference": "of those merged before",
    "length_median": "correction length, median",
    "length_95": "95 %",
    "lengthened": "variance factor > 1",
    "angle": "angle to biology (°)",
    "lost_variance": "variance lost",
    "mixing_before": "mixing before",
    "mixing_after": "mixing after",
}
MEASURES = {
    "same_batch": "neighbours of the same batch (share)",
    "same_batch_ratio": "the same, times what chance would have",
    "lisi": "batches in a neighbourhood (LISI, effective number)",
    "neighbors_kept": "neighbours within the batch that were kept (share)",
    "contraction": "distance to near cells of the batch (times)",
    "label_agreement": "neighbours of the same label (share)",
    "label_transfer": "label told by cells of other batches (share)",
}
STATES = {
    "before": "before",
    "after": "after",
    "ideal": "ideal",
    "worst_batch": "worst batch",
    "worst": "its value",
}


def report(
    record: Recorded, name: str, *, label: str | None = None, seconds: Mapping[str, float] | None = None
) -> tuple[str, list[str]]:
    """Make the page; gives its HTML, and the sentences in it that ask for attention.

    Parameters
    ----------
    record
        What a correction recorded.
    name
        Of the result.
    label
        Column of obs with the kinds of cells.
    seconds
        What took how long, if that is known.

    Raises
    ------
    InputError, InputKeyError
        If matplotlib is not installed, or there is no such column.
    """
    _without_windows()
    said = aids(record)
    sections = [_pictures("Before and after", _embeddings(record, label))]
    if "overall" in record.uns:
        overall = record.uns["overall"]
        of_labels = ""
        if label is not None:
            overall, by_label = record.by_label(label)
            said += aids_of_labels(overall, by_label)
            of_labels = _by_label(by_label, label)
        sections += [_mixing(record, label), _section("Measures", _measures(overall)), of_labels]
    sections += [_steps(record), _parameters(record, seconds)]
    first = _section("At a glance", f"<ul>{''.join(map(_item, said))}</ul>")
    page = Template(files("mnndask").joinpath("page.html").read_text(encoding="utf-8"))
    html = page.substitute(
        title=markup.text(f"Correction of {name}"), lead=_lead(record), body="\n".join([first, *sections])
    )
    return html, [aid.text for aid in said if aid.attention]


def _without_windows() -> None:
    """Draw on no screen, and raise InputError if matplotlib is not there."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        what = "A report has pictures, and matplotlib is not installed."
        raise InputError(what, 'Install it: pip install "mnndask[plot]".') from error
    mpl.use("Agg")


def _lead(record: Recorded) -> str:
    steps, n = record.steps, len(record.sample["row"])
    words = (
        f"{record.n_cells:,} cells in {len(steps)} batches were corrected by matching mutual nearest "
        "neighbours; "
        f"{steps['batch'].iloc[0]} is the reference, which is not moved. Pictures and measures are of "
        f"{n:,} cells"
        + (", drawn at random from those that the correction was fitted on." if n < record.n_cells else ".")
    )
    return markup.text(words)


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{markup.text(title)}</h2>{''.join(parts)}</section>"


def _item(aid: Aid) -> str:
    return f"<li{' class=attention' if aid.attention else ''}>{markup.text(aid.text)}</li>"


Picture = tuple[Callable[[], "Axes"], str]


def _pictures(title: str, pictures: Sequence[Picture], *parts: str) -> str:
    figures = [_figure(draw, caption) for draw, caption in pictures]
    return _section(title, f'<div class="pictures">{"".join(figures)}</div>', *parts)


def _figure(draw: Callable[[], Axes], caption: str) -> str:
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 12}):  # to be read on a telephone, too
        ax = draw()
        figure, file = ax.get_figure(root=True), BytesIO()
        assert figure is not None
        figure.savefig(file, format="png", dpi=160)
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    about = markup.text(f"{ax.get_title()}. {caption}")
    words = markup.text(caption)
    image = f'<img alt="{about}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _embeddings(record: Recorded, label: str | None) -> list[Picture]:
    out: list[Picture] = [
        (
            lambda: pl.embedding(record, "before"),
            "Batches that lie apart here have a batch effect, or hold other cells.",
        ),
        (
            lambda: pl.embedding(record, "after"),
            "Batches should lie over each other, as far as they hold the same kinds.",
        ),
    ]
    if label is not None:
        out += [
            (lambda: pl.embedding(record, "before", color=label), "Each kind of cell, before."),
            (
                lambda: pl.embedding(record, "after", color=label),
                "Kinds should still be apart: those that were merged, and were not before, are "
                "over-corrected.",
            ),
        ]
    return out


def _mixing(record: Recorded, label: str | None) -> str:
    drawn = (
        lambda: pl.mixing(record, label=label),
        "How many of a cell's neighbours are of its own batch. After correction it should be near what "
        "chance "
        "would have; a batch with kinds of cells that no other has stays above it, and should.",
    )
    columns = {
        "cells": "cells",
        "expected": "by chance",
        "before": "before",
        "after": "after",
        "excess_after": "excess after",
        "neighbors_kept": "neighbours kept",
        "contraction": "contraction",
    }
    shown = markup.table(record.uns["mixing"], columns, "batch", "expected before after neighbors_kept")
    return _pictures("Mixing of batches", [drawn], shown)


def _measures(overall: Any) -> str:
    named = overall.rename(index=MEASURES)
    named["worst_batch"] = named["worst_batch"].fillna("")
    return markup.table(named, STATES, "measure")


def _by_label(by_label: Any, label: str) -> str:
    columns = {
        "cells": "cells",
        "batches": "batches",
        "agreement_before": "agreement before",
        "agreement_after": "after",
        "transfer_before": "transfer before",
        "transfer_after": "after",
    }
    shares = "agreement_before agreement_after transfer_before transfer_after"
    words = (
        "<p>Agreement: neighbours that carry a cell's own label. Transfer: cells whose label the nearest "
        "cells of "
        "other batches tell. Agreement that falls means that kinds were merged.</p>"
    )
    return _section(f"Kinds of cells, by {label}", words, markup.table(by_label, columns, label, shares))


def _steps(record: Recorded) -> str:
    pictures: list[Picture] = [
        (
            lambda: pl.merge_overview(record),
            "Batches merge one after the other. Few paired cells mean that a batch shares little with "
            "those before.",
        ),
        (
            lambda: pl.correction_length(record),
            "Box: middle half of the cells; whiskers: 5 to 95 %. Much longer whiskers than others' show "
            "cells that "
            "were dragged far.",
        ),
        (
            lambda: pl.variance_factor(record),
            "Variance adjustment lengthens corrections so that cells keep their rank in the reference; "
            "of cells "
            "with a factor above 1.",
        ),
    ]
    told = "Lines should run alike, from each kind of cell to the same kind."
    names = list(record.batches.categories)[1 : 1 + MOST_STEPS_DRAWN]
    pictures += [(partial(pl.pairs, record, name), told) for name in names]
    shares = "paired paired_reference lengthened lost_variance"
    words = (
        "<p>Variance lost: share of the batch's variance that the correction took away along its own "
        "direction, as "
        "batchelor's lost.var; above 10 % biology may have gone with the batch effect. Mixing: "
        "neighbours of the "
        "batch's cells that are of those merged before, times what chance would have.</p>"
    )
    return _pictures("Merge steps", pictures, markup.table(record.steps, OF_STEPS, percent=shares), words)


def _parameters(record: Recorded, seconds: Mapping[str, float] | None) -> str:
    parameters = sorted(record.uns["parameters"].items())
    given = {name: value for name, value in parameters if not isinstance(value, Mapping)}
    parts = [_section("Parameters", markup.pairs(given))]
    if "sketch" in record.uns:
        parts.append(_section("Sketch", markup.pairs(dict(sorted(record.uns["sketch"].items())))))
    if seconds:
        parts.append(_section("Time (s)", markup.pairs(seconds)))
    versions = {"corrected by mnndask": record.uns["version"]}
    for library in LIBRARIES:
        try:
            versions[f"{library} (of this page)"] = version(library)
        except PackageNotFoundError:
            continue
    parts.append(_section("Versions", markup.pairs(versions)))
    return "".join(parts)
