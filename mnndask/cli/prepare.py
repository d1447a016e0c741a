"""``mnndask correct`` of raw files: options that say how they are prepared while they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mnndask.engine.run_options import RunOptions
from mnndask.errors import InputError
from mnndask.io.prepare import Preparation, prepare_files
from mnndask.io.prepared import Prepared
from mnndask.stores.location import Location


@dataclass(frozen=True)
class PreparationOptions:
    """Options of the command that ask for files to be prepared, as they were given."""

    join: str | None
    gene_key: str | None
    counts: bool
    target_sum: float | None
    n_top_genes: int | None

    @property
    def wanted(self) -> bool:
        """Whether files are prepared. Otherwise they are corrected as they are."""
        return self.counts or any(
            option is not None for option in (self.join, self.gene_key, self.n_top_genes)
        )

    def check(self, *, names_genes: bool) -> None:
        """Refuse options that do not go together, before anything is read.

        Raises
        ------
        InputError
            If they do not.
        """
        if self.target_sum is not None and not self.counts:
            what = "--target-sum was given, but not --counts."
            raise InputError(what, "Give --counts, or leave out --target-sum.")
        if self.n_top_genes is not None and names_genes:
            what = "Both --n-top-genes and --hvg-key or --var-subset choose the genes used for distances."
            raise InputError(what, "Give only one of them.")
        if self.wanted:
            self.preparation(None, None)

    def preparation(self, batch_key: str | None, layer: str | None) -> Preparation:
        """Return these options with the defaults of :func:`mnndask.pp.open_batches`."""
        target_sum = 1e4 if self.target_sum is None else self.target_sum
        return Preparation(
            self.join or "inner", batch_key, layer, self.gene_key, self.counts, target_sum, self.n_top_genes
        )


def prepared_files(
    inputs: Sequence[Location],
    labels: Sequence[str],
    options: PreparationOptions,
    given: dict[str, Any],
    run: RunOptions,
) -> list[Prepared]:
    """Prepare the files. Options in `given` that this fulfils are taken out, and `var_subset` may be put in.

    Of columns for nested batches, the innermost says which batches a file has.
    """
    key = given["batch_key"] if isinstance(given["batch_key"], str) else given["batch_key"][-1]
    preparation = options.preparation(None if key == "batch" else key, given.pop("layer", None))
    prepared = prepare_files(inputs, labels, preparation, run)
    names = given.pop("batch_categories", None)
    if names is not None:
        if len(names) != len(prepared):
            what = f"batch_categories has {len(names)} name(s) for {len(prepared)} batches."
            raise InputError(what, "Give one name per batch, in input order.")
        prepared = [replace(one, batch=name) for one, name in zip(prepared, names, strict=True)]
    table = prepared[0].table
    if table is not None:
        given["var_subset"] = list(table.index[table["highly_variable"]])
    if len(inputs) == 1 and names is None:  # as one AnnData: cells keep their order and names
        return [replace(prepared[0], batch=None, value=None)]
    return prepared
