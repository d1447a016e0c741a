"""The algorithm: arrays in, arrays out. It knows neither dask nor files.

Mutual nearest neighbours correction (Haghverdi et al. 2018, Methods) merges batches one by one into a
reference, or as a tree, whose nodes are batches that are merged already. Most files are one step of it:

==== ======================================================= ================================================
Step What                                                    Where
==== ======================================================= ================================================
1    Cosine normalisation: cells are divided by their length :mod:`~mnndask.core.cosine` (lengths),
                                                             :mod:`~mnndask.core.gene_spaces` (*in* and *out*
                                                             space), :mod:`~mnndask.core.normalisation` (all
                                                             cells of a fit)
1'   Principal components, if distances are taken in those   :mod:`~mnndask.core.components`
2    The merge loop                                          :mod:`~mnndask.core.fit`,
                                                             :mod:`~mnndask.core.merge_order` (which merge
                                                             next), :mod:`~mnndask.core.automatic_order`,
                                                             :mod:`~mnndask.core.pair_counts` (by which that
                                                             is chosen),
                                                             :mod:`~mnndask.core.node` (sides of a merge)
3    Mutual nearest neighbours                               :mod:`~mnndask.core.pairs`,
                                                             :mod:`~mnndask.core.neighbors` (nearest of a
                                                             block of cells, ties)
3'   Refined: pairs found again after moving by them         :mod:`~mnndask.core.refined_pairs`
4    Anchor vectors: mean differences of pairs               :mod:`~mnndask.core.smoothing`
4'   Refined: both sides of a pair averaged                  :mod:`~mnndask.core.neighborhoods`,
                                                             :mod:`~mnndask.core.shrinkage`
4''  Refined: vectors shrunk by their own noise              :mod:`~mnndask.core.shrinkage`
5    Gaussian smoothing of the anchor vectors                :mod:`~mnndask.core.smoothing`
6    Angle of corrections to the reference's biology         :mod:`~mnndask.core.span`
7    Biological span, removed from the anchor vectors        :mod:`~mnndask.core.span`
8    Variance adjustment                                     :mod:`~mnndask.core.variance`,
                                                             :mod:`~mnndask.core.batch_weights` (ranks),
                                                             :mod:`~mnndask.core.quantile_search` (tile by
                                                             tile), :mod:`~mnndask.core.doubt` (what rounding
                                                             would decide)
9    Cells are corrected, and the reference grows by them    :mod:`~mnndask.core.correction` (the sum),
                                                             :mod:`~mnndask.core.step` (vectors of any
                                                             cells), :mod:`~mnndask.core.model` (any cells,
                                                             on genes or embedded),
                                                             :mod:`~mnndask.core.reference_growth`,
                                                             :mod:`~mnndask.core.reference`,
                                                             :mod:`~mnndask.core.held_once` (cells that steps
                                                             share), :mod:`~mnndask.core.known_factors`
==== ======================================================= ================================================

The steps run in the order 3, 4, 6, 7, 5, 8, 9: as smoothing is linear, spans may be removed before it. With
``refine=True``, those with primes follow theirs (:mod:`~mnndask.core.refinement`); they are no part of the
published method.

Begin with :func:`mnndask.core.fit.extend`, which merges two sides: its lines are steps 3 to 9. A fit leaves a
:class:`~mnndask.core.model.CorrectionModel`, which corrects any block of cells, and a
:class:`~mnndask.core.history.MergeHistory`. Genes that are not used for distances get their vectors
afterwards (:mod:`~mnndask.core.other_genes`).

A fit needs two things of its caller, both protocols: a workspace (:mod:`~mnndask.core.workspace`), where
matrices live and loops run, and the raw cells of each batch (:mod:`~mnndask.core.fit_cells`). Beside each
protocol is a class that works in memory. The method's parameters are in :mod:`~mnndask.core.parameters`.

Two files choose cells before a fit: :mod:`~mnndask.core.projection` and
:mod:`~mnndask.core.geometric_sketch`. The others are numerics: :mod:`~mnndask.core.arrays`,
:mod:`~mnndask.core.distances`, :mod:`~mnndask.core.svd`, :mod:`~mnndask.core.low_rank`, and compiled loops
(:mod:`mnndask.core.kernels`).

Words: *rows* are cells. A *block* is the rows that are worked on at once; a *tile* is the rows of a matrix
that are in memory at once. An *anchor* is a cell of the new batch that is in at least one pair (an MNN cell;
in Seurat, an anchor is a pair). *Fitted cells* are the cells that a fit uses: all, or a sketch of each batch.
"""
