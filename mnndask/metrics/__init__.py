"""How well batches mix, whether what is alike stays together, and whether a correction did harm.

All take an embedding: coordinates of cells, shape ``(n_cells, n_dims)``, such as :func:`embed` gives. Mixing:
:func:`same_batch_fraction`, :func:`expected_same_batch`, :func:`mixing_by_batch`, :func:`lisi`. What a batch
was before: :func:`neighbors_kept`, :func:`contraction`. With labels: :func:`label_agreement`,
:func:`label_transfer`, :func:`agreement_by_label`. :func:`summarize` is all of them, before and after.
"""

from mnndask.metrics.agreement import agreement_by_label, label_agreement, label_transfer
from mnndask.metrics.embedding import embed
from mnndask.metrics.local_inverse_simpson import lisi
from mnndask.metrics.local_structure import contraction, neighbors_kept
from mnndask.metrics.mixing import expected_same_batch, mixing_by_batch, same_batch_fraction
from mnndask.metrics.summary import summarize

__all__ = [
    "agreement_by_label",
    "contraction",
    "embed",
    "expected_same_batch",
    "label_agreement",
    "label_transfer",
    "lisi",
    "mixing_by_batch",
    "neighbors_kept",
    "same_batch_fraction",
    "summarize",
]
