"""Elements of an AnnData that are computed from its expression values: they do not describe corrected ones.

Scanpy reads them by name: with the input's principal components in a result, ``sc.pp.neighbors`` would build
a graph of the uncorrected cells. Names and contents are those that scanpy writes, also under a user's keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from anndata import AnnData

from mnndask.io.anndata_compat import is_mapping

Element = tuple[str, Any]  # slot, key

EMBEDDING = re.compile(r"(x_)?(pca|umap|t-?sne|diffmap|phate|trimap|mnn|draw_graph_.+)", re.IGNORECASE)
GRAPH = re.compile(r"(?!spatial)(.+_)?(connectivities|distances)", re.IGNORECASE)
RECORD = re.compile(r"(rank_genes_groups|dendrogram).*|pca|neighbors|umap|tsne|diffmap_evals|draw_graph|paga")
PATTERNS = {"obsm": EMBEDDING, "varm": re.compile("PCs"), "obsp": GRAPH, "uns": RECORD}
OF_GRAPH = ("connectivities_key", "distances_key")


def derived_elements(datas: Sequence[AnnData]) -> list[set[Element]]:
    """Return slot and key of each element of each AnnData that is computed from its expression values.

    They are embeddings (PCA, UMAP, t-SNE, diffusion maps, force-directed graphs, earlier corrections) with
    their loadings and records, graphs of neighbours, rankings of genes, dendrograms and PAGA. An element that
    one AnnData records as such is one in all. Graphs of spatial coordinates and other embeddings are not
    derived.
    """
    recorded = set().union(*(_recorded(adata.uns) for adata in datas))
    return [{element for element in _elements(adata) if _is_derived(*element, recorded)} for adata in datas]


def _elements(adata: AnnData) -> Iterator[Element]:
    for slot in PATTERNS:
        yield from ((slot, key) for key in getattr(adata, slot))


def _is_derived(slot: str, key: Any, recorded: set[Element]) -> bool:
    if (slot, key) in recorded:
        return True
    if ("spatial", key) in recorded or not isinstance(key, str):
        return False
    return PATTERNS[slot].fullmatch(key) is not None


def _recorded(uns: Mapping[Any, Any]) -> set[Element]:
    """Elements that ``uns`` describes as derived, and as ``"spatial"`` those that it describes as not."""
    out: set[Element] = set()
    for key, value in uns.items():
        if not is_mapping(value):
            continue
        if any(name in value for name in OF_GRAPH):
            graphs = {str(value[name]) for name in OF_GRAPH if name in value}
            slot = "spatial" if "coord_type" in _parameters(value) else "obsp"
            out |= {(slot, graph) for graph in graphs} | ({("uns", key)} if slot == "obsp" else set())
        elif any(known(value) for known in RECORDS):
            out |= {(slot, key) for slot in ("obsm", "varm", "uns")}
    return out


def _parameters(value: Mapping[Any, Any]) -> Any:
    parameters = value.get("params", {})
    return parameters if is_mapping(parameters) else {}


def _has(*names: str) -> Callable[[Mapping[Any, Any]], bool]:
    return lambda value: all(name in value for name in names)


RECORDS: tuple[Callable[[Mapping[Any, Any]], bool], ...] = (
    _has("variance", "variance_ratio"),  # PCA
    lambda value: {"a", "b"} <= set(_parameters(value)),  # UMAP
    lambda value: "perplexity" in _parameters(value),  # t-SNE
    _has("params", "names", "scores"),  # ranked genes
    _has("linkage", "categories_ordered"),  # dendrogram
    _has("connectivities", "distances"),  # a graph of neighbours of old releases
)
