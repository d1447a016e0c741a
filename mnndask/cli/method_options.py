"""Options of ``mnndask correct`` that are parameters of the method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mnndask._choices import SVD_MODES
from mnndask.cli.types import NumberList

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

METHOD: tuple[Decorator, ...] = (  # parameters of the method
    click.option(
        "--recommended",
        is_flag=True,
        help="Use --n-components 50 -k 10 --sigma 0.15 --no-var-adj --refine, but for those of these options "
        "that are given. Mixes better than the published settings, the defaults.",
    ),
    click.option(
        "--refine/--no-refine",
        default=False,
        show_default=True,
        help="Find pairs again after moving by them, average both sides, shrink vectors by their noise.",
    ),
    click.option(
        "--n-components",
        type=int,
        help="Compute distances in this many principal components, e.g. 50.  [default: in genes]",
    ),
    click.option(
        "-k",
        "--k",
        "k",
        type=int,
        default=20,
        show_default=True,
        help="Number of neighbours. Without --refine, many in components (100) move what should stay.",
    ),
    click.option(
        "--sigma",
        type=float,
        default=1.0,
        show_default=True,
        help="Divisor of squared distances in smoothing. Without --refine, a small one in genes (0.1) moves "
        "what should stay.",
    ),
    click.option(
        "--cos-norm-in/--no-cos-norm-in",
        default=True,
        show_default=True,
        help="Divide each cell by its length for distances.",
    ),
    click.option(
        "--cos-norm-out/--no-cos-norm-out",
        default=True,
        show_default=True,
        help="Divide each cell by its length in the result.",
    ),
    click.option(
        "--var-adj/--no-var-adj",
        default=True,
        show_default=True,
        help="Lengthen corrections so that cells keep their rank.",
    ),
    click.option(
        "--svd-dim",
        type=int,
        help="Biological dimensions along which cells are not corrected.  [default: none]",
    ),
    click.option(
        "--svd-mode",
        type=click.Choice(SVD_MODES),
        default="rsvd",
        show_default=True,
        help="Solver for these.",
    ),
    click.option(
        "--compute-angle",
        is_flag=True,
        help="Write the angle between corrections and the reference's biology to obs['mnn_angle'].",
    ),
    click.option(
        "--pair-averaging",
        type=int,
        help="Cells whose mean stands for a cell of a pair (--refine).  [default: a hundredth, 10 to 50]",
    ),
    click.option(
        "--repair-sigmas",
        type=NumberList(),
        help="Values of --sigma with which pairs are found again (--refine).  [default: 1.0,0.3, and 0.15 if "
        "both sides have 2,000 cells]",
    ),
    click.option(
        "--shrinkage",
        type=float,
        default=1.0,
        show_default=True,
        help="How much of their noise vectors are shrunk by; 0 for none (--refine).",
    ),
    click.option("--ncv", type=int, help="Lanczos vectors (irlb)."),
    click.option("--tol", type=float, help="Accuracy of singular values (irlb)."),
    click.option("--maxiter", type=int, help="Largest number of restarts (irlb)."),
    click.option(
        "--random-state",
        type=int,
        default=0,
        show_default=True,
        help="Seed of the sketch and of the iterative solvers.",
    ),
)
