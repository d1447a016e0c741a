"""Headings of the report's tables, and a plain definition of each number."""

from __future__ import annotations

OF_STEPS = {
    "batch": "batch",
    "n_cells": "cells",
    "n_used": "cells used",
    "n_pairs": "pairs",
    "paired": "cells with a pair",
    "paired_reference": "of batches merged before",
    "support": "support",
    "length_median": "correction length, median",
    "length_95": "95 %",
    "lengthened": "variance factor > 1",
    "angle": "angle to biology (°)",
    "lost_variance": "variance lost",
    "mixing_before": "mixing before",
    "mixing_after": "mixing after",
}
STEPS_MEAN = {
    "cells used": "Cells of the batch that the correction was fitted on. All cells are corrected.",
    "pairs": (
        "Mutual nearest neighbours: a cell of the batch and a cell of a batch merged before it, each among "
        "the nearest k of the other."
    ),
    "cells with a pair": (
        "Share of the batch's cells used that are in at least one pair. The other cells follow those "
        "nearest to them."
    ),
    "of batches merged before": "The same share, of the cells that the batch was merged into.",
    "correction length, median; 95 %": (
        "How far cells were moved, in the units of the corrected values: half of the cells less than the "
        "first figure, 95 % less than the second."
    ),
    "variance factor > 1": (
        "Share of the cells whose correction was lengthened, so that they keep their rank."
    ),
    "angle to biology": (
        "Median angle between corrections and the two directions in which the reference varies most. The "
        "method assumes nearly 90°."
    ),
    "variance lost": (
        "Share of the batch's variance that the correction removed along its own direction, like "
        "batchelor's lost.var. Above 10 %, biology may have been removed with the batch effect."
    ),
    "mixing": (
        "Share of the neighbours of the batch's cells that are from batches merged before it, relative to "
        "chance: 1 if mixed at random, 0 if apart. It is below 1, too, where the batch has cell types of "
        "its own."
    ),
}
SUPPORT_MEANS = {
    "support": (
        "Share of cells with a pair among the 20 nearest cells used of the batch, on average. Below 0.5, a "
        "cell type may be absent from the reference. It is a hint only: cells that were shifted far, or of "
        "which the reference has far fewer, have little support, too."
    ),
}

OF_MIXING = {
    "cells": "cells",
    "expected": "by chance",
    "before": "before",
    "after": "after",
    "excess_after": "excess after",
    "neighbors_kept": "neighbours kept",
    "contraction": "contraction",
}
MIXING_MEANS = {
    "cells": "Cells of the batch that the measures are based on.",
    "by chance": "Share of these cells that are from the batch: what mixing at random would give.",
    "before, after": "Share of the nearest neighbours of the batch's cells that are from the batch.",
    "excess after": "That share after correction beyond chance: 0 if mixed at random, 1 if apart.",
    "neighbours kept": "Share of a cell's nearest neighbours in its batch that still are.",
    "contraction": (
        "Distance to nearby cells of the batch after correction over that before. Below 1, the batch was "
        "drawn together."
    ),
}

MEASURES = {
    "same_batch": "same batch",
    "same_batch_ratio": "same batch, relative to chance",
    "lisi": "batches around a cell (LISI)",
    "neighbors_kept": "neighbours kept",
    "contraction": "contraction",
    "label_agreement": "agreement of labels",
    "label_transfer": "transfer of labels",
}
MEASURES_MEAN = {
    "same_batch": "Mean share of a cell's nearest neighbours that are from its own batch.",
    "same_batch_ratio": "That share over the share expected if batches were mixed at random.",
    "lisi": "Median effective number of batches in a cell's neighbourhood, the local inverse Simpson index.",
    "neighbors_kept": "Mean share of a cell's nearest neighbours in its batch that still are.",
    "contraction": "Median distance to nearby cells of the batch after correction over that before.",
    "label_agreement": "Mean share of a cell's nearest neighbours that have its label.",
    "label_transfer": "Share of cells whose label the nearest cells of other batches predict.",
}
STATES = {
    "meaning": "what it is",
    "before": "before",
    "after": "after",
    "ideal": "ideal",
    "worst_batch": "worst batch",
    "worst": "its value",
}
STATES_MEAN = {
    "ideal": "The value of a perfect correction.",
    "worst batch": "The batch whose value after correction is farthest from its ideal.",
}

OF_LABELS = {
    "cells": "cells",
    "batches": "batches",
    "agreement_before": "agreement before",
    "agreement_after": "after",
    "transfer_before": "transfer before",
    "transfer_after": "after",
}
LABELS_MEAN = {
    "cells, batches": "Cells with the label that the measures are based on, and the batches that have it.",
    "agreement": (
        "Share of their nearest neighbours that have the label. If it falls, cell types were merged."
    ),
    "transfer": (
        "Share of them whose label the nearest cells of other batches predict. Empty if no other batch has "
        "the label."
    ),
}

PARAMETERS_MEAN = {
    "k": "nearest neighbours that are searched for pairs",
    "sigma": "divisor of squared distances in smoothing: the larger, the more cells share a correction",
    "cos_norm_in": "whether each cell is divided by its length for distances",
    "cos_norm_out": "whether each cell is divided by its length in the result",
    "svd_dim": "biological dimensions along which cells are not corrected",
    "svd_mode": "solver for these dimensions and for components",
    "var_adj": "whether corrections are lengthened so that cells keep their rank",
    "compute_angle": "whether the angle of each correction to biology was returned",
    "mnn_order": "order in which batches were merged: the first is the reference; nested: a tree; or how "
    "mutual pairs decided",
    "nested_batch_key": "columns of obs that batch_key joins, from the outermost: nested batches merge first",
    "within": "column of obs with groups of batches that were corrected apart",
    "protect": "column of obs that must not be taken for batch",
    "n_components": "principal components that distances are computed in",
    "sketch_size": "most cells of a batch that the correction is fitted on",
    "sketch_method": "how these cells are drawn",
    "var_subset": "genes used for distances",
    "batch_key": "column of obs with the batch of each cell",
    "batch_categories": "names of the batches",
    "layer": "layer that was read, instead of X",
    "layer_added": "layer with the corrected values, instead of X",
    "genes": "genes of the result: all, or the subset used for distances",
    "random_state": "seed of all that is drawn at random",
}

OF_CONDITIONS = {
    "cells": "cells",
    "condition": "condition",
    "n_batches": "batches with both",
    "correlation": "correlation",
    "length": "length",
}
CONDITIONS_MEAN = {
    "correlation": "of the differences between the conditions before and after the correction, on leading "
    "components: 1 if their direction is the same. Batches that contain both conditions count.",
    "length": "of the difference after, over that before: 1 if the correction left it as it was.",
}
