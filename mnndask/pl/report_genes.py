"""Section of the report on genes: whose pattern changed most, and which lost most of their variance."""

from __future__ import annotations

from mnndask.diagnostics import html as markup
from mnndask.io.record import Record
from mnndask.io.record_checks import OF_GENES

WORDS = (
    "Variance removed is the share of a gene's variance over all cells that the correction took away; it is "
    "negative where variance was added. The correlation is that of corrected with uncorrected values within "
    "batches. A gene of low correlation no longer shows the pattern that it had there: read it from the "
    "uncorrected values. Measured on up to 500 cells of each batch; var of the result has all genes."
)


def changed_genes(record: Record) -> str:
    """Table of the genes that the correction changed most; empty if that was not measured."""
    if record.genes is None or not len(record.genes):
        return ""
    removed, correlation = OF_GENES
    names = {"gene": "gene", removed: "variance removed", correlation: "correlation within batches"}
    table = markup.html_table(record.genes, names)
    return markup.section("Genes that changed most", f"<p>{markup.text(WORDS)}</p>", table)
