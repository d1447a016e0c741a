"""What results are assembled from: options, and the annotations of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from anndata import AnnData

from mnndask.core.parameters import check_flag
from mnndask.engine.apply import Wanted
from mnndask.errors import InputError
from mnndask.io.annotations import Annotations
from mnndask.io.batch_column import batch_column
from mnndask.io.changes import Changes, at
from mnndask.io.derived import Element, derived_elements
from mnndask.io.joined import joined_colours
from mnndask.io.keys import storable_keys
from mnndask.io.opened_inputs import Inputs, check_text, joined_key
from mnndask.io.record import COLUMNS, EMBEDDING_KEY, SAMPLED
from mnndask.io.record_checks import OF_GENES, SIGNS_CHANGED
from mnndask.stores.read_errors import reading

EACH = ("obsm", "varm", "obsp", "uns")  # slots with derived elements that a result of one AnnData keeps
JOINED = ("obsm", "varm")  # and one of several


@dataclass(frozen=True)
class Packing:
    """Options for assembling results; see :func:`mnndask.mnn_correct`."""

    batch_key: str = "batch"  # several are joined
    index_unique: str | None = "-"
    do_concatenate: bool = True
    save_raw: bool = False
    keep_derived: bool = False
    layer_added: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_key", joined_key(self.batch_key))
        check_text("batch_key", self.batch_key)
        check_text("index_unique", self.index_unique, optional=True)
        check_flag("do_concatenate", self.do_concatenate)
        check_flag("save_raw", self.save_raw)
        check_flag("keep_derived", self.keep_derived)
        check_text("layer_added", self.layer_added, optional=True)
        if self.layer_added is not None and storable_keys([[self.layer_added]]) != [[self.layer_added]]:
            what = f"layer_added is {self.layer_added!r}, a name that stores do not allow."
            raise InputError(what, "Give a name without slashes.")
        if self.batch_key.casefold() in COLUMNS:
            about = "numbers the cells of its sample"
            if self.batch_key.casefold() != SAMPLED:
                about = "writes the support of cells"
            what = f"batch_key is {self.batch_key!r}, a column in which mnndask {about}."
            raise InputError(what, "Name another column.")

    def around(self, annotations: Annotations, corrected: Any, own: Any) -> AnnData:
        """Return an AnnData of corrected values in ``X``, or in a layer beside the input's `own` ``X``."""
        if self.layer_added is None:
            return annotations.around(corrected)
        out = annotations.around(own)
        if corrected is not None:
            out.layers[self.layer_added] = corrected
        return out

    def joins(self, inputs: Inputs) -> bool:
        """Whether several AnnData become one."""
        return self.do_concatenate and inputs.codes is None


@dataclass(frozen=True)
class Given:
    """Everything from which results are assembled, except their values.

    Parameters
    ----------
    inputs, frames
        The inputs, and their AnnData.
    packing
        Options for assembling results.
    wanted
        Whether results have corrected genes, and an embedding.
    annotations
        Annotations of each AnnData.
    key, labels
        Name of the column that names the batches, and its values for each AnnData.
    changes
        Changes to that column, and what is left out of all inputs.
    """

    inputs: Inputs
    frames: Sequence[Any]
    packing: Packing
    wanted: Wanted
    annotations: list[Annotations]
    key: str
    labels: list[Any]
    changes: Changes

    @classmethod
    def of(cls, inputs: Inputs, frames: Sequence[Any], packing: Packing, wanted: Wanted) -> Given:
        """Read the annotations of the inputs, whose AnnData are `frames`."""
        annotations, changes = [], Changes()
        none: list[set[Element]] = [set() for _ in frames]
        derived = none if packing.keep_derived else derived_elements(frames)
        replaced = [_replaced(frame) for frame in frames] if wanted.embedding else none
        for i, (frame, label) in enumerate(zip(frames, inputs.labels, strict=True)):
            with reading(label, "its annotations"):
                of_frame = Annotations.of(frame, derived[i] | replaced[i], layers=wanted.genes)
            annotations.append(_without_numbers(of_frame, changes))
        kept = JOINED if packing.joins(inputs) else EACH
        left = dict.fromkeys(e for i, one in enumerate(derived) for e in one - replaced[i] if e[0] in kept)
        changes.derived += sorted(at(*element) for element in left)
        key, labels = batch_column(inputs, [one.obs for one in annotations], packing.batch_key, changes)
        return cls(inputs, frames, packing, wanted, annotations, key, labels, changes)

    def note(self, changes: Changes) -> None:
        """Add what concerns all inputs; changes to the column that the batch column replaces are dropped."""
        place = at("obs", self.packing.batch_key)
        for noted, of_column in (
            (changes.left_out, self.changes.left_out),
            (changes.converted, self.changes.converted),
        ):
            noted.pop(place, None)
            noted.update(of_column)
        changes.renamed.update(self.changes.renamed)
        changes.derived += self.changes.derived

    def colours(self) -> dict[str, Any]:
        """Return the colours of the batches, if several AnnData have them."""
        table = pd.DataFrame({self.key: pd.Categorical([], dtype=self.labels[0].dtype)})
        return joined_colours(self.annotations, table, self.packing.batch_key)


def _replaced(frame: Any) -> set[Element]:
    """Embeddings by an earlier correction, in the place of which results have their own."""
    return {("obsm", key) for key in frame.obsm if str(key).casefold() == EMBEDDING_KEY.casefold()}


def _without_numbers(annotations: Annotations, changes: Changes) -> Annotations:
    """Drop the columns that an earlier correction added; the new result has its own."""
    of_genes = [name for name in annotations.var if str(name).casefold() in {*OF_GENES, SIGNS_CHANGED}]
    if of_genes:
        annotations = replace(annotations, var=annotations.var.drop(columns=of_genes))
    taken = [str(name).casefold() in COLUMNS for name in annotations.obs]
    if not any(taken):
        return annotations
    for name, column in annotations.obs.loc[:, taken].items():
        if column.dtype.kind != COLUMNS.get(str(name)):
            changes.left_out[at("obs", name)] = "mnndask writes a column of this name"
    return replace(annotations, obs=annotations.obs.loc[:, [not is_taken for is_taken in taken]])
