"""Options of ``mnndask correct``, in the order in which its help lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mnndask._choices import GENES, SKETCH_METHODS
from mnndask.cli.method_options import METHOD, Decorator
from mnndask.cli.types import (
    Columns,
    ColumnValues,
    CommaList,
    MergeOrder,
    SketchSize,
    StoreLocation,
)

FILES: tuple[Decorator, ...] = (  # inputs, output and report
    click.argument("inputs", nargs=-1, required=True, type=StoreLocation(), metavar="INPUT..."),
    click.option(
        "-o",
        "--output",
        required=True,
        type=StoreLocation(),
        help="Store to write: .zarr, or .h5ad on this machine.",
    ),
    click.option(
        "--report",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Also write a report with plots and measures of the correction (.html).",
    ),
    click.option("--label", metavar="COLUMN", help="Column of obs with cell types, for the report."),
    click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
    click.option(
        "--resume",
        is_flag=True,
        help="Continue an output that the same command left unfinished, unless names, sizes or times of "
        "files of the inputs have changed, also behind links. Leave a complete one as it is.",
    ),
)
DATA: tuple[Decorator, ...] = (  # batches, and the genes and cells to fit on
    click.option(
        "--batch-key",
        type=Columns(),
        default="batch",
        show_default=True,
        help="Column of obs with the batch of each cell; several, from the outermost, for nested batches.",
    ),
    click.option(
        "--batch-categories",
        type=CommaList(),
        help="Names of the batches, in input order.  [default: values of --batch-key, else file names]",
    ),
    click.option(
        "--mnn-order",
        type=MergeOrder(),
        help="Names of the batches in merge order, the first being the reference; nested lists in JSON for a "
        "tree; auto, share or tree: as their mutual pairs decide.  [default: input order]",
    ),
    click.option(
        "--join",
        metavar="HOW",
        help="Align genes by name: inner keeps those that all inputs have, in the order of the first.  "
        "[default: genes must be equal; with the next three options, inner]",
    ),
    click.option(
        "--gene-key",
        metavar="COLUMN",
        help="Column of var with the names of the genes, e.g. gene_symbols.  [default: var_names]",
    ),
    click.option(
        "--counts",
        is_flag=True,
        help="The expression consists of counts: scale each cell to --target-sum, take log(1 + x).",
    ),
    click.option(
        "--n-top-genes",
        type=int,
        help="Use the genes that vary most within batches for distances, e.g. 2000; marked in var.",
    ),
    click.option(
        "--target-sum", type=float, help="Sum over all genes to which --counts scales a cell.  [default: 1e4]"
    ),
    click.option(
        "--hvg-key",
        metavar="COLUMN",
        help="Use the genes that this column of var marks in every input for distances.",
    ),
    click.option(
        "--var-subset",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Use the genes named in this file, one per line, for distances.",
    ),
    click.option("--layer", metavar="NAME", help="Layer with the expression.  [default: X]"),
    click.option(
        "--restrict-key",
        "--restrict",
        "restrict",
        type=ColumnValues(),
        help="Fit on the cells that this column of obs marks, or that have these values in it; correct all.",
    ),
    click.option(
        "--within",
        metavar="COLUMN",
        help="Correct only inside the groups of batches that this column of obs names, such as tissues.",
    ),
    click.option(
        "--protect",
        metavar="COLUMN",
        help="Warn if this column of obs, such as a condition, cannot be told from the batches.",
    ),
    click.option(
        "--sketch-size",
        type=SketchSize(),
        default="auto",
        show_default=True,
        help="Most cells per batch to fit on; auto: all if that takes up to about a minute, else 5,000, of "
        "many batches fewer.",
    ),
    click.option(
        "--sketch-method",
        type=click.Choice(SKETCH_METHODS),
        default="mixed",
        show_default=True,
        help="Draw these cells at random, evenly over the space that cells occupy, or half in each way.",
    ),
)
RESULT: tuple[Decorator, ...] = (  # what is written
    click.option(
        "--genes",
        type=click.Choice(GENES),
        default="all",
        show_default=True,
        help="Write all genes, or only those used for distances; or none: the cells in components alone.",
    ),
    click.option(
        "--layer-added",
        metavar="NAME",
        help="Write corrected values to this layer, and X as it is in the inputs.  [default: to X]",
    ),
    click.option(
        "--keep-derived",
        is_flag=True,
        help="Keep PCA, UMAP, graphs of neighbours and the like of the uncorrected values.",
    ),
    click.option(
        "--chunk-genes",
        type=int,
        metavar="NUMBER",
        help="Store corrected genes in chunks of so many, e.g. 200, so that one can be read alone: that of a "
        "million cells in about a second.  [default: chunks of all genes]",
    ),
    click.option("--save-raw", is_flag=True, help="Keep the uncorrected values in raw."),
    click.option(
        "--index-unique",
        default="-",
        show_default=True,
        metavar="TEXT",
        help="Text between the names of a cell and its batch; empty leaves cell names unchanged.",
    ),
    click.option(
        "--diagnostics/--no-diagnostics",
        default=True,
        show_default=True,
        help="Measure the correction, for info and report.",
    ),
)
RUN: tuple[Decorator, ...] = (  # memory, threads and clusters
    click.option(
        "--memory-limit",
        metavar="SIZE",
        help="Memory for the work, e.g. 2GB, besides that of loading mnndask.  [default: all that is free "
        "for this job or group]",
    ),
    click.option(
        "--scratch",
        type=StoreLocation(),
        help="Folder or URL for data that does not fit in memory.  [default: the system's folder]",
    ),
    click.option("--n-jobs", type=int, help="Number of threads.  [default: all processors of this job]"),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Run on the dask cluster at this address, e.g. tcp://host:8786, instead of local threads.",
    ),
    click.option(
        "--scheduler-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="The same, with the file that the scheduler wrote: dask scheduler --scheduler-file FILE.",
    ),
    click.option(
        "--worker-timeout",
        metavar="TIME",
        help="Stop if that cluster has no workers for so long, e.g. 30min.  [default: wait for them]",
    ),
    click.option(
        "-q", "--quiet", is_flag=True, help="Print only errors and warnings, no progress and no summary."
    ),
)


def parameters() -> list[click.Parameter]:
    """Return the parameters of the command."""
    return click.command()(options_of_correct(lambda **_: None)).params


def options_of_correct(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options to the command."""
    for option in reversed((*FILES, *DATA, *METHOD, *RESULT, *RUN)):
        function = option(function)
    return function
