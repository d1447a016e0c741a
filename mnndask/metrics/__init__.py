"""Metrics of a correction: how well batches mix, whether like cells stay together, and what was damaged.

All metrics take an embedding: coordinates of cells, shape ``(n_cells, n_dims)``, such as :func:`embed`
returns. Mixing: :func:`same_batch_fraction`, :func:`expected_same_batch`, :func:`mixing_by_batch`,
:func:`lisi`. Structure within batches: :func:`neighbors_kept`, :func:`contraction`. With labels:
:func:`label_agreement`, :func:`label_transfer`, :func:`agreement_by_label`. :func:`summarize` computes all of
them, before and after.
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


def __dir__() -> list[str]:
    return sorted(__all__)
