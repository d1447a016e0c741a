"""Section of the report on genes: whose pattern changed most, and which lost most of their variance."""

from __future__ import annotations

from mnndask.diagnostics import html as markup
from mnndask.io.record import Record
from mnndask.io.record_checks import OF_GENES, SIGNS_CHANGED

MEANINGS = {
    "variance removed": (
        "Share of a gene's variance over all cells that the correction took away. It is negative where "
        "variance was added."
    ),
    "correlation within batches": (
        "Correlation of corrected with uncorrected values within batches. A gene of low correlation no "
        "longer shows the pattern that it had there: read it from the uncorrected values."
    ),
}
REVERSED = (
    "Share of the differences between labels within batches, as far as they are more than noise, that have "
    "the other sign after the correction: the label that had more of the gene then has less."
)
WORDS = "Measured on up to 500 cells of each batch. Columns of var of the result have these for all genes."


def changed_genes(record: Record) -> str:
    """Table of the genes that the correction changed most; empty if that was not measured."""
    if record.genes is None or not len(record.genes):
        return ""
    removed, correlation = OF_GENES
    names = {"gene": "gene", removed: "variance removed", correlation: "correlation within batches"}
    meanings = dict(MEANINGS)
    if SIGNS_CHANGED in record.genes:
        names[SIGNS_CHANGED] = "differences between labels reversed"
        meanings[names[SIGNS_CHANGED]] = REVERSED
    table = markup.html_table(record.genes, names)
    words = f"<p>{markup.text(WORDS)}</p>"
    return markup.section("Genes that changed most", table, markup.definitions(meanings), words)
