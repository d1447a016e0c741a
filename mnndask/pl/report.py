"""A self-contained HTML report on a correction: plots, tables, and what they mean."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from io import BytesIO
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mnndask._library_state import exclusive
from mnndask.diagnostics import html as markup
from mnndask.diagnostics.findings import Finding, findings, findings_of_labels, findings_of_support
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.diagnostics.verdict import NO_VERDICT, Verdict, verdicts
from mnndask.io.designs import confounding
from mnndask.io.record import Record, merged, never_moved
from mnndask.pl.cells import correction_length, variance_factor
from mnndask.pl.drawing import draw_to_files, short
from mnndask.pl.embeddings import embedding, pairs
from mnndask.pl.measures import merge_overview, mixing
from mnndask.pl.report_designs import conditions, order_of_merges
from mnndask.pl.report_genes import changed_genes
from mnndask.pl.report_terms import (
    LABELS_MEAN,
    MEASURES,
    MEASURES_MEAN,
    MIXING_MEANS,
    OF_LABELS,
    OF_MIXING,
    OF_STEPS,
    PARAMETERS_MEAN,
    STATES,
    STATES_MEAN,
    STEPS_MEAN,
    SUPPORT_MEANS,
)

if TYPE_CHECKING:
    pass

LIBRARIES = ("mnndask", "anndata", "dask", "zarr", "numpy", "scipy", "scikit-learn", "numba")
MOST_STEPS_DRAWN = 3  # first steps whose pairs are drawn
MOST_VERDICTS = 20  # of more batches, those that need attention come first


@exclusive()
def report(
    cells: RecordedCells,
    name: str,
    *,
    label: str | None = None,
    n_genes: int | None = None,
    seconds: Mapping[str, float] | None = None,
) -> tuple[str, list[str]]:
    """Create the report. Return its HTML and the findings in it that need attention.

    Parameters
    ----------
    cells
        Record of a correction, and its sampled cells.
    name
        Name of the result.
    label
        Column of obs with cell types.
    n_genes
        Number of genes of the result, if known.
    seconds
        Seconds that each part of the run took, if known.

    Raises
    ------
    InputError, InputKeyError
        If matplotlib is not installed, or there is no such column.
    """
    draw_to_files("A report contains plots")
    record = cells.record
    found = findings(record)
    sections = [_pictures("Before and after", _embeddings(cells, label))]
    overall = record.overall
    if overall is not None and record.mixing is not None:
        of_labels = ""
        if label is not None:
            overall, by_label = cells.by_label(label)
            support = cells.support_by_label(label)
            found += findings_of_labels(overall, by_label) + findings_of_support(support)
            of_labels = _by_label(by_label, support, label)
        sections += [
            _mixing(cells, record.mixing, label),
            markup.section("Measures of all batches", _measures(overall)),
            of_labels,
        ]
    sections += [conditions(cells, label), changed_genes(record), _steps(cells)]
    sections.append(_parameters(record, seconds))
    summary = (
        _verdict(record)
        + _data(record, n_genes)
        + markup.section("At a glance", f"<ul>{''.join(map(_item, found))}</ul>")
    )
    page = Template(files("mnndask.pl").joinpath("page.html").read_text(encoding="utf-8"))
    html = page.substitute(
        title=markup.text(f"Correction of {name}"), lead=_lead(cells), body="\n".join([summary, *sections])
    )
    return html, [finding.text for finding in found if finding.attention]


def _lead(cells: RecordedCells) -> str:
    steps, n = cells.steps, len(cells.sample["batch"])
    words = (
        f"{cells.n_cells:,} cells in {len(steps)} batches were corrected by matching mutual nearest "
        f"neighbours; {_references(steps)}. Plots and measures are "
        f"based on {n:,} cells"
        + (", drawn at random from those that the correction was fitted on." if n < cells.n_cells else ".")
    )
    return markup.text(words)


def _references(steps: pd.DataFrame) -> str:
    still = never_moved(steps)
    if len(still) == 1:
        return f"{still[0]} is the reference, which is not moved"
    some = ", ".join(short(still[:5])) + (", ..." if len(still) > 5 else "")
    return f"{some} are references, which are not moved"


def _item(finding: Finding) -> str:
    return f"<li{_attention(finding.attention)}>{markup.text(finding.text)}</li>"


def _attention(needed: bool) -> str:
    return ' class="attention"' if needed else ""


def _verdicts(record: Record) -> list[Verdict]:
    return verdicts(record.steps, record.mixing, record.parameters)


def _verdict(record: Record) -> str:
    """Section with the verdict on each batch, before everything else."""
    found = _verdicts(record)
    counts = Counter(one.outcome for one in found)
    many = len(found) > MOST_VERDICTS
    summary = f"<p>{markup.text(', '.join(f'{n:,} batches: {what}' for what, n in counts.items()))}.</p>"
    if many:
        found = sorted(found, key=lambda one: not one.attention)[:MOST_VERDICTS]
    items = [
        f"<li{_attention(one.attention)}><strong>{markup.text(f'{one.batch}: {one.outcome}.')}</strong> "
        f"{markup.text(one.figure)} {markup.text(one.next_step)} {markup.text(one.hint)}</li>"
        for one in found
    ]
    words = (
        "The verdict needs no cell types. It cannot show that a type of one batch was moved onto another "
        "type of another batch: look at marker genes, in the uncorrected values."
    )
    said = f"{summary if many else ''}<ul>{''.join(items)}</ul><p>{markup.text(words)}</p>"
    warning = ""
    if record.confounded is not None:
        what, remedy = confounding(record.confounded)
        warning = f'<ul><li class="attention">{markup.text(f"{what} {remedy}")}</li></ul>'
    return markup.section("Verdict", warning, said if found else f"<p>{markup.text(NO_VERDICT)}</p>")


def _data(record: Record, n_genes: int | None) -> str:
    """Section on what went in, and on what the corrected values are."""
    subset, about = record.parameters.get("var_subset"), record.meaning or {}
    every = "All genes" if n_genes is None else f"All {n_genes:,} genes"
    if isinstance(subset, np.ndarray | list):
        of = " genes" if n_genes is None else f" of the {n_genes:,} genes of the result"
        genes = f"{len(subset):,}{of}, such as {', '.join(map(str, subset[:3]))}"
    else:
        genes = every
    table = markup.html_table(
        record.steps,
        {"batch": "batch", "n_cells": "cells", "n_used": "cells used for the fit"},
    )
    meaning = {
        "Corrected values are in": about.get("where", "X"),
        "Their scale": about.get("scale", ""),
        **({"And, of the same cells, in": about["embedding"]} if "embedding" in about else {}),
        "They are for": about.get("for", ""),
        "They are not for": about.get("not_for", ""),
        "Genes used for distances": genes,
    }
    return markup.section("Values, genes and cells", markup.name_value_table(meaning, kind="terms"), table)


Picture = tuple[Callable[[], Any], str]


def _pictures(title: str, pictures: Sequence[Picture], *parts: str) -> str:
    figures = [_figure(draw, caption) for draw, caption in pictures]
    return markup.section(title, f'<div class="pictures">{"".join(figures)}</div>', *parts)


def _figure(draw: Callable[[], Any], caption: str) -> str:
    from matplotlib import pyplot as plt

    with exclusive() as changes:
        changes.enter_context(plt.rc_context({"font.size": 12}))  # readable on a phone, too
        ax = draw()
        figure, file = ax.get_figure(root=True), BytesIO()
        assert figure is not None
        figure.savefig(file, format="png", dpi=160)
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    title = ax.get_title().replace(r"\$", "$")
    about = markup.text(f"{title}. {caption}")
    words = markup.text(caption)
    image = f'<img alt="{about}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _embeddings(cells: RecordedCells, label: str | None) -> list[Picture]:
    out: list[Picture] = [
        (
            lambda: embedding(cells, "before"),
            "Batches that are separate here have a batch effect, or contain different cells.",
        ),
        (
            lambda: embedding(cells, "after"),
            "Batches should overlap wherever they contain the same cell types.",
        ),
    ]
    if label is not None:
        out += [
            (
                lambda: embedding(cells, "before", color=label),
                "Cell types that are separate here should stay separate.",
            ),
            (
                lambda: embedding(cells, "after", color=label),
                "Cell types should still be separate. Types that were separate before and are merged now are "
                "over-corrected.",
            ),
        ]
    return out


def _mixing(cells: RecordedCells, table: pd.DataFrame, label: str | None) -> str:
    drawn = (
        lambda: mixing(cells, label=label),
        "Share of a cell's neighbours from its own batch. After correction it should be near the share "
        "expected by chance; a batch with cell types of its own should stay above it.",
    )
    shown = markup.html_table(table, OF_MIXING, "batch", "expected before after neighbors_kept")
    return _pictures("Mixing of batches", [drawn], shown, markup.definitions(MIXING_MEANS))


def _measures(overall: Any) -> str:
    meaning = pd.Series(MEASURES_MEAN).reindex(overall.index)
    named = overall.assign(meaning=meaning.astype(object)).rename(index=MEASURES)
    named["worst_batch"] = named["worst_batch"].fillna("")
    return markup.html_table(named, STATES, "measure") + markup.definitions(STATES_MEAN)


def _by_label(by_label: Any, support: pd.DataFrame, label: str) -> str:
    shares = "agreement_before agreement_after transfer_before transfer_after"
    table = markup.html_table(by_label, OF_LABELS, label, shares)
    parts = [table, markup.definitions(LABELS_MEAN)]
    if support.notna().any(axis=None):
        headings = {name: f"support in {name}" for name in support.columns}
        parts += [markup.html_table(support, headings, label), markup.definitions(SUPPORT_MEANS)]
    return markup.section(f"Cell types, by {label}", *parts)


def _steps(cells: RecordedCells) -> str:
    pictures: list[Picture] = [
        (
            lambda: merge_overview(cells),
            "Batches merge one by one. Few paired cells mean that a batch has little in common with the "
            "batches before it.",
        ),
        (
            lambda: correction_length(cells),
            "A box spans the middle half of the cells, and its whiskers reach from 5 to 95 %. Much longer "
            "whiskers than in other batches show cells that were moved far.",
        ),
        (
            lambda: variance_factor(cells),
            "Variance adjustment lengthens corrections so that cells keep their rank in the reference. Shown "
            "are cells with a factor above 1.",
        ),
    ]
    caption = "Lines should be parallel, from each cell type to the same type."
    names = [str(name) for name in merged(cells.steps)["batch"]][:MOST_STEPS_DRAWN]
    pictures += [(partial(pairs, cells, name), caption) for name in names]
    shares = "paired paired_reference lengthened lost_variance"
    columns = {name: heading for name, heading in OF_STEPS.items() if name in cells.steps}
    table = order_of_merges(cells.record) + markup.html_table(cells.steps, columns, percent=shares)
    terms = STEPS_MEAN | (SUPPORT_MEANS if "support" in columns else {})
    return _pictures("Merge steps", pictures, table, markup.definitions(terms))


def _parameters(record: Record, seconds: Mapping[str, float] | None) -> str:
    parameters = sorted(record.parameters.items())
    given = {name: value for name, value in parameters if not isinstance(value, Mapping)}
    parts = [markup.section("Parameters", markup.name_value_table(given, PARAMETERS_MEAN, kind="terms"))]
    if record.sketch is not None:
        parts.append(markup.section("Sketch", markup.name_value_table(dict(sorted(record.sketch.items())))))
    if seconds:
        parts.append(markup.section("Time (s)", markup.name_value_table(seconds)))
    versions = {"corrected by mnndask": record.version}
    for library in LIBRARIES:
        try:
            versions[f"{library} (of this page)"] = version(library)
        except PackageNotFoundError:
            continue
    parts.append(markup.section("Versions", markup.name_value_table(versions)))
    return "".join(parts)
